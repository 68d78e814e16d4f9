"""Worker processes that may die of a file without taking the run with them.

`concurrent.futures` gives up all work when one process crashes, and its workers outlive a parent
that was killed. Here each process has one video at a time: when it dies, that video is known, and a
new process takes its place; when the parent dies, they end.
"""

import contextlib
import multiprocessing
import pickle
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any

from masm_jax.errors import UserError
from masm_jax.parallel import parents

_ATTEMPTS = 2  # A process that the system ended (memory) deserves a second one.


class Died(Exception):
  """A worker died over a task, twice."""


class _Worker:
  """One process and the pipe to it."""

  def __init__(
    self,
    make: Callable[..., Callable[[Any], Any]],
    args: tuple[Any, ...],
    max_memory_bytes: int | None,
  ):
    context = multiprocessing.get_context('spawn')
    self.pipe, far_end = context.Pipe()
    # Read when the process watches its parent already: to import what it needs takes seconds.
    work = pickle.dumps((make, args, max_memory_bytes))
    self._process = context.Process(target=_serve, args=(far_end, work), daemon=True)
    with parents.deaf_to_ctrl_c():
      self._process.start()
    far_end.close()
    self.task: tuple[Any, int] | None = None  # With the count of attempts before.

  def give(self, task: tuple[Any, int]) -> None:
    self.task = task
    with contextlib.suppress(OSError):  # It died between two tasks: its pipe now reads as ended.
      self.pipe.send(task[0])

  def death(self) -> str:
    self._process.join()
    code = self._process.exitcode or 0
    return f'signal {signal.Signals(-code).name}' if code < 0 else f'exit status {code}'

  def stop(self) -> None:
    self._process.terminate()
    self._process.join()
    self.pipe.close()


def run(
  tasks: Iterable[Any],
  make: Callable[..., Callable[[Any], Any]],
  args: tuple[Any, ...],
  *,
  num_processes: int,
  max_memory_bytes: int | None = None,
) -> Iterator[tuple[Any, Any]]:
  """Does tasks in spawned processes; yields (task, result) as they are done, in any order.

  A task over which two processes have died gives a `Died` as its result.

  Args:
    tasks: what to do; each is pickled.
    make: called with `args` in each process; gives the function that does a task.
    args: pickled.
    num_processes: 0 does all in this process, in order.
    max_memory_bytes: what each spawned process may take, once it has made its function; what asks
      for more meets a MemoryError, or ends the process. On Linux alone.

  Raises:
    UserError: what a task or `make` raised; other exceptions are raised likewise.
  """
  if num_processes == 0:
    do = make(*args)
    for task in tasks:
      yield task, do(task)
    return
  waiting = iter(tasks)
  workers: list[_Worker] = []
  try:
    for task in waiting:
      workers.append(_Worker(make, args, max_memory_bytes))
      workers[-1].give((task, 0))
      if len(workers) == num_processes:
        break
    while workers:
      ready = connection.wait([worker.pipe for worker in workers])
      for worker in [worker for worker in workers if worker.pipe in ready]:
        assert worker.task is not None
        task, attempts = worker.task
        try:
          result = worker.pipe.recv()
        except (EOFError, OSError):
          death = worker.death()
          worker.stop()
          workers.remove(worker)
          workers.append(_Worker(make, args, max_memory_bytes))
          if attempts + 1 < _ATTEMPTS:
            workers[-1].give((task, attempts + 1))
            continue
          worker, result = workers[-1], Died(death)
        if isinstance(result, Exception) and not isinstance(result, Died):
          raise result
        yield task, result
        following = next(waiting, _END)
        if following is _END:
          worker.stop()
          workers.remove(worker)
        else:
          worker.give((following, 0))
  finally:
    for worker in workers:
      worker.stop()


_END = object()


def _serve(pipe: connection.Connection, work: bytes) -> None:
  """The life of a worker process; `work` is what makes its function, pickled."""
  parents.end_with_parent()
  try:
    make, args, max_memory_bytes = pickle.loads(work)
    do = make(*args)
    if max_memory_bytes is not None:
      _limit_memory(max_memory_bytes)
    while True:
      pipe.send(do(pipe.recv()))
  except (EOFError, OSError):
    return  # The parent is gone.
  except Exception as error:
    # Not every exception survives pickling: its text does.
    known = isinstance(error, UserError)
    pipe.send(error if known else RuntimeError(f'{type(error).__name__}: {error}'))


def _limit_memory(more_bytes: int) -> None:
  """Lets this process have so much memory beside what it has now."""
  try:
    with open('/proc/self/statm') as file:
      taken = int(file.read().split()[5]) * resource.getpagesize()
  except OSError:  # No Linux: elsewhere the limit is not held either.
    return
  _, hard = resource.getrlimit(resource.RLIMIT_DATA)
  wanted = taken + more_bytes
  limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
  resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
