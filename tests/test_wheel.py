"""What `pip install` leaves works in any folder, without the checkout: a wheel, built and used."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import masm_jax

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Built from a copy: a build leaves files in its folder."""
  source = tmp_path_factory.mktemp('source')
  for name in ('masm_jax', 'configs'):
    shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
    shutil.copy(REPOSITORY / name, source)
  build = ('--quiet', '--no-deps', '--no-index', '--no-build-isolation', '--wheel-dir=dist')
  subprocess.run([sys.executable, '-m', 'pip', 'wheel', *build, '.'], cwd=source, check=True)
  (path,) = (source / 'dist').glob('*.whl')
  return path


@pytest.fixture(scope='module')
def masm_jax_command(wheel, tmp_path_factory):
  """A function that runs the installed `masm-jax` in an empty folder; fails unless it ends with 0.

  The new environment sees the packages of this one, and masm_jax alone is its own.
  """
  home, folder = tmp_path_factory.mktemp('environment'), tmp_path_factory.mktemp('empty')
  venv.create(home, with_pip=False)
  scheme = {'base': str(home), 'platbase': str(home)}
  purelib = sysconfig.get_path('purelib', 'venv', scheme)
  outer = pathlib.Path(purelib) / 'outer.pth'
  outer.write_text(sysconfig.get_path('purelib'))
  install = ('--quiet', '--no-deps', '--no-index', '--disable-pip-version-check', str(wheel))
  pip = [sys.executable, '-m', 'pip', '--python', str(home / 'bin' / 'python')]
  subprocess.run([*pip, 'install', *install], check=True)
  path = [word for word in os.environ['PATH'].split(os.pathsep) if str(REPOSITORY) not in word]
  environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'} | {
    'PATH': os.pathsep.join([str(home / 'bin'), *path]),
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
  }

  def run(*words, program='masm-jax', status=0):
    result = subprocess.run(
      [str(home / 'bin' / program), *map(str, words)], cwd=folder, env=environment, text=True,
      capture_output=True, timeout=200,
    )  # fmt: skip
    assert result.returncode == status, result.stderr
    return result

  run.folder, run.home = folder, home
  return run


def test_the_wheel_holds_all_files_of_the_package_and_the_configs(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = {name for name in archive.namelist() if not name.startswith('masm_jax-')}
  package = {
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / 'masm_jax').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  configs = {f'masm_jax/shipped/configs/{path.name}' for path in REPOSITORY.glob('configs/*.py')}
  assert names == package | configs and 'masm_jax/py.typed' in names
  assert wheel.name.startswith(f'masm_jax-{masm_jax.__version__}-')


def test_the_checkout_is_not_seen(masm_jax_command):
  code = 'import masm_jax; print(masm_jax.__file__, masm_jax.__version__)'
  file, version = masm_jax_command('-c', code, program='python').stdout.split()
  assert pathlib.Path(file).is_relative_to(masm_jax_command.home)
  assert version == masm_jax.__version__
  missing = masm_jax_command('-c', 'import configs', program='python', status=1)
  assert "No module named 'configs'" in missing.stderr


def test_help_and_errors(masm_jax_command):
  assert masm_jax_command('--help').stdout.startswith('usage: masm-jax COMMAND ...')
  assert masm_jax_command('report', '-h').stdout.startswith('usage: masm-jax report ')
  assert 'masm-jax evaluate --checkpoint=' in masm_jax_command('evaluate', '--help').stdout
  refused = masm_jax_command('main', '--config=demoo', status=2)
  assert refused.stderr.startswith("error: no config file 'demoo', and no shipped one")
  assert masm_jax_command('sweep', '--list').stdout.startswith('forms\n')


def test_a_config_of_ones_own_builds_on_the_shipped_ones(masm_jax_command):
  (masm_jax_command.folder / 'mine.py').write_text(
    'from configs import common, demo\n'
    'def get_config(arg=None):\n'
    '  config = demo.get_config(arg)\n'
    "  common.set_method(config, 'lora')\n"
    '  return config\n'
  )
  refused = masm_jax_command('main', '--config=mine.py', status=2)  # Read, as far as that goes.
  assert refused.stderr.startswith('error: give --workdir') and refused.stderr.count('\n') == 1


def test_a_training_and_its_evaluation(masm_jax_command):
  manifest = 'set/manifest.parquet'
  masm_jax_command(
    'data', 'synthetic', '--output=set', '--identities=12', '--videos=1', '--frames=2',
    '--processes=2',
  )  # fmt: skip
  demo_tests = ('known', 'checkerboard', 'poisson', 'regenerate')
  fields = {
    'data.train.manifest': manifest, 'data.val.manifest': manifest,
    'data.tests.mine.manifest': manifest,
    **{f'data.tests.{name}.manifest': '' for name in demo_tests},
    'train.batch_size': 8, 'train.duration': '2 steps', 'eval.batch_size': 16,
    'optim.warmup': '0 steps',
  }  # fmt: skip
  trained = masm_jax_command(
    'main', '--config=demo:method=linear', '--workdir=run', '--compilation_cache=xla',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  )  # fmt: skip
  assert 'mine' in trained.stdout
  folder = masm_jax_command.folder
  results = json.loads((folder / 'run' / 'results.json').read_text())
  assert results['last']['step'] == 2 and set(results['last']['sets']) == {'val', 'mine'}
  versions = json.loads((folder / 'run' / 'run.json').read_text())
  assert masm_jax.__version__ in json.dumps(versions)

  masm_jax_command(
    'evaluate', '--suite=cross_eval:sets=own', f'--suite.sets.own.manifest={manifest}',
    f'--suite.sets.two-words.manifest={manifest}', '--suite.sets.two-words.split=val',
    '--checkpoint=run', '--out=eval', '--suite.bootstrap.draws=20', '--suite.batch_size=16',
    '--compilation_cache=xla',
  )  # fmt: skip
  results = json.loads((folder / 'eval' / 'results.json').read_text())
  assert set(results['sets']) == {'val', 'own', 'two-words'}
  assert results['sets']['own']['frame']['num'] != results['sets']['two-words']['frame']['num']
