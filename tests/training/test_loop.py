"""Whole runs: end to end through `main`, killed and resumed, repeated, spread over devices."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest

from masm_jax import telemetry
from masm_jax.data import synthetic
from tests import running

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def portraits(tmp_path_factory):
  """A small synthetic set: 8 identities to train on, 48 crops."""
  root = tmp_path_factory.mktemp('portraits') / 'set'
  return synthetic.materialize(
    root,
    num_identities=12,
    videos_per_identity=1,
    frames_per_video=2,
    num_processes=1,
    progress=False,
  )


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Compiled programs are shared by the runs of this file."""
  return tmp_path_factory.mktemp('xla')


def command(portraits, cache, workdir, method='masm', **fields):
  fields = {
    'backbone.weights': 'random',
    'data.train.manifest': portraits,
    'data.val.manifest': portraits,
    'data.tests.checkerboard.manifest': '',
    'data.tests.poisson.manifest': '',
    'data.tests.regenerate.manifest': '',
    'data.tests.known.manifest': portraits,
    'data.augment': 'gend',
    'train.batch_size': 8,
    'train.duration': '12 steps',
    'eval.every': '5 steps',
    'checkpoint.every': '4 steps',
    'log.every_steps': 3,
    'mask.warmup_steps': 4,
    'mask.refresh_steps': 2,
    'mask.keep_by': 'share',
    'mask.keep': 0.5,
    'eval.batch_size': 16,
    # Four kernels: to trace and to compile all 36 takes three times as long.
    'subspace.targets': 'backbone/block_0[45]/(attn/q|mlp/fc1)',
    **fields,
  }
  return [
    sys.executable,
    '-m',
    'masm_jax.main',
    f'--config=configs/demo.py:method={method}',
    f'--workdir={workdir}',
    f'--compilation_cache={cache}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def environment(num_devices=1):
  return {
    # Unoptimised code compiles in half the time, and these programs run for milliseconds.
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}'
    ' --xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
  }


def run(*args, num_devices=1, **fields):
  return running.run(
    command(*args, **fields)[1:], cwd=REPOSITORY, variables=environment(num_devices)
  )


def start(*args, **fields):
  return running.start(command(*args, **fields)[1:], cwd=REPOSITORY, variables=environment())


def wait_for_lines(process, workdir, count):
  """Returns when the run has written that many lines of metrics."""
  metrics = workdir / 'metrics.jsonl'
  while not (metrics.exists() and metrics.read_bytes().count(b'\n') >= count):
    assert process.poll() is None, process.stderr()
    time.sleep(0.005)


def final_state(workdir, step=12):
  """Every array of a checkpoint, by name."""
  tree = ocp.StandardCheckpointer().restore(workdir / 'checkpoints' / f'{step:08d}' / 'state')
  flat, _ = __import__('jax').tree.flatten_with_path(tree)
  return {str(path): np.asarray(leaf) for path, leaf in flat}


def assert_same_run(first, second):
  for name in ('metrics.jsonl', 'masks.jsonl', 'results.json'):
    assert (first / name).read_bytes() == (second / name).read_bytes(), name
  one, two = final_state(first), final_state(second)
  assert one.keys() == two.keys() and len(one) > 60
  for name, leaf in one.items():
    np.testing.assert_array_equal(leaf, two[name], err_msg=name)
  for file in sorted(first.glob('scores/*/*.parquet')):
    pd.testing.assert_frame_equal(
      pd.read_parquet(file), pd.read_parquet(second / file.relative_to(first)), check_exact=True
    )


@pytest.fixture(scope='module')
def undisturbed(portraits, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  result = run(portraits, cache, workdir)
  assert result.returncode == 0, result.stderr
  return workdir, result


def test_a_run_leaves_its_record_metrics_scores_and_results(undisturbed, portraits):
  workdir, result = undisturbed
  record = telemetry.read_json(workdir / 'run.json')
  assert record['config']['train']['duration'] == '12 steps'
  assert record['versions']['jax'] and set(record['manifest_sha256']) == {
    'train',
    'val',
    'test/known',
    'base_weights',
  }
  lines = telemetry.read_lines(workdir / 'metrics.jsonl')
  assert [line['step'] for line in lines if 'train/loss' in line] == [3, 6, 9, 12]
  assert [line['step'] for line in lines if 'val/video_auroc' in line] == [5, 10, 12]
  masks = telemetry.read_lines(workdir / 'masks.jsonl')
  assert [line['step'] for line in masks] == [4, 6, 8, 10, 12]
  assert np.array(masks[0]['mask']).sum(axis=0).tolist() == [1, 1, 1, 1]  # Half of two blocks.
  results = telemetry.read_json(workdir / 'results.json')
  best = max(
    (line for line in lines if 'val/video_auroc' in line),
    key=lambda line: (line['val/video_auroc'], -line['step']),
  )
  assert results['best']['step'] == best['step']
  assert results['best']['sets']['val']['video']['auroc'] == best['val/video_auroc']
  assert results['last']['step'] == 12
  table = pd.read_parquet(workdir / 'scores' / 'last' / 'known.parquet')
  assert len(table) == results['last']['sets']['known']['frame']['num']
  # 2 blocks x (an attention kernel's 2 x 96 + an MLP kernel's 96 + 384) x 32 components, the
  # singular values, and the head.
  expected = 2 * (2 * 96 + 96 + 384) * 32 + 2 * 2 * 32 + 96 * 2 + 2
  assert results['trainable_parameters'] == expected
  assert f'Trainable: {expected:,} parameters' in result.stdout
  assert 'known' in result.stdout and 'AUROC' in result.stdout


def test_two_runs_of_one_config_are_identical(undisturbed, portraits, cache, tmp_path):
  workdir, first = undisturbed
  second = run(portraits, cache, tmp_path / 'run', **{'data.num_workers': 1})
  assert second.returncode == 0, second.stderr
  assert_same_run(workdir, tmp_path / 'run')
  assert first.stdout == second.stdout


@pytest.mark.parametrize('lines_before_kill', [2, 4])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
  undisturbed, portraits, cache, tmp_path, lines_before_kill
):
  workdir = tmp_path / 'run'
  process = start(portraits, cache, workdir)
  wait_for_lines(process, workdir, lines_before_kill)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  assert not (workdir / 'results.json').exists()
  result = run(portraits, cache, workdir)
  assert result.returncode == 0, result.stderr
  assert_same_run(undisturbed[0], workdir)


