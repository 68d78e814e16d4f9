"""How a process ends that lost another one, or its storage, or was told that another gives up."""

import subprocess
import sys
import time

import pytest

from masm_jax.errors import UserError
from masm_jax.parallel import peers


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
    'import time\nfrom masm_jax.parallel import peers\n'
    'with peers.Watchdog(0.6) as dog:\n'
    '  for _ in range(2): dog.stage(); time.sleep(1)\n'  # Three times as long: a step is compiled.
    '  for _ in range(10): dog.beat(); time.sleep(0.1)\n'
    '  print("beating", flush=True)\n'
    '  time.sleep(50)\n'
  )
  assert result.returncode == peers.LOST_STATUS == 75
  assert result.stdout == 'beating\n' and seconds < 20
  assert 'error: no step has ended for 1 s; this one ends with status 75' in result.stderr
  assert 'line 7 in <module>' in result.stderr  # Where it stood.


def test_the_watchdog_ends_a_process_that_never_begins():
  result, seconds = end_of(
    'import time\nfrom masm_jax.parallel import peers\nwith peers.Watchdog(0.5): time.sleep(50)\n'
  )
  assert result.returncode == peers.LOST_STATUS and 1.5 <= seconds < 20
  assert 'error: no step has ended for 2 s; ' in result.stderr  # Thrice 0.5, rounded.


@pytest.mark.parametrize(
  ('module', 'checks', 'work', 'call'),
  [
    ('training.loop', 'validate', '_train', 'train(None, folder, hang_timeout_s=0.3)'),
    ('evaluation.run', 'validate_suite', '_evaluate', 'evaluate(0, 0, folder, hang_timeout_s=0.3)'),
  ],
)
def test_training_and_evaluation_are_watched_from_their_begin(module, checks, work, call, tmp_path):
  result, _ = end_of(
    f'import pathlib, time\nimport masm_jax.{module} as m\n'
    f'folder = pathlib.Path({str(tmp_path)!r})\n'
    f'm.config_lib.{checks} = lambda config: None\n'
    f'm.{work} = lambda *arguments: time.sleep(50)\nm.{call}'
  )
  assert result.returncode == peers.LOST_STATUS, result.stderr
  assert 'error: no step has ended for 1 s; ' in result.stderr


def test_the_watchdog_leaves_a_process_alone_that_goes_on_or_has_ended():
  result, _ = end_of(
    'import time\nfrom masm_jax.parallel import peers\n'
    'with peers.Watchdog(0.4) as dog:\n'
    '  for _ in range(8): dog.beat(); time.sleep(0.1)\n'
    'with peers.Watchdog(0): time.sleep(0.1)\n'
    'with peers.Watchdog(0.1) as dog: dog.stop(); time.sleep(0.8)\n'  # What it does alone.
    'time.sleep(0.6)\nprint("done")'
  )
  assert (result.returncode, result.stdout) == (0, 'done\n')


@pytest.mark.parametrize(
  ('raised', 'flags', 'status', 'line'),
  [
    ("OSError(28, 'No space left on device', 'm.jsonl')", (), 2,
     'error: No space left on device: m.jsonl; mend that, and run the same command again'),
    ("ValueError('Gloo AllGather failed: broken')", ('--coordinator=h:1',), 75,
     'error: another process of this run is gone (Gloo AllGather failed: broken)'),
    ("ValueError('a bug')", ('--coordinator=h:1',), 1, 'ValueError: a bug'),
    ("ValueError('Gloo')", (), 1, 'ValueError: Gloo'),  # Alone there is nobody to lose.
    ("UserError('bad')", ('--coordinator=h:1',), 2, 'error: bad'),
  ],
)  # fmt: skip
def test_how_main_ends(raised, flags, status, line):
  code = (
    'import sys, masm_jax.cli as m\nfrom masm_jax.errors import UserError\n'
    'm.define_process_flags()\n'
    f'def fail(argv): raise {raised}\n'
    f'sys.argv += {list(flags)!r}\nm.run(fail)'
  )
  result, _ = end_of(code)
  assert result.returncode == status
  assert result.stderr.strip().splitlines()[-1].startswith(line)
  assert ('Traceback' in result.stderr) == (status == 1)


def gives_up(what):
  raise UserError(what)


def works_with_the_other(cli):
  """A collective operation of both processes after the other."""
  cli.start_jax(deterministic=False)
  from jax.experimental import multihost_utils

  multihost_utils.sync_global_devices('begin')
  while True:
    multihost_utils.sync_global_devices('both are there')
    time.sleep(0.01)


def together(index, cli, fault):
  """What each process does: returns as an entry point's main function does."""
  if fault == 'bad input of all':
    cli.start_jax(deterministic=False)
    # Later than the other's words are heard, and sooner than they are heeded.
    peers._POLL_S = 0.05
    time.sleep(0.3 * index)
    gives_up('no such manifest: m.parquet')
  if fault == 'done before the first gives up':
    cli.start_jax(deterministic=False)
    if index:
      return 0
    time.sleep(2)
    raise OSError(28, 'No space left on device', 'results.json')
  teller = int(fault[-1])
  if index != teller:
    works_with_the_other(cli)
  cli.start_jax(deterministic=False)
  from jax.experimental import multihost_utils

  multihost_utils.sync_global_devices('begin')
  if fault.startswith('killed'):
    peers.leave(9)
  gives_up(f'the manifest of {index} cannot be read')


NO_SPACE = 'No space left on device: results.json; mend that, and run the same command again'


@pytest.mark.parametrize(
  ('fault', 'statuses', 'lines'),
  [
    # Process 0 keeps the words for the others, and waits until they have heard them.
    ('told by 0', [2, 2],
     ['error: the manifest of 0 cannot be read',
      'error: process 0 of this run ended: the manifest of 0 cannot be read']),
    ('told by 1', [2, 2],
     ['error: process 1 of this run ended: the manifest of 1 cannot be read',
      'error: the manifest of 1 cannot be read']),
    ('bad input of all', [2, 2], ['error: no such manifest: m.parquet'] * 2),
    ('done before the first gives up', [2, 2],
     [f'error: {NO_SPACE}', f'error: process 0 of this run ended: {NO_SPACE}']),
    ('killed 1', [75, 9], ['error: another process of this run is gone (', None]),
  ],
)  # fmt: skip
def test_a_process_that_gives_up_takes_the_others_with_it(run_pair, fault, statuses, lines):
  begun = time.monotonic()
  ends = run_pair(__file__, fault, timeout_s=60)
  assert [status for status, _ in ends] == statuses, ends
  assert time.monotonic() - begun < 50
  for (_, output), expected in zip(ends, lines, strict=True):
    said = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(said) == (expected is not None), output
    assert not said or said[0].startswith(expected)
    assert 'Traceback' not in output


def test_nothing_is_told_where_jax_has_no_store(monkeypatch):
  from jax._src import distributed

  assert distributed.global_state.client is None
  assert peers._told() == '' and not peers._hosts_service()
  peers._tell('nobody hears it')
  monkeypatch.delattr(distributed, 'global_state')  # As a later jax may have it.
  assert peers._service() is None and peers._told() == '' and not peers._hosts_service()
  peers._tell('nobody hears it')


def main(index, address, fault):
  """One of the processes."""
  from masm_jax import cli

  sys.argv = [sys.argv[0], f'--coordinator={address}', '--num_processes=2', f'--process_id={index}']
  sys.argv.append('--compilation_cache=')
  cli.define_cache_flag()
  cli.define_process_flags()
  cli.run(lambda argv: together(int(index), cli, fault))


if __name__ == '__main__':
  main(*sys.argv[1:])
