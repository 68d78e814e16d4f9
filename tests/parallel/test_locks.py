"""Locks: one owner, who is named; taken over when it is gone; on any machine."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from masm_jax import processes
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from tests.waiting import ends_within

HOLD = """
import pathlib, sys, time
from masm_jax.parallel import locks
with locks.held(sys.argv[1]):
  print('held', flush=True)
  time.sleep(60)
"""


def start(code, folder):
  root = pathlib.Path(locks.__file__).parents[2]
  return subprocess.Popen(
    [sys.executable, '-c', code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': str(root)},
  )  # fmt: skip


@pytest.fixture
def other(tmp_path):
  """Another process that holds the lock of `tmp_path`."""
  process = start(HOLD, tmp_path)
  assert process.stdout.readline() == b'held\n'
  yield process
  process.kill()
  process.communicate()


def write(path, **fields):
  owner = {'host': 'far', 'machine': 'far', 'pid': 7, 'started': '1', 'token': 'a', 'command': 'x'}
  path.write_text(json.dumps(owner | fields))


def test_the_second_is_refused_with_one_line_that_names_the_first(tmp_path, other):
  with (
    pytest.raises(UserError, match=rf'is in use by process {other.pid} on \S+, which runs since'),
    locks.held(tmp_path),
  ):
    raise AssertionError('both have it')
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, other):
  other.send_signal(signal.SIGKILL)
  other.wait()
  with locks.held(tmp_path):
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()
  assert not list(tmp_path.iterdir())


def test_who_waits_gets_it_when_the_owner_is_gone(tmp_path, other, capsys):
  threading.Timer(0.2, other.kill).start()
  with locks.held(tmp_path, waits=True):
    pass
  assert re.fullmatch(rf'waiting for process {other.pid} on .*\n', capsys.readouterr().err)


def test_a_process_may_take_its_own_lock_again(tmp_path):
  with locks.held(tmp_path):
    with locks.held(tmp_path):
      pass
    assert (tmp_path / '.lock').exists()
  with locks.held(tmp_path, enabled=False):
    assert not list(tmp_path.iterdir())


def test_another_process_under_the_same_number_is_no_owner(tmp_path):
  own = locks._own()
  write(tmp_path / '.lock', **own | {'pid': os.getppid(), 'started': '1'})
  with locks.held(tmp_path):
    pass


@pytest.mark.parametrize('content', [b'', b'{"pid": ', b'[]', b'\xff'])
def test_a_damaged_lock_or_one_of_an_earlier_version_keeps_nobody_out(tmp_path, content):
  (tmp_path / '.lock').write_bytes(content)
  os.utime(tmp_path / '.lock', (0, 0))
  with locks.held(tmp_path):
    pass
  assert not list(tmp_path.iterdir())


def test_an_owner_elsewhere_is_alive_if_it_touches_the_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, '_POLL_S', 0.05)
  path = tmp_path / '.lock'
  write(path)
  threading.Timer(0.2, lambda: os.utime(path)).start()
  with pytest.raises(UserError, match='process 7 on far'), locks.held(tmp_path):
    pass


def test_an_owner_elsewhere_is_gone_if_it_touches_nothing(tmp_path, monkeypatch):
  path = tmp_path / '.lock'
  write(path)
  os.utime(path, (time.time() - locks.OLD_S - 5,) * 2)
  with locks.held(tmp_path):
    pass
  monkeypatch.setattr(locks, '_POLL_S', 0.05)
  monkeypatch.setattr(locks, 'STALE_S', 0.3)
  write(path)  # Died a moment ago: that shows in a while.
  with locks.held(tmp_path):
    pass


@pytest.mark.parametrize('ahead_s', [-600, 10 * 365 * 86400])
def test_clocks_of_machines_differ(tmp_path, monkeypatch, ahead_s):
  monkeypatch.setattr(locks, '_POLL_S', 0.02)
  monkeypatch.setattr(locks, 'STALE_S', 0.3)
  path, then = tmp_path / '.lock', time.time() + ahead_s
  write(path)
  os.utime(path, (then, then))
  threading.Timer(0.1, lambda: os.utime(path, (then + 15, then + 15))).start()
  with pytest.raises(UserError, match='process 7 on far'), locks.held(tmp_path):
    pass  # It is alive, whatever its clock says.
  start_s = time.monotonic()
  with locks.held(tmp_path):
    assert 0.3 < time.monotonic() - start_s < 10


def test_an_owner_elsewhere_is_named_without_its_control_characters(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(locks, '_POLL_S', 0.02)
  monkeypatch.setattr(locks, 'STALE_S', 0.1)
  write(tmp_path / '.lock', host='h\x1b[2Jx', command='a\r\nb')
  with locks.held(tmp_path):
    pass
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and r'h\x1b[2Jx' in said and said[:-1].isprintable()


@pytest.mark.parametrize('target', ['/nonexistent/x', '/dev/zero', 'other', None])
def test_a_link_or_a_pipe_is_no_lock_and_is_not_followed(tmp_path, target):
  write(tmp_path / 'other', **locks._own() | {'pid': os.getppid()})
  if target:
    (tmp_path / '.lock').symlink_to(target)
  else:
    os.mkfifo(tmp_path / '.lock')
  with ends_within(20), locks.held(tmp_path):
    assert not (tmp_path / '.lock').is_symlink() and (tmp_path / '.lock').is_file()
  assert [path.name for path in tmp_path.iterdir()] == ['other']


def test_the_owner_touches_its_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, 'BEAT_S', 0.02)
  with locks.held(tmp_path):
    os.utime(tmp_path / '.lock', (0, 0))
    deadline = time.monotonic() + 5
    while not os.stat(tmp_path / '.lock').st_mtime:
      assert time.monotonic() < deadline
      time.sleep(0.01)


def test_what_a_kill_leaves_of_a_lock_is_removed(tmp_path):
  write(tmp_path / '.lock.0011', **locks._own() | {'pid': 2**22 + 1, 'token': '0011'})
  with locks.held(tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


NO_LINKS = """
import errno, os
def link(*_):
  raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = link
