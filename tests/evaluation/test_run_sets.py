"""The sets of an evaluation: leaks, odd and missing ones, copies of videos, sets without labels."""

import shutil

import cv2
import ml_collections
import numpy as np
import pytest

from configs import common, cross_eval
from masm_jax import telemetry
from masm_jax.data import manifest as manifest_lib
from masm_jax.data import synthetic
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation.run import evaluate
from masm_jax.inference import stored
from masm_jax.metrics import scores
from masm_jax.report import __main__ as report
from tests.evaluation.suites import make_suite, metric_of, own_suite, report_shows_all


def test_leaks_stand_first_and_odd_sets_are_handled(run, portraits, tmp_path):
  table = manifest_lib.load_manifest(portraits).table
  fake = table[table['label'] == 1]
  one_video = fake[fake['video_id'] == fake['video_id'].iloc[0]]
  single = portraits.parent / 'one_video.parquet'
  manifest_lib.write_manifest(manifest_lib.build_manifest(one_video, portraits.parent), single)
  suite = own_suite(
    portraits,
    clean={},
    empty={'dataset': 'elsewhere'},
    trained_on={'split': 'train'},
    single={'manifest': str(single), 'split': ''},
  )
  evaluate(run, suite, tmp_path / 'out', step='last')
  found = telemetry.read_json(tmp_path / 'out' / 'results.json')
  kinds = [(warning['set'], warning['kind']) for warning in found['warnings']]
  leaked = {kind for name, kind in kinds if name == 'trained_on' and kind.startswith('leak')}
  assert leaked == {'leak_files', 'leak_videos', 'leak_identities'}
  urgency = [results.urgency(kind) for _, kind in kinds]
  assert urgency == sorted(urgency) and urgency[0] == 0
  assert not any(kind.startswith('leak') for name, kind in kinds if name == 'clean')
  assert ('empty', 'empty') in kinds and ('single', 'one_class') in kinds
  assert ('single', 'few_clusters') in kinds
  for name in ('empty', 'single'):
    for level in scores.LEVELS:
      assert all(np.isnan(metric_of(found, name, level, 'auroc')))
  assert found['sets']['empty']['frame']['num'] == 0
  assert found['run']['checkpoint'] == 'last' and found['run']['step'] == 4
  assert 'feature' not in scores.read_scores(results.scores_path(tmp_path / 'out', 'clean'))


def test_without_the_training_set_leaks_are_said_to_be_unchecked(run, portraits, tmp_path):
  suite = own_suite(portraits, clean={})
  suite.train.manifest = str(tmp_path / 'gone.parquet')
  suite.val.manifest = str(portraits)
  suite.val.methods = ('swap',)
  evaluate(run, suite, tmp_path / 'out')
  kinds = [
    warning['kind']
    for warning in telemetry.read_json(tmp_path / 'out' / 'results.json')['warnings']
  ]
  assert kinds.index('leak_unchecked') < kinds.index('manifest_changed')


def test_copies_of_whole_videos_are_a_curve_beside_those_of_crops(run, portraits, tmp_path):
  """Crops of perturbed videos, stood in for by blurred portraits, from manifests by a pattern."""
  for level, size in ((1, 5), (5, 15)):
    folder = tmp_path / f'known_VC{level}'
    shutil.copytree(portraits.parent, folder)
    for path in folder.rglob('*.png'):
      cv2.imwrite(str(path), cv2.blur(cv2.imread(str(path)), (size, size)))
    table = manifest_lib.load_manifest(portraits).table.drop(columns='sha256')
    manifest = manifest_lib.build_manifest(table.to_dict('records'), folder)
    manifest_lib.write_manifest(manifest, folder / 'manifest.parquet')
    telemetry.write_json(
      folder / 'preprocess.json', {'perturbation': {'key': 'VC', 'level': level}}
    )
  suite = own_suite(portraits, known={'methods': ('swap',)}, other={'methods': ('poisson',)})
  suite.update_from_flattened_dict(
    {'robustness.perturbations': ('CC', 'VC'), 'robustness.levels': (1, 5), 'temperature': True,
     'robustness.sets': ('known',),
     'robustness.copies': f'{tmp_path}/{{set}}_{{key}}{{level}}/manifest.parquet'}
  )  # fmt: skip
  evaluate(run, suite, tmp_path / 'out')
  found = telemetry.read_json(tmp_path / 'out' / 'results.json')
  assert list(found['robustness']) == ['known'] and list(found['robustness']['known']) == [
    'CC',
    'VC',
  ]
  clean = scores.read_scores(results.scores_path(tmp_path / 'out', 'known'))
  moved = []
  for point in found['robustness']['known']['VC']:
    table = scores.read_scores(tmp_path / 'out' / point['file'])
    assert table['path'].tolist() == clean['path'].tolist()  # The same rows of the copy.
    assert point['frame']['num'] == len(clean)
    moved.append(np.abs(table['logit'] - clean['logit']).mean())
  assert 0 < moved[0] < moved[1]
  assert not {'other_videos', 'perturbation_unchecked'} & {w['kind'] for w in found['warnings']}
  report_shows_all(tmp_path / 'out', tmp_path / 'report.html', curves=['CC', 'VC'])


