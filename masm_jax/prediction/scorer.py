"""One thread that scores the faces of all open files, in batches that it fills across them.

A face's score may depend in its last bits on the shape of its batch, never on its neighbours. So
that answers repeat byte for byte whatever else is being scored, the shape depends on the kind of
file alone: single pictures go in small batches, which answer soon, and videos in full ones.
"""

import collections
import concurrent.futures
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Dispatch = Callable[[np.ndarray], Mapping[str, Any]]

SMALL_BATCH = 4
_LINGER_SECONDS = 0.2  # How long a batch waits for more faces while a file is still being cut.


@dataclasses.dataclass(frozen=True)
class Scored:
  """The results of some faces.

  Attributes:
    logits: float64 [N], log-odds of fake.
    features: float32 [N, D], or None where nobody asks for them.
    seconds: their share of the time that their batches took.
  """

  logits: np.ndarray
  features: np.ndarray | None
  seconds: float


class _Ticket:
  """Faces that came together, and what is known of them so far."""

  def __init__(self, crops: np.ndarray, batch_size: int):
    self.crops, self.batch_size = crops, batch_size
    self.future: concurrent.futures.Future[Scored] = concurrent.futures.Future()
    self.parts: list[tuple[np.ndarray, np.ndarray | None, float]] = []
    self.num_taken = self.num_done = 0
    self.came = time.monotonic()

  def add(self, logits: np.ndarray, features: np.ndarray | None, seconds: float) -> None:
    self.parts.append((logits, features, seconds))
    self.num_done += len(logits)
    if self.num_done == len(self.crops) and not self.future.done():
      found = [part[1] for part in self.parts]
      self.future.set_result(
        Scored(
          np.concatenate([part[0] for part in self.parts]).astype(np.float64),
          None if found[0] is None else np.concatenate([f for f in found if f is not None]),
          sum(part[2] for part in self.parts),
        )
      )


@dataclasses.dataclass(frozen=True)
class _Batch:
  """A batch that the device computes."""

  rows: list[tuple[_Ticket, int]]  # With how many faces of each.
  result: Mapping[str, Any]
  started: float


class Scorer:
  """Scores faces in a thread of its own.

  Args:
    dispatch: starts a batch, uint8 [B, S, S, 3] -> `logit` [B] and perhaps `feature` [B, D], which
      may still be under way.
    batch_size: B of videos.
    small_batch: B of single pictures.
    max_chunks: that wait; further ones hold up their reader, so that memory is bounded.
  """

  def __init__(
    self, dispatch: Dispatch, *, batch_size: int, small_batch: int, max_chunks: int = 16
  ):
    self._dispatch = dispatch
    self.batch_size, self.small_batch = batch_size, small_batch
    self._queue: queue.Queue[_Ticket | None] = queue.Queue(max_chunks)
    self._lock = threading.Lock()
    self._num_cutting = 0
    self._is_closed = False
    self._lanes: dict[int, collections.deque[_Ticket]] = {}
    self._in_flight: _Batch | None = None
    self.num_rows = self.num_batches = 0  # Scored so far, for metrics.
    self._thread = threading.Thread(target=self._run, name='scorer', daemon=True)
    self._thread.start()

  def submit(self, crops: np.ndarray, *, single: bool) -> concurrent.futures.Future[Scored]:
    """Scores faces, uint8 [N, S, S, 3], N > 0; waits while too many others wait.

    Args:
      crops: see above.
      single: whether they are of a single picture.
    """
    ticket = _Ticket(crops, self.small_batch if single else self.batch_size)
    self._queue.put(ticket)
    return ticket.future

  def more_will_come(self, change: int) -> None:
    """Told with 1 when the first faces of a file come, and with -1 after its last ones."""
    with self._lock:
      self._num_cutting += change
    if change < 0:
      self._queue.put(None)  # Wakes the thread: what waits may wait for nothing.

  def close(self) -> None:
    """Ends the thread once all is scored."""
    self._is_closed = True
    self._queue.put(None)
    self._thread.join()

  def _run(self) -> None:
    while True:
      try:
        ticket = self._queue.get(timeout=self._patience())
        if ticket is not None:
          self._lanes.setdefault(ticket.batch_size, collections.deque()).append(ticket)
          self._run_full()
          continue
        if self._is_closed and self._queue.empty():
          self._drain()
          return
        if self._queue.empty() and not self._num_cutting:
          self._drain()
      except queue.Empty:
        self._drain()

  def _patience(self) -> float | None:
    """Seconds until what waits is scored in a batch that is not full; None for ever."""
    if not any(self._lanes.values()):
      return 0.0 if self._in_flight else None
    return _LINGER_SECONDS if self._num_cutting else 0.0

  def _run_full(self) -> None:
    for size, lane in self._lanes.items():
      while sum(len(ticket.crops) - ticket.num_taken for ticket in lane) >= size:
        self._run_batch(size, lane)
      # A single picture is not kept waiting by videos that never leave the thread idle.
      if lane and time.monotonic() - lane[0].came > _LINGER_SECONDS:
        self._run_batch(size, lane)

  def _drain(self) -> None:
    """Scores what waits, and waits for the results."""
    for size, lane in self._lanes.items():
      if lane:
        self._run_batch(size, lane)
    self._finish()

  def _run_batch(self, size: int, lane: collections.deque[_Ticket]) -> None:
    """Starts a batch of the first faces of a lane, padded with black."""
    batch = np.zeros((size, *lane[0].crops.shape[1:]), np.uint8)
    rows: list[tuple[_Ticket, int]] = []
    filled = 0
    while lane and filled < size:
      ticket = lane[0]
      count = min(size - filled, len(ticket.crops) - ticket.num_taken)
      batch[filled : filled + count] = ticket.crops[ticket.num_taken : ticket.num_taken + count]
      ticket.num_taken += count
      filled += count
      rows.append((ticket, count))
      if ticket.num_taken == len(ticket.crops):
        lane.popleft()
    started = time.monotonic()
    try:
      result = self._dispatch(batch)
    except Exception as error:
      self._fail(rows, error)
      return
    self.num_rows, self.num_batches = self.num_rows + filled, self.num_batches + 1
    self._finish()  # One batch in flight: this one is computed while the last one is handed out.
    self._in_flight = _Batch(rows, result, started)

  def _finish(self) -> None:
    batch, self._in_flight = self._in_flight, None
    if batch is None:
      return
    try:
      logits = np.asarray(batch.result['logit'])
      features = np.asarray(batch.result['feature']) if 'feature' in batch.result else None
    except Exception as error:
      self._fail(batch.rows, error)
      return
    seconds = (time.monotonic() - batch.started) / sum(count for _, count in batch.rows)
    start = 0
    for ticket, count in batch.rows:
      part = slice(start, start + count)
      own = features[part] if features is not None else None
      ticket.add(logits[part], own, count * seconds)
      start += count

  @staticmethod
  def _fail(rows: list[tuple[_Ticket, int]], error: Exception) -> None:
    for ticket, _ in rows:
      if not ticket.future.done():
        ticket.future.set_exception(error)
