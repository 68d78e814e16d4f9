"""Runs a sweep on this machine, each run in a forked process.

A server process imports the program once and starts no device; each run is a fork of it. A run
that fails, is killed or takes the memory down with it harms no other.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from masm_jax import plain_files
from masm_jax.parallel import locks, parents, peers
from masm_jax.sweep import server
from masm_jax.sweep.plan import Progress, Run
from masm_jax.terminal import say

LOG = 'log.txt'
_GRACE_S = 1.0  # For what a killed sweep leaves.
_DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


@dataclasses.dataclass(frozen=True)
class Failure:
  """A run that did not finish, what it said last, and its exit status (negative for a signal)."""

  run: Run
  reason: str
  status: int


class Stopped(Exception):
  """A signal asked the sweep to stop; its runs have saved what they can.

  Attributes:
    signal_number: the signal.
  """

  def __init__(self, signal_number: int):
    super().__init__(signal_number)
    self.signal_number = signal_number


def exit_status(failures: Sequence[Failure]) -> int:
  """Of a sweep: 0; 2 where all that failed is the user's to mend, as for one run; otherwise 1."""
  if not failures:
    return 0
  return 2 if all(failure.status == peers.USER_STATUS for failure in failures) else 1


def run_all(runs: Sequence[Run], *, jobs: int, say: Callable[[str], None]) -> list[Failure]:
  """Does what is left of `runs`: finished ones are skipped, half-finished ones resume.

  Each run's output goes to `log.txt` in its directory.

  Args:
    runs: in the order in which they are started.
    jobs: how many at a time; without an accelerator each gets its share of the cores, since a run
      that shares cores with another wastes a good part of them.
    say: told of each run that is skipped, started, finished or failed, a line each.

  Returns:
    What failed; the other runs are finished.

  Raises:
    UserError: a directory that holds a run of another config; then nothing is started.
    Stopped: SIGINT or SIGTERM; the runs in progress were told, and have ended.
  """
  waiting = []
  for run in runs:
    if run.progress() is Progress.FINISHED:
      say(f'{run.name}: finished before')
    else:
      waiting.append(run)
  if not waiting:
    return []
  if any(run.config.deterministic for run in waiting):
    # Read by XLA when its first device starts, in the forks: `cli.start_jax` would come as late.
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DETERMINISTIC}'.strip()
  # Runs of a row share their programs: the second seed reads even the small ones from the disk.
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  shares = core_shares(jobs)
  done, total = len(runs) - len(waiting), len(runs)
  active: dict[Any, tuple[Run, Any, int, float]] = {}  # By sentinel: run, process, share, start.
  free = list(range(jobs))
  failures = []
  with _stoppable(lambda: [process for _, process, _, _ in active.values()]):
    while waiting or active:
      while waiting and free:
        run, share = waiting.pop(0), free.pop(0)
        how = 'resumes' if run.progress() is Progress.BEGUN else 'starts'
        say(f'{run.name}: {how}')
        process = start_process(_train, (run, shares[share]))
        active[process.sentinel] = run, process, share, time.monotonic()
      for sentinel in multiprocessing.connection.wait(list(active)):
        run, process, share, began = active.pop(sentinel)
        process.join()
        free.append(share)
        done += 1
        reason = _why_failed(run, process.exitcode)
        if reason:
          failures.append(Failure(run, reason, process.exitcode))
        outcome = f'FAILED, {reason}' if reason else 'finished'
        say(f'{run.name}: {outcome} after {time.monotonic() - began:.0f} s ({done} of {total})')
  return failures


