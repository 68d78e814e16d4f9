"""How a process ends that lost another one, or its storage."""

import subprocess
import sys
import time

import pytest

from masm_jax import peers


@pytest.mark.parametrize(
  'text',
  [
    'UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: Connection reset by peer',
    'INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout',
    'NCCL operation ncclAllReduce(...) failed: remote process exited or there was a network error',
  ],
)
def test_what_backends_say_of_a_lost_peer(text):
  assert peers.is_lost(ValueError(text))
  wrapped = RuntimeError('while saving')
  wrapped.__cause__ = ValueError(text)
  assert peers.is_lost(wrapped)


@pytest.mark.parametrize(
  'text', ['RESOURCE_EXHAUSTED: out of memory', 'No space left on device', '']
)
def test_other_errors_are_no_lost_peer(text):
  assert not peers.is_lost(RuntimeError(text))


def test_the_message_is_one_line_without_what_stands_before_the_reason():
  error = ValueError(
    'INTERNAL: Error dispatching computation: ' * 3 + 'Gloo all-reduce failed\nat x'
  )
  line = peers.describe(error)
  assert line.startswith('error: another process of this run is gone (Gloo all-reduce failed); ')
  assert '\n' not in line and 'status 75' in line and 'last complete checkpoint' in line


def end_of(code):
  start = time.monotonic()
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
  return result, time.monotonic() - start


def test_the_watchdog_ends_a_process_that_stands_still():
  result, seconds = end_of(
    'import time\nfrom masm_jax import peers\n'
    'with peers.Watchdog(0.6) as dog:\n'
    '  time.sleep(1)\n'  # Before the first beat it waits: a step is compiled.
    '  for _ in range(10): dog.beat(); time.sleep(0.1)\n'
    '  print("beating", flush=True)\n'
    '  time.sleep(50)\n'
  )
  assert result.returncode == peers.LOST_STATUS == 75
  assert result.stdout == 'beating\n' and seconds < 20
  assert 'error: no step has ended for 1 s; this one ends with status 75' in result.stderr
  assert 'line 7 in <module>' in result.stderr  # Where it stood.


def test_the_watchdog_leaves_a_process_alone_that_goes_on_or_has_ended():
  result, _ = end_of(
    'import time\nfrom masm_jax import peers\n'
    'with peers.Watchdog(0.4) as dog:\n'
    '  for _ in range(8): dog.beat(); time.sleep(0.1)\n'
    'with peers.Watchdog(0): time.sleep(0.1)\n'
    'time.sleep(0.6)\nprint("done")'
  )
  assert (result.returncode, result.stdout) == (0, 'done\n')


@pytest.mark.parametrize(
  ('raised', 'flags', 'status', 'line'),
  [
    ("OSError(28, 'No space left on device', 'm.jsonl')", (), 2,
     'error: No space left on device: m.jsonl; mend that, and the same command goes on'),
    ("ValueError('Gloo AllGather failed: broken')", ('--coordinator=h:1',), 75,
     'error: another process of this run is gone (Gloo AllGather failed: broken)'),
    ("ValueError('a bug')", ('--coordinator=h:1',), 1, 'ValueError: a bug'),
    ("ValueError('Gloo')", (), 1, 'ValueError: Gloo'),  # Alone there is nobody to lose.
    ("UserError('bad')", ('--coordinator=h:1',), 2, 'error: bad'),
  ],
)  # fmt: skip
def test_how_main_ends(raised, flags, status, line):
  code = (
    'import sys, masm_jax.main as m\nfrom masm_jax.errors import UserError\n'
    f'def fail(argv): raise {raised}\n'
    f'sys.argv += {list(flags)!r}\nm.run(fail)'
  )
  result, _ = end_of(code)
  assert result.returncode == status
  assert result.stderr.strip().splitlines()[-1].startswith(line)
  assert ('Traceback' in result.stderr) == (status == 1)