"""

COUNT = """
import pathlib, sys
from masm_jax.parallel import locks
locks._POLL_S = 0.001
counter = pathlib.Path(sys.argv[1], 'counter')
for _ in range(25):
  with locks.held(sys.argv[1], waits=True):
    value = int(counter.read_text())
    counter.write_text(f'{value + 1}')
"""


@pytest.mark.parametrize('before', ['', NO_LINKS])
def test_many_at_once_never_have_it_together(tmp_path, before):
  (tmp_path / 'counter').write_text('0')
  # Each finds the lock of a dead process first, which all of them want to remove.
  write(tmp_path / '.lock', **locks._own() | {'started': '1'})
  others = [start(before + COUNT, tmp_path) for _ in range(4)]
  for process in others:
    process.communicate(timeout=60)
    assert process.returncode == 0
  assert (tmp_path / 'counter').read_text() == '100'


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').touch()
  for path, message in (
    ('file', '/file is there and is no folder: give'),
    ('file/x', 'cannot write'),
  ):
    with pytest.raises(UserError, match=message), locks.held(tmp_path / path):
      pass


def _refused(*_):
  raise PermissionError(errno.EPERM, 'Operation not permitted')


def test_a_file_system_without_links_has_locks_too(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'link', _refused)
  with locks.held(tmp_path / 'out'):
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.lock']
    assert locks._read(tmp_path / 'out' / '.lock')[0]['pid'] == os.getpid()
  assert not list(tmp_path.iterdir())


def test_a_lock_that_is_being_written_is_not_taken(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, '_POLL_S', 0.02)
  (tmp_path / '.lock').touch()
  writer = threading.Timer(0.2, lambda: write(tmp_path / '.lock', **locks._own() | {'pid': 1,
                                                 'started': processes.started(1)}))  # fmt: skip
  writer.start()
  with pytest.raises(UserError, match='is in use by process 1 '), locks.held(tmp_path):
    pass
  writer.join()


def test_a_lock_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, '_take', _refused)
  with pytest.raises(UserError, match='not permitted'), locks.held(tmp_path / 'out'):
    pass
  assert not list(tmp_path.iterdir())