def start_process(
  function: Callable[..., None], args: tuple
) -> multiprocessing.process.BaseProcess:
  """Starts `function(*args)` as a fork of a server process that has imported the program."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload([server.__name__])
  process = context.Process(target=function, args=args)
  os.environ[server.PARENT] = str(os.getpid())  # Read once, by the server.
  try:
    with parents.deaf_to_ctrl_c():  # With the server are its forks: they hear SIGTERM of the sweep.
      multiprocessing.forkserver.ensure_running()
    process.start()  # It waits until the server has imported everything: that Ctrl-C ends.
  finally:
    del os.environ[server.PARENT]
  return process


def run_alone(function: Callable[..., None], args: tuple) -> int:
  """Runs `function(*args)` in a process of its own; its exit status.

  Raises:
    Stopped: as `run_all`.
  """
  process = start_process(function, args)
  with _stoppable(lambda: [process]):
    process.join()
  return process.exitcode or 0


def core_shares(jobs: int) -> list[set[int] | None]:
  """The cores of each of `jobs` runs side by side; None where they need not be divided."""
  if jobs == 1 or not hasattr(os, 'sched_getaffinity'):
    return [None] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < jobs:
    return [None] * jobs
  return [set(cores[job::jobs]) for job in range(jobs)]


def _train(run: Run, cores: set[int] | None) -> None:
  """The process of one run: `python -m masm_jax.main` with its flags, and its own log."""
  from masm_jax import cli

  if cores:
    os.sched_setaffinity(0, cores)
  try:
    run.workdir.mkdir(parents=True, exist_ok=True)
    log_to(run.workdir / LOG)
  except OSError:  # The sweep says it, in one line.
    sys.exit(peers.USER_STATUS)
  end_with_parent()
  sys.exit(cli.exit_status(lambda: _train_alone(run)))


def _train_alone(run: Run) -> int:
  from masm_jax import cli, main

  # What a killed sweep has left may still be saving.
  with locks.held(run.workdir, waits=True):
    if run.progress() is Progress.FINISHED:  # By another process, while this one waited.
      return 0
    sys.argv = ['masm_jax.main', *run.flags()]
    say(f'$ python -m {shlex.join(sys.argv)}')
    cli.run(main.main)
  return 0


def log_to(path: pathlib.Path) -> None:
  """Appends what this process writes to stdout and stderr to a file."""
  sys.stdout.flush()
  sys.stderr.flush()
  with path.open('ab') as log:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def end_with_parent() -> None:
  """Sends this process SIGTERM when the one that asked for it is gone, so that it saves and ends.

  It ends after a second in any case: the last checkpoint is as good.

  A sweep that is killed leaves no run behind that would be in the way of the next attempt.
  """
  parent = multiprocessing.process.parent_process()
  if parent is None:
    return
  sentinel = parent.sentinel

  def watch() -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(128 + signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _stoppable(processes: Callable[[], list[Any]]) -> Iterator[None]:
  """SIGINT and SIGTERM are passed on to the processes; raises Stopped when they have ended."""

  def stop(signal_number: int, _: Any) -> None:
    raise Stopped(signal_number)

  before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  except Stopped:
    for number in before:
      signal.signal(number, signal.SIG_IGN)
    for process in processes():
      process.terminate()
    for process in processes():
      process.join()
    raise
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _why_failed(run: Run, status: int) -> str:
  """Why a process left its run unfinished; '' if it did not."""
  if status == 0 and run.progress() is Progress.FINISHED:
    return ''
  if status < 0:
    return f'killed by {signal.Signals(-status).name}'
  if status > 128:
    return f'stopped by {signal.Signals(status - 128).name}'
  return f'status {status}: {_last_words(run.workdir / LOG)}'


def _last_words(log: pathlib.Path) -> str:
  """The error line of a log's last attempt, or its last line."""
  try:
    content = plain_files.read_lines_file(log)
    attempt = content.decode('utf-8', errors='replace').rpartition('\n$ python')[2]
  except OSError:
    return 'it could write no log: is there room on the disk?'
  lines = [line.strip() for line in attempt.splitlines() if line.strip()]
  errors = [line for line in lines if re.match(r'error: ', line)]
  return (errors or lines or ['it wrote nothing'])[-1]
