"""A run of two processes that meets every fault, again and again, ends as one that met none.

It takes many minutes, and runs where MASM_JAX_FAULT_REPETITIONS (20, say) is set:
`MASM_JAX_FAULT_REPETITIONS=20 pytest -n0 -s tests/test_faults.py`. One process alone meets each of
these faults once in test_train.py and test_checkpoint.py.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from masm_jax import backbones
from masm_jax.data import synthetic
from masm_jax.parallel import peers

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
REPETITIONS = int(os.environ.get('MASM_JAX_FAULT_REPETITIONS', '0'))
SAVE_EVERY, BOUND_S = 7, 120
STEPS = 35 * REPETITIONS + 25  # More than the faults take.
pytestmark = pytest.mark.skipif(not REPETITIONS, reason='MASM_JAX_FAULT_REPETITIONS is not set')
# How a process may end whose peer is gone: found out by a collective operation, or by heartbeats.
LOST = {peers.LOST_STATUS, -signal.SIGABRT}


def execute(arguments, log):
  """What each process does: `python -m masm_jax.main`, but that the imports are done already."""
  with log.open('wb') as file:
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
  os.chdir(REPOSITORY)
  os.environ['XLA_FLAGS'] = (
    '--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0'
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  preset = backbones.get_preset('demo_vit')
  shallow = dataclasses.replace(preset, config=dataclasses.replace(preset.config, depth=2))
  backbones.get_preset = lambda name: shallow  # Two blocks of six: each start takes seconds less.
  sys.argv = ['masm_jax.main', *arguments]
  from masm_jax import cli, main

  cli.run(main.main)


class Run:
  """Two processes of one run, started again and again.

  Args:
    workdir: of the run.
    flags: of `masm_jax.main`.
    logs: folder for what the processes print.
  """

  def __init__(self, workdir, flags, logs):
    self.workdir, self.flags, self.logs = workdir, [*flags, f'--workdir={workdir}'], logs
    self.processes, self.begun_at, self.cut = [], 0, None

  def start(self):
    """Starts both processes; they resume from the newest complete checkpoint that can be read."""
    self.begun_at = ([0] + [step for step in self.saved_steps() if step != self.cut])[-1]
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      own = [f'--coordinator=127.0.0.1:{probe.getsockname()[1]}', '--num_processes=2']
    context = multiprocessing.get_context('forkserver')
    self.processes = [
      context.Process(
        target=execute, args=([*self.flags, *own, f'--process_id={i}'], self.logs / f'{i}.log')
      )
      for i in range(2)
    ]
    for i, process in enumerate(self.processes):
      (self.logs / f'{i}.log').unlink(missing_ok=True)
      process.start()

  def reach(self, steps):
    """Returns when so many more steps are done, and the processes make progress."""
    deadline = time.monotonic() + 300
    # A first line of progress says that what the last start wrote in vain is forgotten.
    while not re.search(r'^train ', self.words()[0], re.M) or (
      self.last_step() < self.begun_at + steps
    ):
      assert time.monotonic() < deadline, f'the run makes no progress: {self.words()}'
      assert all(process.is_alive() for process in self.processes), self.words()
      time.sleep(0.01)

  def ends(self, bound_s=BOUND_S):
    """Exit statuses and last words of both, who must end within the bound."""
    deadline = time.monotonic() + bound_s
    for process in self.processes:
      process.join(max(0, deadline - time.monotonic()))
    statuses = [process.exitcode for process in self.processes]
    for process in self.processes:
      process.kill()
    assert None not in statuses, f'still there after {bound_s} s: {statuses}, {self.words()}'
    words = self.words()
    resumed = f'resuming from step {self.begun_at}\n'
    assert not self.begun_at or all(resumed in text for text in words), words
    if self.cut:
      assert (self.workdir / 'damaged_checkpoints' / f'{self.cut:08d}').exists()
      self.cut = None
    return statuses, words

  def words(self):
    logs = [self.logs / f'{i}.log' for i in range(2)]
    return [log.read_text() if log.exists() else '' for log in logs]

  def saved_steps(self):
    folder = self.workdir / 'checkpoints'
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())

  def last_step(self):
    metrics = self.workdir / 'metrics.jsonl'
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    whole = [line for line in lines if line.endswith('\n')]
    return json.loads(whole[-1])['step'] if whole else 0

  def final_state(self):
    """Every array of the last checkpoint, by name."""
    folder = self.workdir / 'checkpoints' / f'{STEPS:08d}' / 'state'
    with ocp.PyTreeCheckpointer() as checkpointer:
      names = checkpointer.metadata(folder).item_metadata.tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
      saved = checkpointer.restore(folder, restore_args=as_numpy)
    return {str(path): np.asarray(leaf) for path, leaf in jax.tree.flatten_with_path(saved)[0]}


@pytest.fixture
def make_run(tmp_path):
  portraits = synthetic.materialize(
    tmp_path / 'set',
    num_identities=12,
    videos_per_identity=1,
    frames_per_video=2,
    num_processes=1,
    progress=False,
  )
  fields = {
    'backbone.weights': 'random',
    'backbone.image_size': 16,
    'subspace.targets': 'attention',
    'data.train.manifest': portraits,
    'data.val.manifest': portraits,
    **{f'data.tests.{name}.manifest': '' for name in ('checkerboard', 'poisson', 'regenerate')},
    'data.tests.known.manifest': portraits,
    'train.batch_size': 8,
    'train.duration': f'{STEPS} steps',
    'eval.every': f'{STEPS} steps',
    'eval.batch_size': 16,
    'checkpoint.every': f'{SAVE_EVERY} steps',
    'log.every_steps': 3,
    'mask.warmup_steps': 4,
    'mask.refresh_steps': 5,
  }
  flags = [
    '--config=configs/demo.py:method=masm',
    f'--compilation_cache={tmp_path / "xla"}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]

  def make(folder):
    logs = tmp_path / f'logs_{folder.name}'
    logs.mkdir()
    return Run(folder / 'run', flags, logs)

  multiprocessing.get_context('forkserver').set_forkserver_preload(
    ['masm_jax.main', 'masm_jax.training.loop', 'tensorboardX', __name__]
  )
  return make


@pytest.fixture
def disk(tmp_path):
  """A file system of 96 MB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=96m', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('no file system can be mounted here')
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


