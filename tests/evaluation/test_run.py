"""Whole evaluations: over devices and processes, killed and started again, refused."""

import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import demo
from masm_jax import telemetry
from masm_jax.checkpoints import reading as saved_run
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation import run as cross_evaluation
from masm_jax.evaluation.run import evaluate
from masm_jax.metrics import scores
from masm_jax.training.loop import train
from tests import running
from tests.evaluation.suites import REPOSITORY, environment, make_suite, metric_of, report_shows_all

SETS = ('known', 'poisson', 'regenerate')


@pytest.fixture(scope='module')
def on_eight_devices(run, tmp_path_factory):
  """In this process, which has eight virtual devices."""
  out = tmp_path_factory.mktemp('eight') / 'out'
  evaluate(run, make_suite(**{'robustness.perturbations': ('CS',)}), out)
  return out


VARIABLES = {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}
FLAGS = ('--suite.batch_size=16', '--suite.bootstrap.draws=30')


def command(run, out, suite='protocol=run,robustness=CS'):
  return [
    *('-m', 'masm_jax.evaluate', f'--checkpoint={run}', f'--out={out}'),
    *(f'--suite=configs/cross_eval.py:{suite}', *FLAGS),
  ]


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
  process = running.start(command(run, out), variables=VARIABLES)
  while not (out / 'progress' / 'scores' / 'poisson.json').is_file():
    assert process.poll() is None
    time.sleep(0.002)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  assert not (out / 'results.json').exists()
  before = {path: path.stat().st_ino for path in out.glob('scores/*.parquet')}
  assert results.scores_path(out, 'known') in before
  again = running.run(command(run, out), variables=VARIABLES)
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
    running.start(
      [*command(run, tmp_path / 'out', 'protocol=run'), *flags,
       f'--process_id={i}', *([f'--suite.val.manifest={missing}'] if i else [])],
      variables=VARIABLES,
    )
    for i in range(2)
  ]  # fmt: skip
  statuses = [process.wait(200) for process in processes]
  said = [process.stderr() for process in processes]
  assert statuses == [2, 2], said
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


def test_a_run_and_an_evaluation_do_not_overwrite_each_other(run, on_eight_devices, tmp_path):
  kept = [(folder / 'results.json').read_bytes() for folder in (run, on_eight_devices)]
  with pytest.raises(UserError, match='is the folder of a training run'):
    evaluate(run, make_suite(), run)
  config = demo.get_config()
  with pytest.raises(UserError, match='is the folder of an evaluation'):
    train(config, on_eight_devices)
  assert kept == [(folder / 'results.json').read_bytes() for folder in (run, on_eight_devices)]
  config.data.train.manifest = 'nowhere.csv'
  with pytest.raises(UserError, match=r'nowhere\.csv'):
    train(config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()  # It made the folder, and nothing is in it.


def best(run):
  return telemetry.read_json(run / 'results.json')['best']['step']


def test_other_base_weights_are_refused(run, tmp_path):
  with pytest.raises(UserError, match='trained on other base weights'):
    evaluate(run, make_suite(), tmp_path / 'out', weights='random')


def test_the_commands_errors_are_one_line(run, tmp_path):
  for flags, message in (
    ([], 'give --checkpoint'),
    ([f'--checkpoint={tmp_path}', f'--out={tmp_path}/o', '--suite=cross_eval:protocol=x'],
     "no protocol 'x'"),
  ):  # fmt: skip
    result = running.run(['-m', 'masm_jax.evaluate', *flags], variables=VARIABLES)
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert message in line


def test_reading_refuses_a_training_run(run):
  with pytest.raises(UserError, match=r'a training run has a results.json of its own'):
    results.read(run)
