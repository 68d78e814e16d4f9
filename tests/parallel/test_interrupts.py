"""Ctrl-C is not lost, hits no clean-up, and prints no traceback."""

import contextlib
import gc
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from masm_jax import cli
from masm_jax.parallel import interrupts, parents, stopping


def press():
  signal.raise_signal(signal.SIGINT)


def wait(seconds=10.0):
  """Ends early by what is raised meanwhile."""
  time.sleep(seconds)


def swallowed():
  with contextlib.suppress(BaseException):
    press()


def in_a_callback():
  def callback(phase, info):
    gc.callbacks.remove(callback)
    press()

  gc.callbacks.append(callback)
  gc.collect(0)


class Dropped:
  def __del__(self):
    press()


@pytest.mark.parametrize('lose', [swallowed, in_a_callback, Dropped])
def test_what_is_lost_is_raised_again(lose, capfd):
  """XLA has such a callback of the garbage collector: commands ran on, to status 0."""
  begun = time.monotonic()

  def command():
    for _ in range(2):
      lose()
    wait()
    return 0

  assert cli.exit_status(command) == 130
  assert time.monotonic() - begun < 5
  assert capfd.readouterr().err == 'interrupted\n'


def test_an_import_is_finished_first(tmp_path, monkeypatch):
  """Those of jaxlib crash where they are interrupted, those of numpy print a traceback."""
  (tmp_path / 'imported_slowly.py').write_text(
    'import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nis_done = True\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(KeyboardInterrupt), interrupts.raised():
    assert importlib.import_module('imported_slowly').is_done
    wait()
  assert sys.modules.pop('imported_slowly').is_done


def test_another_ctrl_c_does_not_hit_the_clean_up():
  cleaned = []
  with pytest.raises(KeyboardInterrupt), interrupts.raised():
    try:
      press()
    finally:
      press()
      wait(0.2)  # Nor is the first taken for lost.
      press()
      cleaned.append(True)
  assert cleaned


def test_what_a_library_makes_of_it_is_no_error_of_the_program(capsys):
  def command():
    try:
      press()
    except KeyboardInterrupt:
      raise RuntimeError('a worker has gone') from None

  assert cli.exit_status(command, interrupted='stopped') == 130
  assert capsys.readouterr().err == 'stopped\n'


def test_the_handler_before_comes_back():
  before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
  with interrupts.raised():
    inside = signal.getsignal(signal.SIGINT)
    assert inside is not before
    with interrupts.raised():
      assert signal.getsignal(signal.SIGINT) is inside
  assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (before, hook)


def test_one_that_a_shell_has_set_to_be_ignored_stays_so():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with interrupts.raised():
      press()
  finally:
    signal.signal(signal.SIGINT, before)


def test_code_of_others_is_not_interrupted():
  with interrupts.raised():
    inside = signal.getsignal(signal.SIGINT)
    with interrupts.ending_at_once():
      assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is inside
  before = signal.getsignal(signal.SIGINT)
  with interrupts.ending_at_once():  # Of another program that calls us.
    assert signal.getsignal(signal.SIGINT) is before


LATER = """
import signal, time
from masm_jax.parallel import interrupts, parents, stopping
interrupts._GRACE_S = 0.05
with interrupts.raised():
  try:
    signal.raise_signal(signal.SIGINT)
  finally:
    time.sleep(0.2)
    signal.raise_signal(signal.SIGINT)
    print('not ended')
"""


def test_ctrl_c_after_a_while_ends_what_hangs():
  result = subprocess.run([sys.executable, '-c', LATER], capture_output=True, timeout=60)
  assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, b'', b'')


@pytest.mark.parametrize('script', [False, True])
def test_imports_of_a_command_end_quietly(script, tmp_path):
  (tmp_path / 'pandas.py').write_text(
    'import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n'
  )
  words = ['-m', 'masm_jax.data']
  if script:  # As the installed `masm-jax` has it.
    (tmp_path / 'masm-jax').write_text('import masm_jax.__main__ as m\nm.main()\n')
    words = [tmp_path / 'masm-jax', 'data']
  result = subprocess.run(
    [sys.executable, *words, 'stats', 'm.csv'], capture_output=True, timeout=60,
    env=os.environ | {'PYTHONPATH': os.pathsep.join([str(tmp_path), os.getcwd()])},
  )  # fmt: skip
  assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, b'', b'')


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks /proc')
def test_processes_are_deaf_from_their_first_moment():
  """Their imports take seconds, before they could ignore it themselves."""
  with parents.deaf_to_ctrl_c():
    process = subprocess.Popen(['cat'], stdin=subprocess.PIPE)
  with process:
    status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
    assert int(status.partition('SigBlk:')[2].split()[0], 16) & 1 << (signal.SIGINT - 1)
  assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_every_process_of_the_package_is():
  package = pathlib.Path(parents.__file__).parents[1]
  texts = {path: path.read_text() for path in package.rglob('*.py')}
  starting = [p for p, text in texts.items() if 'get_context(' in text or '.mp_prefetch(' in text]
  assert len(starting) == 5
  starting.append(package / 'prediction' / 'start.py')
  assert all('parents.deaf_to_ctrl_c(' in texts[path] for path in starting)


def test_training_notes_the_first_and_does_not_lose_the_second():
  with pytest.raises(KeyboardInterrupt), interrupts.raised(), stopping.StopRequests() as requests:
    press()
    assert requests.requested(1)
    swallowed()
    wait()


CRASHES = """
import os, signal, sys
from masm_jax import cli
class Crash:
  def __del__(self):
    os.abort()
crash = Crash()
def command():
  print('begun', end='')
  if sys.argv[1:]:
    signal.raise_signal(signal.SIGINT)
  return 0
sys.exit(cli.exit_status(command))
"""


@pytest.mark.parametrize(('words', 'status'), [(['now'], 130), ([], -signal.SIGABRT)])
def test_what_was_interrupted_is_not_taken_apart(words, status, tmp_path):
  """jaxlib may crash at the interpreter's end, as this does."""
  (tmp_path / 'masm-jax').write_text(CRASHES)
  result = subprocess.run(
    [sys.executable, tmp_path / 'masm-jax', *words], capture_output=True, timeout=60,
    env=os.environ | {'PYTHONPATH': os.getcwd()},
  )  # fmt: skip
  assert (result.returncode, result.stdout) == (status, b'begun')
  assert result.stderr == (b'interrupted\n' if words else b'')
