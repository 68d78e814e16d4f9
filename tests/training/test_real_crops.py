"""The main job on real crops with a real pretrained ViT-Ti: both from the check data, not shipped.

The synthetic twin of this test is `test_train.py`, which runs everywhere.
"""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import cross_eval
from masm_jax import telemetry
from masm_jax.evaluation.run import evaluate
from tests import running

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WEIGHTS = 'weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'


@pytest.fixture(scope='module')
def manifests(shared_data, tmp_path_factory):
  """Manifests of the FF++ and Celeb-DF crops, made by the importer's command."""
  folder = tmp_path_factory.mktemp('manifests')
  crops = shared_data / 'real_crops'
  made = {}
  for name, split in (('FF', 'train'), ('CDFv2', 'test')):
    listing = folder / f'{name}.txt'
    listing.write_text('\n'.join(str(path) for path in sorted((crops / name).rglob('*.png'))))
    made[name] = folder / f'{name}.parquet'
    command = [sys.executable, '-m', 'masm_jax.data', 'import', '--format', 'gend', '--root', crops]
    subprocess.run(
      [*command, '--input', listing, '--split', split, '--output', made[name]],
      check=True, cwd=REPOSITORY, capture_output=True,
    )  # fmt: skip
  return made


@pytest.fixture(scope='module')
def masm_run(shared_data, manifests, tmp_path_factory):
  """MASM after 60 steps on twenty real crops: its directory, and what it printed as errors."""
  crops, workdir = shared_data / 'real_crops', tmp_path_factory.mktemp('masm') / 'run'
  fields = {
    'backbone.weights': shared_data / WEIGHTS, 'backbone.image_size': 112,
    'data.train.manifest': manifests['FF'], 'data.train.root': crops,
    'data.val.manifest': manifests['FF'], 'data.val.root': crops, 'data.val.split': 'train',
    'data.tests.ffpp.manifest': '',
    'data.tests.celebdf_v2.manifest': manifests['CDFv2'], 'data.tests.celebdf_v2.root': crops,
    'train.batch_size': 10, 'eval.batch_size': 16, 'eval.on_train': True,
    'train.duration': '60 steps', 'eval.every': '60 steps', 'checkpoint.every': '60 steps',
    'mask.warmup_steps': 10, 'mask.refresh_steps': 10, 'optim.learning_rate': 5e-4,
  }  # fmt: skip
  result = running.run(
    ['-m', 'masm_jax.main', f'--workdir={workdir}',
     '--config=configs/ffpp.py:method=masm,backbone=augreg_ti16',
     *(f'--config.{name}={value}' for name, value in fields.items())],
    timeout_s=500,
    variables={'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  return workdir, result.stderr


def test_masm_overfits_twenty_real_crops(masm_run):
  workdir, stderr = masm_run
  losses = [
    line['train/loss_task']
    for line in telemetry.read_lines(workdir / 'metrics.jsonl')
    if 'train/loss_task' in line
  ]
  assert losses[-1] < 0.75 * losses[0]
  results = telemetry.read_json(workdir / 'results.json')['last']['sets']
  assert results['train']['frame']['auroc'] > 0.97
  assert results['train']['frame']['num'] == 20 and results['train']['video']['num'] == 5
  assert results['celebdf_v2']['frame']['num'] == 12 and results['celebdf_v2']['video']['num'] == 3
  assert 0.0 <= results['celebdf_v2']['frame']['auroc'] <= 1.0
  masks = telemetry.read_lines(workdir / 'masks.jsonl')
  assert [np.array(line['mask']).shape for line in masks] == [(12, 4)] * 6
  assert 'validation shares 5 videos or source videos with the training set' in stderr


def test_a_suite_on_real_crops_does_not_depend_on_the_devices(masm_run, tmp_path):
  """One device and eight; two processes are in `test_evaluate.py`, on the synthetic set."""
  suite = cross_eval.get_config('protocol=run')
  suite.update_from_flattened_dict(
    {'batch_size': 16, 'bootstrap.draws': 100, 'features_per_set': 0}
  )
  found = []
  for devices in (jax.devices()[:1], jax.devices()):
    out = tmp_path / str(len(devices))
    evaluate(masm_run[0], suite, out, devices=devices)
    found.append(telemetry.read_json(out / 'results.json'))
  one, eight = found
  assert one['protocol']['sets'] == eight['protocol']['sets']
  assert one['protocol']['sets']['celebdf_v2']['frames'] == 12
  assert one['warnings'] == eight['warnings']
  assert 'leak_files' in {warning['kind'] for warning in one['warnings']}  # val is train here.
  assert not any('leak' in w['kind'] for w in one['warnings'] if w['set'] == 'celebdf_v2')
  assert len(one['masks']) == 6  # Every 10 of the 60 steps.
  for name in ('val', 'celebdf_v2'):
    for level in ('frame', 'video'):
      first, second = (results['sets'][name][level]['metrics'] for results in found)
      for metric, entry in first.items():
        for key, value in entry.items():
          np.testing.assert_allclose(
            float(value), float(second[metric][key]), rtol=0, atol=1e-6, err_msg=metric
          )
