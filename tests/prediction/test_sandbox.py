"""What the process that reads strangers' files cannot do, in any of its threads."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from masm_jax.prediction import sandbox
from masm_jax.prediction.reading import Settings
from masm_jax.prediction.worker import Worker
from masm_jax.preprocess import crops

# A thread starts before the sandbox, or between its two steps as libraries' do; then it, and the
# main thread, try what code that took over the process would.
TRIES = """
import json, os, queue, socket, sys, threading
from masm_jax.prediction import sandbox

own, secret, out = sys.argv[2:]
orders, found = queue.Queue(), {}

def attempt(who):
  tries = {
    'read': lambda: open(secret).read(),
    'write': lambda: open(out, 'w'),
    'chmod': lambda: os.chmod(secret, 0o777),
    'touch': lambda: os.utime(secret),
    'socket': lambda: socket.socket(),
    'exec': lambda: os.execv('/bin/true', ['true']),
    'fork': lambda: os._exit(0) if os.fork() == 0 else None,
    'signal': lambda: os.kill(os.getppid(), 0),
    'allowed': lambda: open(own).read(1),
  }
  for name, call in tries.items():
    try:
      call()
      found[f'{who} {name}'] = True
    except OSError:
      found[f'{who} {name}'] = False

def start():
  thread = threading.Thread(target=lambda: attempt(orders.get()), daemon=True)
  thread.start()
  return thread

early = sys.argv[1] == 'before' and start()
box = sandbox.Sandbox()
thread = early or start()
box.enter(memory_bytes=2**30)
attempt('main')
orders.put('older')
thread.join(20)
sys.stdout.write(json.dumps([box.in_force, found]))
"""


def tries(when, tmp_path):
  """What was in force, and what each thread could do: `older read`, `main socket`, ..."""
  secret = tmp_path / 'secret'
  secret.write_text('of the user')
  command = [sys.executable, '-c', TRIES, when, os.__file__, str(secret), str(tmp_path / 'out')]
  done = subprocess.run(
    command, stdout=subprocess.PIPE, check=True, cwd=pathlib.Path(sandbox.__file__).parents[2]
  )
  in_force, found = json.loads(done.stdout)
  if any(text.startswith('not in force: [') for text in in_force.values()):
    pytest.skip(f'this kernel allows no more: {in_force}')
  return in_force, found


def test_a_thread_that_libraries_start_has_no_rights(tmp_path):
  in_force, found = tries('between', tmp_path)
  assert 'not in force' not in ' '.join(in_force.values())
  assert {what for what, could in found.items() if could} == {'main allowed', 'older allowed'}
  assert len(found) == 18


def test_a_thread_from_before_has_no_calls_and_nothing_is_claimed_of_its_files(tmp_path):
  in_force, found = tries('before', tmp_path)
  assert in_force['files'] == 'not in force: threads that had started before: 1'
  assert 'not in force' not in in_force['calls']
  could = {what for what, could in found.items() if could}
  assert not could & {f'older {what}' for what in ('socket', 'exec', 'fork', 'chmod', 'touch')}
  assert {what for what in could if what.startswith('main')} == {'main allowed'}


@pytest.mark.parametrize('faces', ['whole', 'haar', 'yunet'])
def test_every_thread_of_a_reading_process_is_bound(faces, request, monkeypatch):
  model = None
  if faces == 'yunet':
    folder = request.getfixturevalue('shared_data')
    model = str(folder / 'models' / 'face_detection_yunet_2026may.onnx')
  monkeypatch.setenv('A_SECRET', 'of the user')
  detector = 'haar' if faces == 'haar' else 'yunet'
  made = crops.Settings(detector=detector, model=model)
  worker = Worker(Settings(made, 16, whole=faces == 'whole'))
  worker.start()
  try:
    if any(text.startswith('not in force: [') for text in worker.in_force.values()):
      pytest.skip(f'this kernel allows no more: {worker.in_force}')
    assert set(worker.in_force) == {'limits', 'files', 'calls'}
    assert 'not in force' not in ' '.join(worker.in_force.values())
    process = pathlib.Path(f'/proc/{worker._process.pid}')
    statuses = [(thread / 'status').read_text() for thread in (process / 'task').iterdir()]
    assert statuses
    for status in statuses:
      assert 'Seccomp:\t2\n' in status and 'NoNewPrivs:\t1\n' in status
    assert b'A_SECRET' not in (process / 'environ').read_bytes()
    opened = sorted(os.readlink(link).partition(':')[0] for link in (process / 'fd').iterdir())
    assert opened == ['/dev/null'] * 3 + ['socket']
  finally:
    worker.stop()


def test_what_a_process_says_of_itself_is_measured():
  said = {'files': 'Landlock', 'calls': 'seccomp: no socket'}
  found = sandbox.measured(said, os.getpid())  # This process has no filter.
  assert found['files'] == 'Landlock' and 'not in force' in found['calls']


def test_a_filter_that_every_process_here_has_does_not_count(monkeypatch):
  status = {'Seccomp': '2', 'NoNewPrivs': '1', 'Seccomp_filters': '1'}  # As in a container.
  monkeypatch.setattr(sandbox, '_threads', lambda pid: [status])
  found = sandbox.measured({'calls': 'seccomp: no socket'}, 1)
  assert found['calls'] == 'not in force: threads without a filter: 1'
