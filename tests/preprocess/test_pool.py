"""Workers that die, fail or lose their parent."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from masm_jax.errors import UserError
from masm_jax.preprocess import pool

SOURCE = """
import os, pathlib, signal, sys, time
from masm_jax.errors import UserError

class Make:
  def __init__(self, folder):
    self.folder = pathlib.Path(folder)

  def __call__(self, task):
    if task == 'kill':
      os.kill(os.getpid(), signal.SIGKILL)
    if task == 'kill once' and not (self.folder / 'killed').exists():
      (self.folder / 'killed').touch()
      os.kill(os.getpid(), signal.SIGKILL)
    if task == 'exit':
      os._exit(3)
    if task == 'fail':
      raise ValueError('a fault of ours')
    if task == 'large':
      try:
        return len(bytearray(2**28))
      except MemoryError:
        return 'too large'
    if task == 'full':
      raise UserError('the disk is full')
    if task == 'sleep':
      (self.folder / str(os.getpid())).touch()
      time.sleep(60)
    return str(task).upper()
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
  """What processes do; in a file of its own, which they can import."""
  (tmp_path / 'work_of_a_test.py').write_text(SOURCE)
  monkeypatch.syspath_prepend(str(tmp_path))
  import work_of_a_test

  yield work_of_a_test.Make
  del sys.modules['work_of_a_test']


def test_a_dying_worker_costs_its_task_alone(make, tmp_path):
  tasks = ['a', 'kill', 'b', 'kill once', 'exit', 'c']
  results = dict(pool.run(tasks, make, (tmp_path,), num_processes=2))
  died = {task: str(results.pop(task)) for task in ('kill', 'exit')}
  assert results == {'a': 'A', 'b': 'B', 'c': 'C', 'kill once': 'KILL ONCE'}
  assert died == {'kill': 'signal SIGKILL', 'exit': 'exit status 3'}


@pytest.mark.parametrize(
  ('task', 'error', 'text'),
  [('full', UserError, 'the disk is full'), ('fail', RuntimeError, 'ValueError: a fault of ours')],
)
def test_errors_end_the_run(make, tmp_path, task, error, text):
  with pytest.raises(error, match=text):
    list(pool.run(['a', task], make, (tmp_path,), num_processes=1))


def test_in_this_process_and_with_nothing_to_do(make, tmp_path):
  assert list(pool.run(['a', 'b'], make, (tmp_path,), num_processes=0)) == [('a', 'A'), ('b', 'B')]
  assert list(pool.run([], make, (tmp_path,), num_processes=2)) == []


def test_workers_end_with_a_parent_that_is_killed(make, tmp_path):
  code = (
    'import sys\n'
    f'sys.path[:0] = [{str(tmp_path)!r}]\n'
    'from masm_jax.preprocess import pool\n'
    'from work_of_a_test import Make\n'
    f'list(pool.run(["sleep"], Make, ({str(tmp_path)!r},), num_processes=1))\n'
  )
  (tmp_path / 'main.py').write_text(f"if __name__ == '__main__':\n  exec({code!r})\n")
  root = str(pathlib.Path(__file__).resolve().parents[2])
  parent = subprocess.Popen(
    [sys.executable, tmp_path / 'main.py'], env=os.environ | {'PYTHONPATH': f'{root}:{tmp_path}'}
  )
  worker = _wait(lambda: next((int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()), None))
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  _wait(lambda: not _is_running(worker))


def test_workers_end_with_a_parent_that_is_killed_while_they_start(make, tmp_path):
  """What they do takes long to import; they watch their parent before."""
  (tmp_path / 'slow_work.py').write_text(
    'import os, pathlib, time\n'
    'pathlib.Path(__file__).with_name(str(os.getpid())).touch()\n'
    'if pathlib.Path(__file__).with_name("main").exists():\n'
    '  time.sleep(60)\n'
    'def make(): return str\n'
  )
  (tmp_path / 'main.py').write_text(
    'import pathlib\n'
    'from masm_jax.preprocess import pool\n'
    "if __name__ == '__main__':\n"
    '  import slow_work\n'
    '  pathlib.Path(__file__).with_name("main").touch()\n'
    '  list(pool.run([1], slow_work.make, (), num_processes=1))\n'
  )
  root = str(pathlib.Path(__file__).resolve().parents[2])
  parent = subprocess.Popen(
    [sys.executable, tmp_path / 'main.py'], env=os.environ | {'PYTHONPATH': f'{root}:{tmp_path}'}
  )
  started = lambda: next(
    (int(p.name) for p in tmp_path.iterdir() if p.name.isdigit() and int(p.name) != parent.pid),
    None,
  )
  worker = _wait(started)
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  _wait(lambda: not _is_running(worker))  # Long before the import ends.


def _is_running(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except OSError:
    return False


def _wait(condition):
  deadline = time.monotonic() + 30
  while not (value := condition()):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  return value


@pytest.mark.skipif(sys.platform != 'linux', reason='the limit is held on Linux')
def test_a_worker_has_no_more_memory_than_it_may(make, tmp_path):
  tasks = ['a', 'large', 'b']
  args = (str(tmp_path),)
  found = dict(pool.run(tasks, make, args, num_processes=1, max_memory_bytes=2**27))
  assert found == {'a': 'A', 'large': 'too large', 'b': 'B'}
  found = dict(pool.run(['large'], make, args, num_processes=1, max_memory_bytes=2**29))
  assert found == {'large': 2**28}
