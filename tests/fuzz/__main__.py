"""Attacks the borders for as long as one likes: `python -m tests.fuzz --hours 2`.

Each border is tried in a process of its own, for a while, by turns, with seeds that were not used
before. A case that raises, hangs, kills its process or takes too much memory is stored with what it
did, below --out; `python -m tests.fuzz --replay FOLDER` tries it again.
"""

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from typing import Any

import hypothesis
from hypothesis import HealthCheck

from tests.fuzz.border import MAX_MEMORY_BYTES, MAX_SECONDS, Border, Case, run_case, with_pipes

_TURN_SECONDS = float(os.environ.get('TURN', '100'))  # Of a border, until it is another's turn.
_START_SECONDS = 240.0  # For imports, and to prepare what is to be spoilt.
_ADDRESS_SPACE_BYTES = 2**36  # jax reserves much of it; what is taken is held by the next limit.
_MAX_DATA_BYTES = 6 * 2**30
_MAX_KEPT_BYTES = 3 * 2**30  # hypothesis keeps its cases, of megabytes each: then a turn is over.
_STILL = 10  # Times as long by the clock: so long it may wait for a machine that is busy.
_LAST = 'case'  # Of a worker's folder: the case that it is at, which may be its last one.


def main() -> int:
  """Returns 1 if any case is a fault."""
  parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__)
  parser.add_argument('--hours', type=float, default=2.0)
  parser.add_argument('--border', action='append', help='only this one; may be repeated')
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--seed', type=int, default=int(time.time()))
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('fuzz'))
  parser.add_argument('--replay', type=pathlib.Path, help='a stored case')
  parser.add_argument('--worker', nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    _work(args.worker[0], int(args.worker[1]), pathlib.Path(args.worker[2]))
    return 0
  if args.replay:
    return _replay(args.replay)
  from tests.fuzz.borders import BORDERS

  names = args.border or list(BORDERS)
  if unknown := set(names) - set(BORDERS):
    parser.error(f'no border {unknown.pop()!r}; there are {", ".join(BORDERS)}')
  return _run(names, args)


# --- The parent -----------------------------------------------------------------------------------


class _Worker:
  """A process that attacks one border for one turn."""

  def __init__(self, border: str, seed: int, out: pathlib.Path):
    self.border, self.out = border, out
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz-'))
    command = [sys.executable, '-m', 'tests.fuzz', '--worker', border, str(seed), str(self.folder)]
    self.errors = (self.folder / 'stderr').open('w')
    self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors)
    self._allow(_START_SECONDS)
    self.outcomes: collections.Counter[str] = collections.Counter()
    self.buffer = b''

  def read(self) -> bool:
    """Takes in what it says; whether it is still there."""
    chunk = os.read(self.process.stdout.fileno(), 2**16)
    self.buffer += chunk
    *lines, self.buffer = self.buffer.split(b'\n')
    for line in lines:
      self._allow(MAX_SECONDS)
      said, case = json.loads(line)
      outcome, _, text = said.partition('\n')
      if outcome != 'begin':
        self.outcomes[outcome] += 1
      if outcome.startswith('fault'):
        self.store(outcome, text, self.folder / case)
    return bool(chunk)

  def hangs(self) -> bool:
    """Whether its case has had its time, of the processor or long since by the clock."""
    since, used, seconds = self.allowed
    waited = time.monotonic() - since
    return waited > seconds and (
      _cpu_seconds(self.process.pid) - used > seconds or waited > _STILL * seconds
    )

  def _allow(self, seconds: float) -> None:
    self.allowed = time.monotonic(), _cpu_seconds(self.process.pid), seconds

  def end(self, *, hangs: bool) -> None:
    """Waits for it, or ends it; a turn that did not end well is a fault of its last case."""
    if hangs:
      self.process.kill()
    status = self.process.wait()
    self.errors.close()
    if status:
      outcome = 'fault: hangs' if hangs else f'fault: status {status}'
      self.outcomes[outcome] += 1
      errors = (self.folder / 'stderr').read_text(errors='replace')[-5000:]
      self.store(outcome, errors, self.folder / _LAST)
    shutil.rmtree(self.folder, ignore_errors=True)

  def store(self, outcome: str, text: str, case: pathlib.Path) -> None:
    """Keeps a case with what it did; cases of the same traceback share a place."""
    lines = [line for line in text.splitlines() if line.strip()]
    place = [line.strip() for line in lines if line.lstrip().startswith('File ')][-1:]
    key = hashlib.sha256(repr((outcome, place)).encode()).hexdigest()[:8]
    target = self.out / self.border / key
    if (target / 'case').exists():
      with (target / 'count').open('a') as count:
        count.write('.')
      return
    target.mkdir(parents=True, exist_ok=True)
    if case.is_dir():
      shutil.copytree(case, target / 'case')
    (target / 'what.txt').write_text(f'{outcome}\n{text}\n', errors='backslashreplace')