def test_sigterm_saves_and_the_run_goes_on(undisturbed, portraits, cache, tmp_path):
  workdir = tmp_path / 'run'
  fields = {'checkpoint.every': '1000 steps', 'eval.every': '1000 steps'}
  process = start(portraits, cache, workdir, **fields)
  wait_for_lines(process, workdir, 1)
  process.terminate()
  assert process.wait() == 128 + signal.SIGTERM, process.stderr()
  assert 'stopped by signal 15 after step' in process.stderr()
  (saved,) = (workdir / 'checkpoints').glob('0*')
  assert 3 <= int(saved.name) < 12
  result = run(portraits, cache, workdir, **fields)
  assert result.returncode == 0, result.stderr
  expected, actual = final_state(undisturbed[0]), final_state(workdir)
  assert sum('trainable' in name for name in expected) > 10
  for name, leaf in expected.items():
    if 'trainable' in name:
      np.testing.assert_array_equal(leaf, actual[name], err_msg=name)


def test_eight_devices_see_the_same_batches_and_begin_alike(
  undisturbed, portraits, cache, tmp_path
):
  fields = {'train.duration': '3 steps', 'log.every_steps': 1}
  lines = {}
  for num_devices in (1, 8):
    workdir = tmp_path / str(num_devices)
    result = run(portraits, cache, workdir, num_devices=num_devices, **fields)
    assert result.returncode == 0, result.stderr
    lines[num_devices] = [
      line for line in telemetry.read_lines(workdir / 'metrics.jsonl') if 'train/loss' in line
    ]
  assert [a['data/crc32'] for a in lines[1]] == [a['data/crc32'] for a in lines[8]]
  for name in ('train/loss', 'train/grad_norm', 'train/orthogonality'):
    np.testing.assert_allclose(lines[1][0][name], lines[8][0][name], rtol=1e-5, atol=1e-7)


def test_two_processes_compute_what_one_does(portraits, cache, tmp_path):
  """Through the local launcher: each process has its own device and half of every batch.

  With the losses over pairs of examples, which must be pairs of the whole batch.
  """
  fields = {'train.duration': '2 steps', 'log.every_steps': 1, 'head.normalize_features': True}
  fields |= {'loss.alignment': 0.1, 'loss.uniformity': 0.5, 'lsda.weight': 0.5}
  alone = run(portraits, cache, tmp_path / 'alone', **fields)
  assert alone.returncode == 0, alone.stderr
  flags = command(portraits, cache, tmp_path / 'two', **fields)[3:]
  two = subprocess.run(
    ['launch/local.sh', '2', *flags], capture_output=True, text=True, timeout=300, cwd=REPOSITORY,
    env=os.environ | environment() | {'PYTHON': sys.executable, 'PORT': str(free_port())},
  )  # fmt: skip
  assert two.returncode == 0, two.stderr
  lines = [telemetry.read_lines(tmp_path / name / 'metrics.jsonl') for name in ('alone', 'two')]
  parts = ('loss', 'grad_norm', 'orthogonality', 'alignment', 'uniformity', 'lsda')
  for name in (f'train/{part}' for part in parts):
    np.testing.assert_allclose(lines[0][0][name], lines[1][0][name], rtol=1e-5, atol=1e-7)
  results = [
    telemetry.read_json(tmp_path / name / 'results.json')['last']['sets']['known']['frame']
    for name in ('alone', 'two')
  ]
  assert results[0]['num'] == results[1]['num']
  assert abs(results[0]['auroc'] - results[1]['auroc']) <= 0.005


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def test_a_checkpoint_of_another_config_is_refused(undisturbed, portraits, cache):
  result = run(portraits, cache, undisturbed[0], **{'subspace.rank': 2})
  assert result.returncode == 2
  assert result.stderr.strip().splitlines()[-1].startswith('error: ')
  assert 'another config (subspace.rank: 8 -> 2)' in result.stderr
  assert 'Traceback' not in result.stderr


def test_a_loss_that_is_not_finite_stops_the_run(portraits, cache, tmp_path):
  fields = {'optim.learning_rate': 1e30, 'checkpoint.every': '1 steps', 'log.every_steps': 1}
  result = run(portraits, cache, tmp_path / 'run', method='full', **fields)
  assert result.returncode == 2
  (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert 'the loss of step 2 is not finite' in line and 'last good checkpoint: step 1;' in line
  named = json.loads((tmp_path / 'run' / 'nonfinite.json').read_text())
  assert named['step'] == 2 and len(named['records']) == len(named['paths']) == 8
  kept = sorted(path.name for path in (tmp_path / 'run' / 'checkpoints').glob('0*'))
  assert kept == ['00000001']