@pytest.mark.parametrize(
  ('fields', 'step', 'message'),
  [
    ({'val.split': 'test'}, 'best', 'val.split = test: thresholds are chosen on validation data'),
    ({'bootstrap.unit': 'frame'}, 'best', "bootstrap.unit = 'frame'"),
    ({'batch_size': 0}, 'best', 'batch_size = 0: it must be at least 1'),
    ({'robustness.perturbations': ('XY',)}, 'best', "no perturbation 'XY'; there are"),
    ({'robustness.sets': ('nowhere',)}, 'best', "no set 'nowhere'"),
    ({}, '3', r'does not hold step 3; it keeps 2, 4'),
    ({}, 'first', "no checkpoint 'first'"),
  ],
)
def test_bad_suites_are_refused_before_anything_is_scored(run, tmp_path, fields, step, message):
  with pytest.raises(UserError, match=message):
    evaluate(run, make_suite(**fields), tmp_path / 'out', step=step)
  assert not (tmp_path / 'out').exists()


def test_a_set_that_is_not_there_is_named_with_the_way_out(run, portraits, tmp_path):
  suite = own_suite(portraits, clean={}, mine={'manifest': 'nowhere.csv'})
  with pytest.raises(UserError, match=r'set mine: no manifest at nowhere.csv.*sets=NAME'):
    evaluate(run, suite, tmp_path / 'out')


def test_thresholds_are_not_chosen_on_rows_marked_test(run, portraits, tmp_path):
  suite = own_suite(portraits, clean={})
  suite.val.manifest, suite.val.split = str(portraits), ''
  with pytest.raises(UserError, match='rows are marked test'):
    evaluate(run, suite, tmp_path / 'out')


def test_the_runs_own_built_in_set_is_drawn_as_the_run_says(run, portraits, tmp_path, monkeypatch):
  """A suite with sets of its own does not change what the run's validation set is."""
  drawn = []

  def materialize(root, *, seed, size_px, strength, num_identities):
    drawn.append((str(root), seed, size_px))
    return portraits

  monkeypatch.setattr(synthetic, 'materialize', materialize)
  suite = own_suite(portraits, clean={'manifest': 'synthetic'})
  suite.synthetic.seed, suite.synthetic.root = 7, 'suite'
  own = stored.read_config

  def synthetic_run(document, workdir):
    config = own(document, workdir)
    config.data.val.manifest, config.data.synthetic.root = 'synthetic', 'run'
    return config

  monkeypatch.setattr(stored, 'read_config', synthetic_run)
  evaluate(run, suite, tmp_path / 'out')
  assert drawn == [('run', 0, 64), ('suite', 7, 64)]


def test_the_published_protocols_name_their_sets():
  named = cross_eval.get_config('protocol=cross_dataset').sets
  assert len(named) == 19 and named.cdfv2.manifest == 'data/cdfv2/manifest.parquet'
  within = cross_eval.get_config('protocol=within').sets
  assert within.ffpp_NT.methods == ('NT',) and 'ffpp_c40' in within
  assert 'df40_efs' in cross_eval.get_config('protocol=cross_manipulation').sets
  chosen = cross_eval.get_config('sets=cdfv2+dfdc,robustness=gend')
  assert list(chosen.sets) == ['cdfv2', 'dfdc']
  assert 'gend_jpeg' in chosen.robustness.perturbations
  with pytest.raises(ValueError, match='no protocol'):
    cross_eval.get_config('protocol=x')


def test_a_suite_takes_any_name_of_a_set():
  chosen = cross_eval.get_config('sets=mine+cdfv2+ffpp_DF').sets
  assert set(chosen) == {'mine', 'cdfv2', 'ffpp_DF'}
  assert (chosen.mine.manifest, chosen.mine.split) == ('data/mine/manifest.parquet', 'test')
  assert chosen.ffpp_DF.methods == ('DF',)  # A name of another protocol means what it means there.


def test_data_without_labels_have_scores_and_no_metrics(
  run, portraits, tmp_path, capsys, monkeypatch
):
  manifest = manifest_lib.load_manifest(portraits).select(split='test')
  table = manifest.table.assign(label=-1, split='', method='')
  path = tmp_path / 'new.parquet'
  manifest_lib.write_manifest(manifest_lib.build_manifest(table, manifest.root), path)
  suite = make_suite()
  fields = {'manifest': str(path), 'root': str(manifest.root), 'split': ''}
  with suite.unlocked():
    suite.sets = {
      'new': ml_collections.ConfigDict(dict(common.dataset()) | fields),
      'known': ml_collections.ConfigDict(dict(common.dataset(str(portraits), 'test'))),
    }
  out = tmp_path / 'out'
  evaluate(run, suite, out)
  found = scores.read_scores(results.scores_path(out, 'new'))
  assert len(found) == len(manifest) and found['score'].between(0, 1).all()
  same = scores.read_scores(results.scores_path(out, 'known')).set_index('path')['score']
  shared = found.set_index('path')['score'].loc[same.index]
  np.testing.assert_allclose(shared, same, atol=1e-6)
  document = results.read(out)
  n = len(found)
  told = (
    f'new: {n} of {n} frames have no label: scores, but no metrics (the scores: scores/new.parquet)'
  )
  assert told in [warning.text for warning in document.warnings]
  assert document.sets['new'].frame.num == 0
  assert f'WARNING: {told}' in capsys.readouterr().out
  # What reads evaluations takes it as it is.
  assert report.main([str(out), '--out', str(tmp_path / 'report.html')]) == 0
  with suite.unlocked():
    suite.val = ml_collections.ConfigDict(dict(common.dataset()) | fields)
  with pytest.raises(UserError, match=f'val: {n} of {n} rows have no label'):
    evaluate(run, suite, tmp_path / 'other')
