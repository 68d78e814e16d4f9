"""Sweeps resolve to full commands, and what cannot run is refused before anything starts."""

import pathlib
import subprocess
import sys
import types

import pytest

from masm_jax import config as config_lib
from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.methods import METHODS
from masm_jax.sweep import job_files, plan

# ml_collections loads config files by a function that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SWEEPS = plan.load_sweeps(str(REPOSITORY / 'configs' / 'ablations.py'))


def make(name, tmp_path, sweeps=SWEEPS, seeds=(0,), **kwargs):
  return plan.make_sweep(sweeps, name, workdir=tmp_path, seeds=seeds, **kwargs)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize('name', SWEEPS.SWEEPS)
def test_every_sweep_resolves_on_the_demo_and_on_ffpp(name, tmp_path):
  for base in (None, 'configs/ffpp.py:backbone=augreg_ti16'):
    sweep = make(name, tmp_path, base=base)
    assert [run.row for run in sweep.runs] == list(SWEEPS.SWEEPS[name]['rows'])
    configs = {config_lib.fingerprint(run.config) for run in sweep.runs}
    if not (base is None and name == 'spectral_kind'):
      assert len(configs) == len(sweep.runs)  # No row repeats another.
    assert SWEEPS.SWEEPS[name]['about'].endswith('.')


def test_what_the_component_rows_are(tmp_path):
  sweep = make('components', tmp_path, seeds=(0, 7))
  assert [run.name for run in sweep.runs][:7] == [
    'none/seed0', '+mask/seed0', '+subspaces/seed0', '+orthogonality/seed0', '+spectrum/seed0',
    'all/seed0', 'none/seed7',
  ]  # fmt: skip
  fields = ('mask.kind', 'subspace.num_subspaces', 'regularizer.orthogonality',
            'regularizer.spectral', 'seed')  # fmt: skip
  found = {run.name: tuple(config_lib.flatten(run.config)[f] for f in fields) for run in sweep.runs}
  assert found['none/seed0'] == ('none', 1, 0.0, 0.0, 0)
  assert found['+mask/seed0'] == ('dynamic', 1, 0.0, 0.0, 0)
  assert found['+subspaces/seed0'] == ('none', 4, 0.0, 0.0, 0)
  assert found['+orthogonality/seed7'] == ('none', 1, 1.0, 0.0, 7)
  assert found['+spectrum/seed7'] == ('none', 1, 0.0, 1.0, 7)
  assert found['all/seed7'] == ('dynamic', 4, 1.0, 1.0, 7)


def test_every_method_is_a_row():
  assert set(SWEEPS.SWEEPS['methods']['rows']) == set(METHODS)


def test_a_method_is_given_as_the_argument_that_other_fields_follow(tmp_path):
  sweep = make('methods', tmp_path, fields={'train.batch_size': '16'}, more_flags=['--x=1'])
  (run,) = sweep.runs_of('full')
  assert run.config.method == 'full' and run.config.optim.learning_rate == 5e-4
  assert run.config.train.batch_size == 16
  assert run.args[0] == '--config=demo:method=full' and run.args[-1] == '--x=1'
  assert run.flags()[-1] == f'--workdir={tmp_path}/runs/full/seed0'


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': 'colour'}, "no sweep 'colour': there are forms, scale, components"),
    ({'seeds': (1, 1)}, '--seeds=1,1: give different numbers'),
    ({'fields': {'seed': '3'}}, '--config.seed: a sweep sets it by itself'),
    ({'fields': {'mask.kind': 'all'}}, "--config.mask.kind: the row 'none' of the sweep sets it"),
    ({'fields': {'mask.knd': 'all'}}, "row 'none' of the sweep 'components'"),
    ({'fields': {'optim.name': 'sgd'}}, "optim.name = 'sgd': choose one of adam"),
    ({'base': 'configs/missing.py'}, 'configs/missing.py'),
  ],
)  # fmt: skip
def test_what_cannot_run_is_refused(kwargs, message, tmp_path):
  with pytest.raises(UserError) as refused:
    make(**{'name': 'components', 'tmp_path': tmp_path} | kwargs)
  assert message in str(refused.value) and '\n' not in str(refused.value)


def test_files_of_sweeps_that_are_none(tmp_path):
  (tmp_path / 'empty.py').write_text('x = 1\n')
  (tmp_path / 'broken.py').write_text('x = (\n')
  with pytest.raises(UserError, match='defines no SWEEPS'):
    plan.load_sweeps(str(tmp_path / 'empty.py'))
  for name in ('broken.py', 'missing.py', 'text.txt'):
    with pytest.raises(UserError, match='cannot read the sweeps'):
      plan.load_sweeps(str(tmp_path / name))
  row = {'../x': {}}
  bad = types.SimpleNamespace(
    SWEEPS={'s': {'about': '', 'rows': row}}, BASE=SWEEPS.BASE, BASE_FIELDS={}
  )
  with pytest.raises(UserError, match='name a directory'):
    make('s', tmp_path, bad)


