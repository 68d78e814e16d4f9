"""The main job on real crops with a real pretrained ViT-Ti: both from the check data, not shipped.

The synthetic twin of this test is `test_train.py`, which runs everywhere.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from masm_jax import telemetry

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
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


def test_masm_overfits_twenty_real_crops(shared_data, manifests, tmp_path):
  crops, workdir = shared_data / 'real_crops', tmp_path / 'run'
  fields = {
    'backbone.weights': shared_data / WEIGHTS,
    'data.train.manifest': manifests['FF'], 'data.train.root': crops,
    'data.val.manifest': manifests['FF'], 'data.val.root': crops, 'data.val.split': 'train',
    'data.tests.ffpp.manifest': '',
    'data.tests.celebdf_v2.manifest': manifests['CDFv2'], 'data.tests.celebdf_v2.root': crops,
    'train.batch_size': 10, 'eval.batch_size': 16, 'eval.on_train': True,
    'train.duration': '30 steps', 'eval.every': '30 steps', 'checkpoint.every': '30 steps',
    'mask.warmup_steps': 10, 'mask.refresh_steps': 10,
  }  # fmt: skip
  result = subprocess.run(
    [sys.executable, '-m', 'masm_jax.main', f'--workdir={workdir}',
     '--config=configs/ffpp.py:method=masm,backbone=augreg_ti16',
     *(f'--config.{name}={value}' for name, value in fields.items())],
    cwd=REPOSITORY, capture_output=True, text=True, timeout=500,
    env=os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  losses = [
    line['train/loss_task']
    for line in telemetry.read_lines(workdir / 'metrics.jsonl')
    if 'train/loss_task' in line
  ]
  assert losses[-1] < 0.75 * losses[0]
  results = telemetry.read_json(workdir / 'results.json')['last']['sets']
  assert results['train']['frame']['auroc'] > 0.99
  assert results['train']['frame']['num'] == 20 and results['train']['video']['num'] == 5
  assert results['celebdf_v2']['frame']['num'] == 12 and results['celebdf_v2']['video']['num'] == 3
  assert 0.0 <= results['celebdf_v2']['frame']['auroc'] <= 1.0
  masks = telemetry.read_lines(workdir / 'masks.jsonl')
  assert [np.array(line['mask']).shape for line in masks] == [(12, 4)] * 3
  assert 'validation shares 5 videos or source videos with the training set' in result.stderr
