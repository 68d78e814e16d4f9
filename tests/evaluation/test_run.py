"""Whole evaluations: over devices and processes, killed and started again, with leaks, refused."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import cv2
import jax
import markupsafe
import ml_collections
import numpy as np
import pytest

from configs import common, cross_eval
from masm_jax import telemetry
from masm_jax.checkpoints import reading as saved_run
from masm_jax.data import manifest as manifest_lib
from masm_jax.data import synthetic
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation import run as cross_evaluation
from masm_jax.evaluation.run import evaluate
from masm_jax.inference import stored
from masm_jax.metrics import scores
from masm_jax.report import __main__ as report

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SETS = ('known', 'poisson', 'regenerate')


@pytest.fixture(scope='module')
def run(trained_run):
  return trained_run


def make_suite(**fields):
  suite = cross_eval.get_config('protocol=run')
  suite.update_from_flattened_dict({'batch_size': 16, 'bootstrap.draws': 30, **fields})
  return suite


@pytest.fixture(scope='module')
def on_eight_devices(run, tmp_path_factory):
  """In this process, which has eight virtual devices."""
  out = tmp_path_factory.mktemp('eight') / 'out'
  evaluate(run, make_suite(**{'robustness.perturbations': ('CS',)}), out)
  return out


FLAGS = ('--suite.batch_size=16', '--suite.bootstrap.draws=30')


def command(run, out, suite='protocol=run,robustness=CS'):
  return [
    *('-m', 'masm_jax.evaluate', f'--checkpoint={run}', f'--out={out}'),
    *(f'--suite=configs/cross_eval.py:{suite}', *FLAGS),
  ]


def environment(**variables):
  return (
    os.environ
    | {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}
    | variables
  )


def assert_close(one, two, where=''):
  """Equal, numbers to 1e-6."""
  if isinstance(one, dict):
    assert one.keys() == two.keys(), where
    for key in one:
      assert_close(one[key], two[key], f'{where}/{key}')
  elif isinstance(one, list):
    assert len(one) == len(two), where
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
      assert_close(a, b, f'{where}/{i}')
  elif isinstance(one, float) and isinstance(two, float):
    assert one == pytest.approx(two, abs=1e-6), where
  else:
    assert one == two, where


def assert_same_metrics(one, two):
  first, second = (
    telemetry.read_json(one / 'results.json'),
    telemetry.read_json(two / 'results.json'),
  )
  for part in ('warnings', 'protocol', 'sets', 'robustness'):
    assert_close(first[part], second[part], part)


def test_the_folder_holds_scores_metrics_and_protocol(on_eight_devices, run, portraits):
  found = telemetry.read_json(on_eight_devices / 'results.json')
  trained = telemetry.read_json(run / 'results.json')
  assert list(found)[:2] == ['format', 'warnings']
  assert found['run']['step'] == trained['best']['step'] == found['run']['best_step']
  assert found['run']['last_step'] == 4 and found['run']['trainable_parameters'] == 194
  assert found['run']['config']['train']['duration'] == '4 steps'
  # The best checkpoint's metrics are those that training reported.
  for name in ('val', *SETS):
    for level in scores.LEVELS:
      reported = trained['best']['sets'][name][level]
      value, low, high = metric_of(found, name, level, 'auroc')
      assert value == pytest.approx(reported['auroc'], abs=1e-6)
      assert low <= high
  threshold = found['protocol']['threshold']
  assert threshold['frame'] == trained['best']['sets']['val']['frame']['eer_threshold']
  facts = found['protocol']['sets']['known']
  table = scores.read_scores(results.scores_path(on_eight_devices, 'known'))
  assert facts['frames'] == len(table) == found['sets']['known']['frame']['num']
  assert facts['frames_per_video'] == {'min': 2.0, 'median': 2.0, 'max': 2.0}
  assert facts['manifest'] == str(portraits) and facts['split'] == 'test'
  called = table['score'] >= threshold['frame']
  assert metric_of(found, 'known', 'frame', 'accuracy@threshold')[0] == pytest.approx(
    np.mean(called == table['label']), abs=1e-12
  )
  assert all(len(feature) == 96 for feature in table['feature'])
  shown = table['thumbnail'].notna()
  assert shown.any() and (called[shown] != table['label'][shown]).all()
  assert set(found['sets']['known']['groups']['method']) == {
    *('swap', 'upsample', 'reenact', 'texture')
  }
  assert found['masks'] is None and found['subspaces'] is None


def test_perturbed_sets_are_scored_from_perturbed_pixels(on_eight_devices):
  curve = telemetry.read_json(on_eight_devices / 'results.json')['robustness']['known']['CS']
  assert [(point['level'], point['parameter']) for point in curve] == [
    (1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1), (5, 0.0),
  ]  # fmt: skip
  clean = scores.read_scores(results.scores_path(on_eight_devices, 'known'))
  tables = [scores.read_scores(on_eight_devices / point['file']) for point in curve]
  moved = [np.abs(table['logit'] - clean['logit']).mean() for table in tables]
  assert min(moved) > 0.01 and len(set(moved)) == 5
  for table in tables:
    assert table['path'].tolist() == clean['path'].tolist() and 'feature' not in table


def test_one_device_killed_and_started_again_does_not_redo_what_is_done(
  run, on_eight_devices, tmp_path
):
  """SIGKILL behind the first sets; the second attempt resumes, and ends as eight devices did."""
  out = tmp_path / 'out'
  with subprocess.Popen(
    [sys.executable, *command(run, out)], cwd=REPOSITORY, env=environment(),
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  ) as process:  # fmt: skip
    while not (out / 'progress' / 'scores' / 'poisson.json').is_file():
      assert process.poll() is None
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
  assert not (out / 'results.json').exists()
  before = {path: path.stat().st_ino for path in out.glob('scores/*.parquet')}
  assert results.scores_path(out, 'known') in before
  again = subprocess.run(
    [sys.executable, *command(run, out)], cwd=REPOSITORY, env=environment(),
    capture_output=True, text=True, timeout=200,
  )  # fmt: skip
  assert again.returncode == 0, again.stderr
  noted = {results.scores_path(out, name) for name in ('val', 'known', 'poisson')}
  assert all(path.stat().st_ino == before[path] for path in noted)
  assert 'scores/known.parquet: scored before' in again.stderr
  assert 'AUROC' in again.stdout and 'WARNING: ' in again.stdout
  assert_same_metrics(out, on_eight_devices)
  assert not list(out.rglob('*.partial'))


def test_two_processes_give_the_metrics_of_one(run, on_eight_devices, tmp_path):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = str(probe.getsockname()[1])
  two = subprocess.run(
    ['launch/local.sh', '2', *command(run, tmp_path / 'out')[2:]], cwd=REPOSITORY,
    capture_output=True, text=True, timeout=300,
    env=environment(PYTHON=sys.executable, PORT=port, MODULE='masm_jax.evaluate'),
  )  # fmt: skip
  assert two.returncode == 0, two.stderr
  assert_same_metrics(tmp_path / 'out', on_eight_devices)
  assert two.stdout.count('Metrics: ') == 1


def test_a_manifest_that_one_process_cannot_read_ends_both(run, tmp_path):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    flags = [f'--coordinator=127.0.0.1:{probe.getsockname()[1]}', '--num_processes=2']
  missing = tmp_path / 'gone.parquet'
  processes = [
    subprocess.Popen(
      [sys.executable, *command(run, tmp_path / 'out', 'protocol=run'), *flags,
       f'--process_id={i}', *([f'--suite.val.manifest={missing}'] if i else [])],
      cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]  # fmt: skip
  said = [process.communicate(timeout=200)[1] for process in processes]
  assert [process.returncode for process in processes] == [2, 2], said
  zero, one = [[line for line in text.splitlines() if 'error: ' in line] for text in said]
  assert len(zero) == len(one) == 1 and one[0].startswith('error: ') and str(missing) in one[0]
  assert zero == [one[0].replace('error: ', 'error: process 1 of this run ended: ', 1)]
  assert not (tmp_path / 'out' / 'results.json').exists()


def test_a_finished_evaluation_repeats_to_the_byte(run, on_eight_devices, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(on_eight_devices, copy)
  (copy / 'results.json').unlink()
  shutil.rmtree(copy / 'progress' / 'robustness')  # These are scored again.
  evaluate(run, make_suite(**{'robustness.perturbations': ('CS',)}), copy)
  for path in on_eight_devices.rglob('*.*'):
    assert path.read_bytes() == (copy / path.relative_to(on_eight_devices)).read_bytes(), path


def own_suite(portraits, **sets):
  """A suite of sets of its own, each a choice of rows of the portraits."""
  suite = make_suite(features_per_set=0, mistakes_per_set=0)
  base = suite.val.to_dict() | {'manifest': str(portraits)}
  with suite.unlocked():
    suite.sets = ml_collections.ConfigDict(
      {name: base | {'split': 'test'} | fields for name, fields in sets.items()}
    )
  return suite


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


def report_shows_all(out, page, *, curves):
  """The report of a real evaluation: its metrics, its curves, its warnings, nothing else asked."""
  assert report.main([str(out), f'--out={page}', '--tsne-points=12']) == 0
  html, found = page.read_text(), telemetry.read_json(out / 'results.json')
  for sets in found['sets'].values():
    for level in scores.LEVELS:
      for part in (sets[level], sets[level].get('calibrated', {'metrics': {}})):
        for metric in part['metrics'].values():
          value, low, high = (float(metric[key]) for key in ('value', 'low', 'high'))
          if np.isfinite(low):
            assert f'{value:.3f}<small>{low:.3f}–{high:.3f}</small>' in html
  for curve in curves:
    aurocs = [found['sets']['known']['video']['metrics']['auroc']['value']]
    aurocs += [
      point['video']['metrics']['auroc']['value'] for point in found['robustness']['known'][curve]
    ]
    listed = ', '.join(f'{float(value):.3f}' for value in aurocs)
    assert f'AUROC of known under {curve}: videos, video: {listed}' in html
  shown = html[html.index('<body>') :]
  places = [shown.index(markupsafe.escape(w['text'])) for w in found['warnings']]
  assert places and max(places) < shown.index('<h1>')
  for name in ('config_sha256', 'base_weights', 'trained_weights', 'val_manifest'):
    assert found['run'][name] in html


def test_the_report_shows_a_real_evaluation(on_eight_devices, tmp_path):
  report_shows_all(on_eight_devices, tmp_path / 'report.html', curves=['CS'])
  html = (tmp_path / 'report.html').read_text()
  assert 'Synthetic' not in html  # The portraits came by a manifest of their own.
  assert html.count('src="data:image/jpeg;base64,') > 3 and 't-SNE of features of known' in html


def test_weights_trained_anew_are_not_given_the_scores_of_the_old(
  run, on_eight_devices, monkeypatch
):
  """The same config and the same step: what was learned tells them apart."""
  kept = (on_eight_devices / 'results.json').read_bytes()
  restored = saved_run.SavedRun.trainable

  def trained_anew(self, step, target):
    return jax.tree.map(lambda x: x * 1.001, restored(self, step, target))

  monkeypatch.setattr(saved_run.SavedRun, 'trainable', trained_anew)
  with pytest.raises(UserError, match=r'other weights: this run was trained anew .* another --out'):
    evaluate(run, make_suite(), on_eight_devices)
  assert (on_eight_devices / 'results.json').read_bytes() == kept


def test_a_folder_of_an_earlier_version_is_named_so(tmp_path):
  identity = {'config_sha256': 'c', 'step': 4, 'base_weights': 'b', 'trained_weights': 't'}
  old = {name: identity[name] for name in ('config_sha256', 'step', 'base_weights')}
  telemetry.write_json(tmp_path / 'evaluation.json', old)
  with pytest.raises(UserError, match=r'made by an earlier version, .* another --out') as caught:
    cross_evaluation._claim(tmp_path, identity)
  assert 'trained anew' not in str(caught.value) and '\n' not in str(caught.value)


def test_a_folder_of_another_checkpoint_is_refused(run, on_eight_devices):
  with pytest.raises(UserError, match='holds the evaluation of another checkpoint'):
    evaluate(run, make_suite(), on_eight_devices, step='2' if best(run) == 4 else '4')


def metric_of(document, name, level, metric):
  found = document['sets'][name][level]['metrics'][metric]
  return tuple(float(found[key]) for key in ('value', 'low', 'high'))


def best(run):
  return telemetry.read_json(run / 'results.json')['best']['step']


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


def test_other_base_weights_are_refused(run, tmp_path):
  with pytest.raises(UserError, match='trained on other base weights'):
    evaluate(run, make_suite(), tmp_path / 'out', weights='random')


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


def test_the_commands_errors_are_one_line(run, tmp_path):
  for flags, message in (
    ([], 'give --checkpoint'),
    ([f'--checkpoint={tmp_path}', f'--out={tmp_path}/o', '--suite=cross_eval:protocol=x'],
     "no protocol 'x'"),
  ):  # fmt: skip
    result = subprocess.run(
      [sys.executable, '-m', 'masm_jax.evaluate', *flags], cwd=REPOSITORY, env=environment(),
      capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert message in line


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


def test_reading_refuses_a_training_run(run):
  with pytest.raises(UserError, match=r'a training run has a results.json of its own'):
    results.read(run)


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
