"""Sweeps that are killed, runs that fail or are killed, and what the next attempt makes of them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from masm_jax.data import synthetic
from masm_jax.sweep import local

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TABLES = ('table.md', 'table.csv', 'table.json')
SWEEPS = """
BASE = 'configs/demo.py:method=linear'
BASE_FIELDS = {}
SWEEPS = {
  'two': {'about': 'Two rates.', 'rows': {
    'slow': {'optim.learning_rate': 1e-4}, 'fast': {'optim.learning_rate': 1e-2}}},
  'broken': {'about': 'One diverges.', 'rows': {
    'diverges': {'optim.learning_rate': 1e38}, 'fast': {'optim.learning_rate': 1e-2}}},
}
"""


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
  """A small synthetic set, a file of sweeps, and compiled programs that all tests share."""
  folder = tmp_path_factory.mktemp('sweep')
  manifest = synthetic.materialize(
    folder / 'set', num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1,
    progress=False,
  )  # fmt: skip
  (folder / 'sweeps.py').write_text(SWEEPS)
  return folder, manifest


def command(setting, name, workdir, *more):
  folder, manifest = setting
  fields = {
    'data.train.manifest': manifest, 'data.val.manifest': manifest,
    'data.tests.known.manifest': manifest, 'data.tests.checkerboard.manifest': '',
    'data.tests.poisson.manifest': '', 'data.tests.regenerate.manifest': '',
    'train.batch_size': 8, 'train.duration': '40 steps', 'log.every_steps': 2,
    'eval.every': '20 steps', 'eval.batch_size': 16, 'checkpoint.every': '4 steps',
  }  # fmt: skip
  return [
    sys.executable, 'launch/sweep.py', name, f'--sweeps={folder / "sweeps.py"}', '--seeds=0,1',
    f'--workdir={workdir}', f'--compilation_cache={folder / "xla"}', '--jobs=1',
    *(f'--config.{field}={value}' for field, value in fields.items()), *more,
  ]  # fmt: skip


def environment():
  return os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}


def run(*args):
  return subprocess.run(
    command(*args), capture_output=True, text=True, timeout=300, cwd=REPOSITORY, env=environment()
  )


def start(*args):
  return subprocess.Popen(
    command(*args), stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment()
  )


def wait_for_lines(process, run_directory, count):
  """Returns when a run has written that many lines of metrics."""
  metrics = run_directory / 'metrics.jsonl'
  while not (metrics.exists() and metrics.read_bytes().count(b'\n') >= count):
    assert process.poll() is None
    time.sleep(0.005)


@pytest.fixture(scope='module')
def undisturbed(setting, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'sweep'
  result = run(setting, 'two', workdir)
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


def test_a_sweep_ends_with_its_table(undisturbed):
  workdir, stdout = undisturbed
  assert [line.split(' after')[0] for line in stdout.splitlines()[:8]] == [
    'slow/seed0: starts', 'slow/seed0: finished', 'fast/seed0: starts', 'fast/seed0: finished',
    'slow/seed1: starts', 'slow/seed1: finished', 'fast/seed1: starts', 'fast/seed1: finished',
  ]  # fmt: skip
  assert (workdir / 'report.md').read_text() in stdout
  rows = [line for line in (workdir / 'table.md').read_text().splitlines() if line[:2] == '| ']
  assert [row.split()[1].strip('-') for row in rows] == ['two', '', 'slow', 'fast']
  gflop = [float(row.split('|')[-2]) for row in rows[2:]]
  assert gflop[0] == gflop[1] > 0.1
  assert ' 194 |' in rows[2] and '±' in rows[2] and rows[2].split('|')[2] != rows[3].split('|')[2]
  log = (workdir / 'runs' / 'slow' / 'seed1' / 'log.txt').read_text()
  assert log.startswith('$ python -m masm_jax.main ') and '--config.seed=1' in log


def test_a_killed_sweep_does_what_is_left_and_gives_the_same_table(setting, undisturbed, tmp_path):
  workdir = tmp_path / 'sweep'
  with start(setting, 'two', workdir) as process:
    wait_for_lines(process, workdir / 'runs' / 'fast' / 'seed0', 4)
    process.kill()
  assert process.returncode == -signal.SIGKILL
  finished = workdir / 'runs' / 'slow' / 'seed0' / 'results.json'
  written = finished.stat().st_mtime_ns
  assert not (workdir / 'runs' / 'fast' / 'seed0' / 'results.json').exists()
  result = run(setting, 'two', workdir)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[:2] == ['slow/seed0: finished before', 'fast/seed0: resumes']
  assert 'slow/seed1: starts' in lines and finished.stat().st_mtime_ns == written
  assert 'resuming from step' in (workdir / 'runs' / 'fast' / 'seed0' / 'log.txt').read_text()
  for name in TABLES:
    assert (workdir / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name


def test_sigterm_lets_the_run_save(setting, tmp_path):
  with start(setting, 'two', tmp_path) as process:
    wait_for_lines(process, tmp_path / 'runs' / 'slow' / 'seed0', 2)
    process.terminate()
    stdout = process.communicate(timeout=120)[0]
  assert process.returncode == 128 + signal.SIGTERM
  assert 'stopped by signal 15; the same command resumes from here' in stdout
  assert 'it is saved' in (tmp_path / 'runs' / 'slow' / 'seed0' / 'log.txt').read_text()


def test_a_failure_and_a_killed_run_stop_no_other(setting, tmp_path):
  args = (setting, 'broken', tmp_path, '--seeds=0')
  with start(*args) as process:
    victim = tmp_path / 'runs' / 'fast' / 'seed0'
    wait_for_lines(process, victim, 2)
    os.kill(json.loads((victim / '.lock').read_text())['pid'], signal.SIGKILL)
    stdout = process.communicate(timeout=120)[0]
  assert process.returncode == 1 and not (tmp_path / 'table.md').exists()
  assert 'fast/seed0: FAILED, killed by SIGKILL after' in stdout
  again = run(*args)
  assert again.returncode == 2  # All that failed is the user's to mend.
  assert 'fast/seed0: resumes' in again.stdout and 'fast/seed0: finished' in again.stdout
  (error,) = [line for line in again.stderr.splitlines() if line.startswith('error: ')]
  assert error.startswith(
    'error: diverges/seed0: status 2: error: the loss of step 2 is not finite'
  )
  assert '| diverges (0 of 1 seeds) ' in (tmp_path / 'table.md').read_text()


def test_cores_are_divided(monkeypatch):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2, 3, 5}, raising=False)
  assert local.core_shares(1) == [None]
  assert local.core_shares(2) == [{0, 2, 5}, {1, 3}]
  assert local.core_shares(5) == [{0}, {1}, {2}, {3}, {5}]
  assert local.core_shares(6) == [None] * 6
