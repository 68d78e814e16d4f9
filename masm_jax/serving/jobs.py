"""The life of a job: accepted, queued, under way, ended; told to whoever listens.

Everything here runs in the event loop of the server, but for the store's calls (threads) and the
engine's (its own).
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from masm_jax.serving.counters import Counters
from masm_jax.serving.problems import Problem
from masm_jax.serving.store import Job, Store

# A file on which the server died that often gets no further try: it may be the file that does it.
MAX_ATTEMPTS = 5
_SWEEP_S = 60.0
_RETRY_S = 5.0
_CRASHED = 'The server ended {} times while it worked on this file, so it is not tried again.'
_FAILED = 'An error of the server: no answer could be made. Its log says why.'

T = TypeVar('T')
Progress = dict[str, Any]  # `stage`, and the `share` of it that is done.


class Scorer(Protocol):
  """What the jobs need of `prediction.engine`."""

  @property
  def num_faces(self) -> int:
    """How many faces were scored so far."""
    ...

  def submit(
    self, path: pathlib.Path, name: str, on_progress: Callable[[str, float], None]
  ) -> concurrent.futures.Future['Result']:
    """Begins a file; the callback may come from any thread."""
    ...


@dataclasses.dataclass(frozen=True)
class Result:
  """What becomes of a file.

  Attributes:
    answer: the document `masm_jax/prediction/1`.
    pictures: JPEG files for the page, by name.
  """

  answer: Mapping[str, Any]
  pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


class _Live:
  """An open job: how far it is, and whoever waits for news of it."""

  def __init__(self) -> None:
    self.progress: Progress | None = None
    self.news = asyncio.Event()
    self.future: asyncio.Future | None = None

  def tell(self) -> None:
    """Wakes all who listen; each reads what is the case then, so that nobody falls behind."""
    self.news.set()
    self.news = asyncio.Event()


class Jobs:
  """The queue of one server."""

  def __init__(
    self,
    store: Store,
    scorer: Scorer,
    counters: Counters,
    *,
    limit: int,
    workers: int,
    keep_s: float,
  ):
    """A queue; `running` starts it.

    Args:
      store: of the jobs.
      scorer: makes the answers.
      counters: of the server.
      limit: open jobs (arriving, queued, running) at which uploads are refused.
      workers: jobs that are given to the scorer at a time.
      keep_s: seconds after its end at which a job is deleted.
    """
    self.store, self._scorer, self._counters = store, scorer, counters
    self.limit, self.keep_s = limit, keep_s
    self._workers = workers
    self._arriving = 0
    self._waiting: OrderedDict[str, None] = OrderedDict()
    self._live: dict[str, _Live] = {}
    self._ready = asyncio.Semaphore(0)
    self._mean_s = 1.0
    self.is_stopping = False
    self.stopped = asyncio.Event()

  @contextlib.asynccontextmanager
  async def running(self) -> AsyncIterator[None]:
    """Within it jobs are worked on; those that an earlier server left come first.

    Jobs that are open at its end stay in the store, for the next server.
    """
    self._loop = asyncio.get_running_loop()
    await asyncio.to_thread(self.store.remove_strays)
    for job_id in await asyncio.to_thread(self.store.unfinished):
      self._enqueue(job_id)
    tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
    tasks.append(asyncio.create_task(self._sweep()))
    try:
      yield
    finally:
      self.stop()
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)

  def stop(self) -> None:
    """Takes no more jobs, begins none, and ends all waiting; what was accepted stays."""
    self.is_stopping = True
    self.stopped.set()

  @contextlib.contextmanager
  def place(self) -> Iterator[None]:
    """A place in the queue while an upload arrives; afterwards the accepted job holds it.

    Raises:
      Problem: 429 where the queue is full, 503 where the server stops.
    """
    if self.is_stopping:
      raise Problem(503, 'The server is stopping; try again in a moment.', retry_after_s=5)
    if len(self._live) + self._arriving >= self.limit:
      raise Problem(429, 'The queue is full; try again in a moment.', retry_after_s=self._wait_s())
    self._arriving += 1
    try:
      yield
    finally:
      self._arriving -= 1

  async def accept(self, job_id: str, name: str, size: int) -> Job:
    """Queues a job whose upload lies in the store; on return a kill cannot lose it."""
    job = await asyncio.to_thread(self.store.add, job_id, name, size)
    self._counters.accepted.inc()
    self._counters.received.inc(size)
    self._enqueue(job_id)
    return job

  async def delete(self, job_id: str) -> bool:
    """Deletes a job, whatever its state; False where there is none."""
    deleted = await asyncio.to_thread(self.store.delete, job_id)
    if live := self._live.get(job_id):
      if live.future:
        live.future.cancel()  # If it has begun, its answer finds no job and is dropped.
      else:
        self._close(job_id)
    return deleted

  def progress(self, job_id: str) -> Progress | None:
    """How far a job under way is, in the engine's words; None before the first."""
    live = self._live.get(job_id)
    return live.progress if live else None

  def position(self, job_id: str) -> int | None:
    """How many jobs wait before this one; None once it has begun."""
    if job_id not in self._waiting:
      return None
    return next(i for i, other in enumerate(self._waiting) if other == job_id)

  async def changes(self, job_id: str, *, every_s: float) -> AsyncIterator[Job | None]:
    """The job now, and again after each change until its end; None after `every_s` without one.

    Ends early when the server stops or the job is deleted.
    """
    while True:
      live = self._live.get(job_id)
      news = live.news if live else None
      job = await asyncio.to_thread(self.store.get, job_id)
      if job is None:
        return
      yield job
      # A job that is not live any more had its end written before: it was read above, or deleted.
      if job.is_over or news is None or self.is_stopping:
        return
      while not await self._heard(news, every_s):
        if self.is_stopping:
          return
        yield None

  async def _heard(self, news: asyncio.Event, within_s: float) -> bool:
    waits = [asyncio.ensure_future(event.wait()) for event in (news, self.stopped)]
    try:
      await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
      for wait in waits:
        wait.cancel()
    return news.is_set()

  def _wait_s(self) -> float:
    """When a place should be free: one job's time over those that run at once, in 1 to 60 s."""
    return min(60.0, max(1.0, self._mean_s / self._workers))

  def _enqueue(self, job_id: str) -> None:
    self._live[job_id] = _Live()
    self._waiting[job_id] = None
    self._counters.waiting.inc()
    self._ready.release()

  def _close(self, job_id: str) -> None:
    if self._waiting.pop(job_id, 0) is None:
      self._counters.waiting.dec()
    if live := self._live.pop(job_id, None):
      live.tell()

  async def _work(self) -> None:
    while True:
      await self._ready.acquire()
      if not self._waiting or self.is_stopping:  # Deleted meanwhile.
        continue
      job_id, _ = self._waiting.popitem(last=False)
      self._counters.waiting.dec()
      self._counters.running.inc()
      try:
        await self._run(job_id, self._live[job_id])
      except Exception:  # The job stays, for the next server.
        logging.exception('job %s', job_id)
      finally:
        self._counters.running.dec()
        if not self.is_stopping:
          self._close(job_id)

  async def _run(self, job_id: str, live: _Live) -> None:
    attempt = await self._stored(self.store.begin, job_id)
    job = await asyncio.to_thread(self.store.get, job_id)
    if not attempt or job is None:
      return
    if attempt > MAX_ATTEMPTS:
      await self._fail(job, _CRASHED.format(MAX_ATTEMPTS))
      return
    live.tell()
    start = time.monotonic()

    def told(stage: str, share: float) -> None:
      def note() -> None:
        live.progress = {'stage': stage, 'share': round(share, 3)}
        live.tell()

      with contextlib.suppress(RuntimeError):  # The loop is closed: the server has ended.
        self._loop.call_soon_threadsafe(note)

    try:
      future = self._scorer.submit(self.store.upload(job_id), job.name, told)
      live.future = asyncio.wrap_future(future)
      result: Result = await live.future
    except asyncio.CancelledError:
      if asyncio.current_task().cancelling():  # type: ignore[union-attr]
        raise  # The server stops; the job does not end.
      return  # The job was deleted.
    except Exception:
      if not self.is_stopping:  # An engine that closes ends its work with errors.
        logging.exception('job %s', job_id)
        await self._fail(job, _FAILED)
      return
    self._mean_s += 0.2 * (time.monotonic() - start - self._mean_s)
    if await self._stored(self.store.finish, job_id, result.answer, result.pictures):
      self._counters.ended.labels(str(result.answer['verdict'])).inc()
      self._counters.seconds.observe(time.time() - job.created)

  async def _stored(self, write: Callable[..., T], *arguments: Any) -> T:
    """What a write of the store gives; while the disk is full, it is tried again."""
    while True:
      try:
        return await asyncio.to_thread(write, *arguments)
      except OSError as error:
        logging.warning('the store cannot be written: %s; trying again', error.strerror or error)
        await asyncio.sleep(_RETRY_S)

  async def _fail(self, job: Job, error: str) -> None:
    if await self._stored(self.store.fail, job.id, error):
      self._counters.ended.labels('failed').inc()

  async def _sweep(self) -> None:
    while True:
      try:
        await asyncio.to_thread(self.store.delete_expired, time.time() - self.keep_s)
      except Exception:
        logging.exception('deleting old jobs')
      await asyncio.sleep(min(_SWEEP_S, max(1.0, self.keep_s / 2)))
