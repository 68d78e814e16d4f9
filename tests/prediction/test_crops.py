"""A run remembers how its crops were made, and crops made otherwise are warned of."""

import json
import shutil

import pytest

from configs import cross_eval
from masm_jax import files
from masm_jax.data.crop_settings import CropSettings, read_crop_settings
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.evaluation import results
from masm_jax.evaluation.run import evaluate
from masm_jax.prediction import predictor

TRAINED = CropSettings('gend', 1.3, 64)


@pytest.fixture
def run(trained_run, tmp_path):
  """The shared run, as if its crops had been made by preprocessing."""
  copy = tmp_path / 'run'
  shutil.copytree(trained_run, copy)
  record = json.loads((copy / 'run.json').read_text())
  assert record['crops'] == []  # Portraits are drawn: nothing tells how they were cut.
  files.write_sealed(copy / 'run.json', record | {'crops': [TRAINED.to_json()]})
  return copy


def remade(portraits, path, settings):
  """The test rows of the portraits, as if their crops had been made so."""
  manifest = load_manifest(portraits).select(split='test')
  table = manifest.table.assign(**settings.columns())
  write_manifest(build_manifest(table, manifest.root), path)
  return str(path)


def suite(manifest):
  made = cross_eval.get_config('sets=mine')
  made.update_from_flattened_dict(
    {'sets.mine.manifest': manifest, 'batch_size': 16, 'bootstrap.draws': 5}
  )
  return made


def test_crops_made_otherwise_are_warned_of(run, portraits, tmp_path):
  for name, settings, warned in (('same', TRAINED, 0), ('wide', CropSettings('gend', 1.8, 64), 1)):
    manifest = remade(portraits, tmp_path / f'{name}.parquet', settings)
    assert read_crop_settings(load_manifest(manifest)) == (settings,)
    evaluate(run, suite(manifest), tmp_path / name)
    found = results.read(tmp_path / name)
    texts = [warning.text for warning in found.warnings if warning.kind == 'crops_differ']
    assert len(texts) == warned
    assert all('margin 1.8' in text and 'margin 1.3' in text for text in texts)
    assert (found.run.crops.template, found.run.crops.margin) == ('gend', 1.3)


def test_the_detector_tells_how_its_crops_were_made(run, trained_run):
  assert predictor.load(run).crops == (TRAINED,)
  assert predictor.load(trained_run).crops == ()
  (run / 'run.json').write_text('{"crops": [{"template": 7}, "x", {"margin": []}]}')  # Damaged.
  assert predictor.load(run).crops == ()