def test_a_run_that_meets_faults_ends_as_one_that_met_none(make_run, tmp_path, disk):
  (tmp_path / 'undisturbed').mkdir()
  undisturbed = make_run(tmp_path / 'undisturbed')
  undisturbed.start()
  statuses, words = undisturbed.ends(900)
  assert statuses == [0, 0], words

  run = make_run(disk)
  rng = np.random.default_rng(0)
  for repetition in range(REPETITIONS):
    for fault in (
      kill_one,
      stop_all,
      fill_the_disk,
      cut_the_newest_checkpoint,
      empty_one_iterator_state,
    ):
      begun = time.monotonic()
      what = fault(run, rng)
      seconds = time.monotonic() - begun
      print(f'{repetition + 1}: {fault.__name__}: {what} ({seconds:.0f} s)', flush=True)
  run.start()
  statuses, words = run.ends(900)
  assert statuses == [0, 0], words
  for name in ('metrics.jsonl', 'masks.jsonl', 'results.json'):
    actual = (run.workdir / name).read_text().splitlines()
    assert actual == (undisturbed.workdir / name).read_text().splitlines(), name
  expected, actual = undisturbed.final_state(), run.final_state()
  assert expected.keys() == actual.keys() and len(expected) > 50
  for name, leaf in expected.items():
    np.testing.assert_array_equal(actual[name], leaf, err_msg=name)


def kill_one(run, rng):
  """One process is killed at a random moment: the other says so and ends."""
  run.start()
  run.reach(int(rng.integers(1, 12)))
  time.sleep(rng.uniform(0, 0.3))
  victim = int(rng.integers(2))
  run.processes[victim].kill()
  at = run.last_step()
  begun = time.monotonic()
  statuses, words = run.ends()
  assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] in LOST, words
  assert re.search('another process of this run is gone|another task died', words[1 - victim])
  # A checkpoint was begun by then, and is the newest unless it was being written.
  assert max(run.saved_steps(), default=0) >= (at // SAVE_EVERY - 1) * SAVE_EVERY
  return (
    f'process {victim} at step {at} or later; the other ended with {statuses[1 - victim]} after '
    f'{time.monotonic() - begun:.1f} s; saved is step {max(run.saved_steps(), default=0)}'
  )


def stop_all(run, rng):
  """All are asked to stop: they save, at the same step, and nothing is lost."""
  run.start()
  run.reach(int(rng.integers(1, 12)))
  at = run.last_step()
  for process in run.processes:
    process.terminate()
  statuses, words = run.ends()
  assert statuses == [128 + signal.SIGTERM] * 2, words
  stopped = run.saved_steps()[-1]
  assert f'stopped by signal 15 after step {stopped} of {STEPS}' in words[0]
  assert stopped >= at
  return f'after step {at} was written; stopped and saved after step {stopped}'


def fill_the_disk(run, rng):
  """The disk fills up before the next save: that is said, and the last good one stays."""
  del rng
  folder = run.workdir.parent
  newest = run.saved_steps()[-1]
  room = 2**18  # Enough for some metrics, not for a checkpoint.
  with (folder / 'filler').open('wb') as file:
    file.write(b'\0' * (os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize - room))
  run.start()
  statuses, words = run.ends()
  assert statuses == [2, 2], words  # Nothing that a scheduler would start again.
  (line,), (other,) = [re.findall('^error: .*', text, re.M) for text in words]
  assert 'No space left on device' in line and 'No space left on device' in other
  assert run.saved_steps()[-1] == newest
  (folder / 'filler').unlink()
  return f'after step {newest}; ended with {statuses}: {line}'


def cut_the_newest_checkpoint(run, rng):
  """What a broken disk leaves: the next start takes the one before it."""
  steps = run.saved_steps()
  files = [
    p for p in (run.workdir / f'checkpoints/{steps[-1]:08d}/state').rglob('*') if p.is_file()
  ]
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, int(largest.stat().st_size * rng.uniform(0.1, 0.9)))
  run.cut = steps[-1]
  return f'step {steps[-1]}; the next start takes step {steps[-2]}'


def empty_one_iterator_state(run, rng):
  """A file that one process alone reads is empty: both take the checkpoint before."""
  stop_all(run, rng)  # Another start, which forgets the last damage, and another checkpoint.
  steps = run.saved_steps()
  os.truncate(run.workdir / f'checkpoints/{steps[-1]:08d}/data/process_1-of-2.json', 0)
  run.cut = steps[-1]
  return f'process 1, step {steps[-1]}; the next start takes step {steps[-2]}'