def _run(names: list[str], args: argparse.Namespace) -> int:
  end = time.monotonic() + 3600 * args.hours
  totals = {name: collections.Counter() for name in names}
  turns, workers = 0, []
  selector = selectors.DefaultSelector()
  said = time.monotonic()
  with contextlib.suppress(KeyboardInterrupt):
    while time.monotonic() < end or workers:
      while len(workers) < args.processes and time.monotonic() < end:
        worker = _Worker(names[turns % len(names)], args.seed + turns, args.out)
        workers.append(worker)
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        turns += 1
      for key, _ in selector.select(timeout=1.0):
        worker = key.data
        if not worker.read():
          _finish(worker, workers, selector, totals, hangs=False)
      for worker in [one for one in workers if one.hangs()]:
        _finish(worker, workers, selector, totals, hangs=True)
      if time.monotonic() > said + 60:
        said = time.monotonic()
        _tell(totals)
  for worker in list(workers):
    worker.process.kill()
    worker.process.wait()
    shutil.rmtree(worker.folder, ignore_errors=True)
  _tell(totals)
  return int(any('fault' in outcome for counts in totals.values() for outcome in counts))


def _cpu_seconds(pid: int) -> float:
  """What a process has computed."""
  try:
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return 0.0
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _finish(worker, workers, selector, totals, *, hangs: bool) -> None:
  selector.unregister(worker.process.stdout)
  workers.remove(worker)
  worker.end(hangs=hangs)
  worker.process.stdout.close()
  totals[worker.border].update(worker.outcomes)


def _tell(totals: dict[str, collections.Counter]) -> None:
  print(time.strftime('%H:%M:%S'))
  for name, counts in totals.items():
    parts = ', '.join(f'{count:,} {outcome}' for outcome, count in sorted(counts.items()))
    print(f'  {name}: {sum(counts.values()):,} cases: {parts}')
  sys.stdout.flush()


# --- A worker -------------------------------------------------------------------------------------


def _work(name: str, seed: int, folder: pathlib.Path) -> None:
  """Attacks a border until its turn is over; says each outcome on stdout."""
  from tests.fuzz.borders import BORDERS

  says = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Whatever prints, prints to the log.
  border, start = BORDERS[name], time.monotonic()
  _quiet()
  home = folder / 'home'
  home.mkdir()
  state = border.prepare(home)
  _limit()
  end = time.monotonic() + _TURN_SECONDS

  def say(text: str, case: str = '') -> None:
    says.write(json.dumps([text, case]) + '\n')
    says.flush()

  numbers = itertools.count()

  class Over(Exception):
    pass

  @hypothesis.seed(seed)
  @hypothesis.settings(
    max_examples=10**6, database=None, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.generate], report_multiple_bugs=False,
  )  # fmt: skip
  @hypothesis.given(with_pipes(border.cases(state)))
  def attack(case: Case) -> None:
    if time.monotonic() > end or _memory('VmRSS') > _MAX_KEPT_BYTES:
      raise Over
    _write(folder / _LAST, case)
    say('begin')
    outcome, place = _outcome(border, state, case, folder), ''
    if outcome.startswith('fault'):  # Kept apart: the next case is written before it is read.
      place = f'fault{next(numbers)}'
      _write(folder / place, case)
    say(outcome, place)

  with contextlib.suppress(Over):
    attack()
  del start


def _outcome(border: Border, state: Any, case: Case, folder: pathlib.Path) -> str:
  """The outcome of a case; for a fault, with its traceback in the following lines."""
  work = pathlib.Path(tempfile.mkdtemp(dir=folder))
  before = _peak(reset=True)
  try:
    outcome = run_case(border, state, case, work)
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    return f'fault: {type(error).__name__}\n{traceback.format_exc()[-8000:]}'
  finally:
    shutil.rmtree(work, ignore_errors=True)
  taken = _peak() - before
  if taken > MAX_MEMORY_BYTES:
    return f'fault: memory\n{taken:,} bytes'
  return outcome


def _write(target: pathlib.Path, case: Case) -> None:
  shutil.rmtree(target, ignore_errors=True)
  for name, content in case.items():
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(content)


def _peak(*, reset: bool = False) -> int:
  """The most memory that this process has taken, since it was reset."""
  if reset:
    with contextlib.suppress(OSError):
      pathlib.Path('/proc/self/clear_refs').write_text('5')
  return _memory('VmHWM')


def _memory(field: str) -> int:
  """A field of this process's status, in bytes."""
  with open('/proc/self/status') as file:
    return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def _limit() -> None:
  resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
  resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA_BYTES, _MAX_DATA_BYTES))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _quiet() -> None:
  import logging

  warnings.simplefilter('ignore')
  logging.disable(logging.CRITICAL)


def _replay(folder: pathlib.Path) -> int:
  from tests.fuzz.borders import BORDERS

  _quiet()
  border = BORDERS[folder.parent.name]
  case = {
    path.relative_to(folder / 'case').as_posix(): path.read_bytes()
    for path in (folder / 'case').rglob('*')
    if path.is_file()
  }
  with tempfile.TemporaryDirectory() as home:
    state = border.prepare(pathlib.Path(home))
    with tempfile.TemporaryDirectory() as work:
      start = time.monotonic()
      outcome = _outcome(border, state, case, pathlib.Path(work))
  print(outcome)
  print(f'{time.monotonic() - start:.1f} s')
  return int(outcome.startswith('fault'))


if __name__ == '__main__':
  sys.exit(main())
