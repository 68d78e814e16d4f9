"""Evaluations of detector files: the run's own numbers, without its base weights or its images."""

import json
import shutil

import numpy as np
import pytest

from configs import cross_eval
from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation.run import evaluate
from masm_jax.export import detector as export
from masm_jax.export.request import Request
from masm_jax.metrics import scores


def make_suite(portraits=None, **fields):
  suite = cross_eval.get_config('protocol=run,sets=known' if portraits else 'protocol=run')
  suite.update_from_flattened_dict({'batch_size': 16, 'bootstrap.draws': 30, **fields})
  if portraits:
    suite.sets.known.update({'manifest': str(portraits), 'methods': ('swap', 'reenact')})
  return suite


@pytest.fixture(scope='module')
def pair(trained_run, portraits, tmp_path_factory):
  """Evaluations of a run, and of the detector file that was exported from it."""
  folder = tmp_path_factory.mktemp('pair')
  export.write(Request(run=trained_run, out=folder / 'detector'))
  suite = make_suite(portraits, temperature=True)
  evaluate(trained_run, suite, folder / 'run')
  evaluate(folder / 'detector', suite, folder / 'file')
  return folder / 'run', folder / 'file'


def test_scores_and_metrics_are_those_of_the_run(pair):
  tables = [scores.read_scores(folder / 'scores' / 'known.parquet') for folder in pair]
  assert list(tables[0]['path']) == list(tables[1]['path'])
  for column in ('score', 'logit'):
    np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=0, atol=1e-6)
  run, file = map(results.read, pair)
  assert set(run.sets) == {'val', 'known'} and set(file.sets) == {'known'}
  for level in scores.LEVELS:
    assert file.protocol.threshold.at(level) == pytest.approx(
      run.protocol.threshold.at(level), abs=1e-6
    )
    for name, value in run.sets['known'].at(level).metrics.items():
      other = file.sets['known'].at(level).metric(name)
      for bound in ('value', 'low', 'high'):
        expected = getattr(value, bound)
        assert getattr(other, bound) == pytest.approx(expected, abs=1e-6, nan_ok=True), name
  assert file.protocol.temperature.frame == pytest.approx(run.protocol.temperature.frame)
  assert 'detector file' in file.protocol.threshold.origin
  assert file.run.trained_weights == run.run.trained_weights
  assert file.masks is None
  # The training set is not at hand: leaks cannot be looked for, which is said.
  assert 'leak_unchecked' in [warning.kind for warning in file.warnings]
  document = json.loads((pair[1] / 'results.json').read_text())
  assert document['run']['config']['data']['val']['manifest'] == ''


def test_a_file_names_no_test_set(pair, tmp_path):
  with pytest.raises(UserError, match=r'names no test set: .*--suite\.sets\.NAME\.manifest=FILE'):
    evaluate(pair[1].parent / 'detector', make_suite(), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_thresholds_are_of_mean_scores_unless_the_validation_set_is_given(
  pair, portraits, tmp_path
):
  detector = pair[1].parent / 'detector'
  with pytest.raises(UserError, match='thresholds are of videos scored by their mean'):
    evaluate(detector, make_suite(portraits, video_score='max'), tmp_path / 'out')
  suite = make_suite(portraits, video_score='max', **{'val.manifest': str(portraits)})
  evaluate(detector, suite, tmp_path / 'out')
  found = results.read(tmp_path / 'out')
  assert set(found.sets) == {'val', 'known'}
  assert 'detector file' not in found.protocol.threshold.origin


def test_a_file_without_validation_has_no_threshold(pair, portraits, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(pair[1].parent / 'detector', copy)
  note = json.loads((copy / 'detector.json').read_text())
  files.write_sealed(copy / 'detector.json', note | {'validation': None})
  evaluate(copy, make_suite(portraits), tmp_path / 'out')
  found = results.read(tmp_path / 'out')
  assert np.isnan(found.protocol.threshold.frame)
  texts = [warning.text for warning in found.warnings]
  assert 'the detector file holds none: there is no threshold to carry over' in texts
  assert found.sets['known'].frame.metric('auroc').value > 0
  assert np.isnan(found.sets['known'].frame.metric('fpr@threshold').value)


def test_a_damaged_file_is_one_line(pair, portraits, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(pair[1].parent / 'detector', copy)
  (copy / 'weights.safetensors').write_bytes(b'')
  with pytest.raises(UserError, match=r'weights\.safetensors is not the file') as told:
    evaluate(copy, make_suite(portraits), tmp_path / 'out')
  assert '\n' not in str(told.value) and not (tmp_path / 'out').exists()