def test_progress_of_a_run(tmp_path):
  (run, *_) = make('components', tmp_path).runs
  sha = config_lib.fingerprint(run.config)
  assert run.progress() is plan.Progress.NEW
  telemetry.write_json(run.workdir / 'run.json', {'config_sha256': sha})
  assert run.progress() is plan.Progress.BEGUN
  metrics = {'auroc': 0.5, 'ap': 0.5, 'eer': 'nan'}
  levels = {'frame': metrics, 'video': metrics}
  names = ('val', 'known', 'checkerboard', 'poisson', 'regenerate')
  sets = dict.fromkeys(names, levels)
  scored = {'best': {'sets': sets}, 'last': {'sets': sets}}
  results = {'config_sha256': sha, 'trainable_parameters': 5, **scored}
  telemetry.write_json(run.workdir / 'results.json', results)
  assert run.progress() is plan.Progress.FINISHED
  inputs = config_lib.inputs(run.config)
  inputs['data.tests']['train'] = {}  # One more does no harm.
  telemetry.write_json(run.workdir / 'results.json', results | {'inputs': inputs})
  assert run.progress() is plan.Progress.FINISHED
  for other in (
    inputs | {'backbone.weights': 'other.safetensors'},
    inputs | {'data.tests': inputs['data.tests'] | {'known': {'manifest': 'other.parquet'}}},
  ):
    telemetry.write_json(run.workdir / 'results.json', results | {'inputs': other})
    assert run.progress() is plan.Progress.BEGUN
  del sets['poisson']  # The sets of a run may change: then it has one to evaluate yet.
  telemetry.write_json(run.workdir / 'results.json', results)
  assert run.progress() is plan.Progress.BEGUN
  telemetry.write_json(run.workdir / 'results.json', results | {'config_sha256': 'another'})
  with pytest.raises(UserError, match='holds a run of another config'):
    run.progress()


def test_job_files(tmp_path):
  sweep = make('split', tmp_path / 'a b', seeds=(0, 1))
  command = ['python', 'launch/sweep.py', 'split', f'--workdir={tmp_path / "a b"}']
  lines = job_files.job_file(sweep, 'commands', command, REPOSITORY).splitlines()
  assert len(lines) == 4 and lines[0].startswith('python -m masm_jax.main --config=demo')
  assert lines[3].endswith(f"'--workdir={tmp_path}/a b/runs/contiguous/seed1'")
  script = tmp_path / 'sweep.sbatch'
  script.write_text(job_files.job_file(sweep, 'slurm', command, REPOSITORY))
  subprocess.run(['bash', '-n', script], check=True)
  assert '#SBATCH --array=0-3\n' in script.read_text()
  assert f'\'--workdir={tmp_path}/a b\' --only="$SLURM_ARRAY_TASK_ID"\n' in script.read_text()
  manifest = job_files.job_file(sweep, 'kubernetes', command, REPOSITORY)
  assert '  completions: 4\n' in manifest and '  name: sweep-split\n' in manifest
  assert r'--only=\"$JOB_COMPLETION_INDEX\""' in manifest
  assert (
    'exec .venv/bin/python launch/sweep.py' in manifest and f'mountPath: {tmp_path}' in manifest
  )
  sweep = make('split', pathlib.Path('runs/split'))
  manifest = job_files.job_file(sweep, 'kubernetes', command, REPOSITORY)
  assert 'mountPath: /masm_jax/runs/split\n' in manifest


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['components'], 'give --workdir'),
    (['colour', '--workdir=x'], "no sweep 'colour'"),
    (['components', '--workdir=x', '--colour=red'], "unknown option '--colour=red'"),
    (['components', '--workdir=x', '--jobs=0'], '--jobs=0: at least 1'),
    (['components', '--workdir=/proc/x'], 'cannot write to --workdir=/proc/x'),
    (['split', '--workdir={tmp}', '--only=6'], '--only=6: this sweep has runs 0 to 5'),
    (['split', '--workdir={tmp}', '--table'], 'has finished: there is no table'),
  ],
)
def test_bad_input_is_one_line(args, message, tmp_path):
  result = subprocess.run(
    [sys.executable, 'launch/sweep.py', *(arg.replace('{tmp}', str(tmp_path)) for arg in args)],
    capture_output=True, text=True,
  )  # fmt: skip
  assert result.returncode == 2 and message in result.stderr, result.stderr
  assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1
