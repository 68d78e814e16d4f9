"""Runs and evaluations that version 0.1 made (commit 613eb89) are still resumed, evaluated, read.

`fixtures/version_0_1.tar.xz` holds `runs/{masm,linear}`, trained for six steps on the synthetic
portraits, and `evaluations/{masm,linear}` of them; the portraits are drawn anew beside it.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from masm_jax.data import synthetic, transforms
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.export import detector as export
from masm_jax.export.request import Request
from masm_jax.inference import stored
from masm_jax.prediction import predictor
from masm_jax.training import loop
from tests import running

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
METHODS = ('masm', 'linear')
SETS = ('val', 'known', 'poisson')


@pytest.fixture(scope='module')
def old(old_runs, tmp_path_factory):
  """The folder in which version 0.1 worked."""
  folder = tmp_path_factory.mktemp('old')
  shutil.copytree(old_runs.parent, folder, dirs_exist_ok=True)
  synthetic.materialize(
    folder / 'portraits', num_identities=12, videos_per_identity=1, frames_per_video=2,
    num_processes=1, progress=False,
  )  # fmt: skip
  return folder


def run(folder, *arguments):
  """A command of the package, run in `folder`; (status, stdout, stderr)."""
  variables = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = running.run(['-m', *arguments], cwd=folder, variables=variables)
  return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module', params=METHODS)
def evaluated(request, old):
  """(old evaluation, the same made by this version from the same run)."""
  method = request.param
  new = old / 'new' / method
  code, _, stderr = run(
    old, 'masm_jax.evaluate', f'--checkpoint=runs/{method}', f'--out={new}',
    f'--suite={REPOSITORY}/configs/cross_eval.py:protocol=run,robustness=CS',
    '--suite.batch_size=16', '--suite.bootstrap.draws=30', '--suite.robustness.levels=1,3',
    '--suite.features_per_set=4', '--suite.mistakes_per_set=1',
  )  # fmt: skip
  assert code == 0, stderr
  return old / 'evaluations' / method, new


def test_an_old_run_gets_the_scores_that_it_had(evaluated):
  before, _ = evaluated
  files = sorted(path.relative_to(before) for path in before.rglob('*.parquet'))
  assert len(files) == len(SETS) + 4
  for file in files:
    old, new = (pd.read_parquet(folder / file) for folder in evaluated)
    pd.testing.assert_frame_equal(
      old[['path', 'video_id', 'label', 'frame', 'method']],
      new[['path', 'video_id', 'label', 'frame', 'method']],
    )
    for column in ('score', 'logit'):
      np.testing.assert_allclose(new[column], old[column], rtol=0, atol=1e-6)


def numbers(value, where=''):
  """Every number below a JSON value, by its place."""
  if isinstance(value, dict):
    return {k: v for key, part in value.items() for k, v in numbers(part, f'{where}/{key}').items()}
  if isinstance(value, list):
    return {k: v for i, part in enumerate(value) for k, v in numbers(part, f'{where}/{i}').items()}
  return {where: float(value)} if isinstance(value, (int, float)) or value == 'nan' else {}


def test_an_old_run_gets_the_metrics_that_it_had(evaluated):
  before, after = (json.loads((folder / 'results.json').read_text()) for folder in evaluated)
  for part in ('sets', 'robustness', 'protocol'):
    old, new = numbers(before[part]), numbers(after[part])
    assert set(old) <= set(new) and len(old) > 10
    hollow = set()
    for place, value in old.items():
      # Where a class stands in a single cluster, 0.1 gave an interval all the same.
      if place.endswith(('/low', '/high')) and new[place] != new[place]:
        hollow.add(place)
        continue
      assert new[place] == pytest.approx(value, abs=1e-6, nan_ok=True), place
    assert len(hollow) < len(old) / 3
  assert before['run']['trained_weights'] == after['run']['trained_weights']
  assert before['masks'] == after['masks']


@pytest.mark.parametrize('method', METHODS)
def test_an_old_run_becomes_a_detector_file_of_the_same_scores(old, method, monkeypatch):
  monkeypatch.chdir(old)
  export.write(Request(run=pathlib.Path('runs', method), out=pathlib.Path('detectors', method)))
  detector = predictor.load(pathlib.Path('detectors', method), batch_size=16)
  table = pd.read_parquet(pathlib.Path('runs', method, 'scores', 'best', 'known.parquet'))
  crops = [transforms.decode(old / 'portraits' / path) for path in table['path']]
  np.testing.assert_allclose(detector.score(crops), table['score'], rtol=0, atol=1e-6)
  # The images are at hand: the file knows how far from them a picture is.
  assert detector.validation.features.num and detector.file.training.sets == ('synthetic',)


def test_old_evaluations_are_compared_and_reported(old):
  folders = [f'evaluations/{method}' for method in METHODS]
  code, stdout, stderr = run(old, 'masm_jax.compare', *folders, '--out=comparison')
  assert code == 0, stderr
  stored = [json.loads((old / folder / 'results.json').read_text()) for folder in folders]
  value = stored[1]['sets']['known']['video']['metrics']['auroc']['value']
  table = stdout.split('## AUROC, video level\n')[1]
  assert next(line for line in table.splitlines() if line.startswith('| linear')).startswith(
    f'| linear | {value:.3f} ['
  )
  code, _, stderr = run(old, 'masm_jax.report', *folders, '--out=report.html', '--tsne-points=0')
  assert code == 0, stderr
  page = (old / 'report.html').read_text()
  assert f'{value:.3f}<small>' in page and 'runs/linear' in page


@pytest.mark.parametrize('method', METHODS)
def test_old_evaluations_are_read_into_types(old, method):
  found = results.read(old / 'evaluations' / method)
  stored = json.loads((old / 'evaluations' / method / 'results.json').read_text())
  assert found.run.method == method and found.run.crops is None and found.started == ''
  assert tuple(found.sets) == SETS
  of = stored['sets']['known']['video']['metrics']['eer']
  assert found.sets['known'].video.metrics['eer'].value == of['value']
  assert [warning.text for warning in found.warnings] == [w['text'] for w in stored['warnings']]


def test_training_resumes_from_an_old_checkpoint(old, monkeypatch):
  """A run that was stopped after its last checkpoint: the same weights, the same results."""
  monkeypatch.chdir(old)
  workdir = old / 'resumed' / 'linear'
  shutil.copytree(old / 'runs' / 'linear', workdir)
  before = json.loads((workdir / 'results.json').read_text())
  (workdir / 'results.json').unlink()
  document = json.loads((workdir / 'run.json').read_text())['config']
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    assert loop.train(stored.read_config(document, workdir), workdir) == 0
  after = json.loads((workdir / 'results.json').read_text())
  assert after.pop('format') == 'masm_jax training 1' and 'format' not in before
  for part in ('best', 'last'):
    assert numbers(after[part]) == pytest.approx(numbers(before[part]), abs=1e-6, nan_ok=True)
  assert after['best']['step'] == 6 and after['inputs'] == before['inputs']


def test_a_state_with_other_parts_is_refused_with_one_line(old, monkeypatch):
  """Since 0.1 the statistics of layer masks are kept in two halves."""
  monkeypatch.chdir(old)
  workdir = old / 'resumed' / 'masm'
  shutil.copytree(old / 'runs' / 'masm', workdir)
  document = json.loads((workdir / 'run.json').read_text())['config']
  config = stored.read_config(document, workdir)
  with (
    jax.numpy_dtype_promotion('standard'),
    pytest.raises(UserError, match='a run of another version of this program, whose state') as told,
  ):
    loop.train(config, workdir)
  assert '\n' not in str(told.value)
  assert (workdir / 'checkpoints' / '00000006').is_dir()  # It stays where it was.
