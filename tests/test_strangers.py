"""Runs from strangers: what a run's folder says is data, and its evaluation obeys nothing in it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import cross_eval, demo
from masm_jax import files, telemetry
from masm_jax.checkpoints import reading
from masm_jax.data import storage, synthetic, tfds_builder
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation.run import evaluate
from masm_jax.inference import stored, trained
from masm_jax.parallel import sharding
from masm_jax.training.loop import train

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SET = 'set/face_crops/known/1.0.0'

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of tfds' own parts.


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Two steps of masm on two blocks; its data is a TFDS set within the run, by a relative path."""
  folder = tmp_path_factory.mktemp('run')
  portraits = synthetic.materialize(
    folder / 'portraits',
    num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1, progress=False,
  )  # fmt: skip
  workdir = folder / 'masm'
  config = demo.get_config('method=masm')
  for spec in (config.data.train, config.data.val, *config.data.tests.values()):
    spec.manifest = str(portraits)
  for name in ('checkerboard', 'poisson', 'regenerate'):
    config.data.tests[name].manifest = ''
  config.update_from_flattened_dict(
    {'train.batch_size': 8, 'train.duration': '2 steps', 'eval.every': '2 steps',
     'checkpoint.every': '2 steps', 'eval.batch_size': 16, 'optim.warmup': '0 steps',
     'subspace.targets': r'backbone/block_0[01]/attn/(q|k)'}
  )  # fmt: skip
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own; the steps have tests of their own.
    assert train(config, workdir) == 0
  tfds_builder.build(load_manifest(portraits), workdir / 'set', 'known')
  edit(workdir, lambda data: data['tests']['known'].update(manifest=SET), group='data')
  return workdir


@pytest.fixture
def copy(run, tmp_path):
  """A run to change."""
  return pathlib.Path(shutil.copytree(run, tmp_path / 'run'))


def edit(workdir, change, group):
  """Changes a group of the stored config of every checkpoint."""
  for path in workdir.glob('checkpoints/*/meta/metadata'):
    meta = json.loads(path.read_text())
    change(meta['config'][group])
    path.write_text(json.dumps(files.seal(meta)))  # A stranger knows how to seal.


def make_suite():
  suite = cross_eval.get_config('protocol=run')
  suite.update_from_flattened_dict({'batch_size': 16, 'bootstrap.draws': 5})
  return suite


STRANGER = """
import pathlib
pathlib.Path('marker').write_text('the run was obeyed')
from tensorflow_datasets.core.features import Image as Feature
"""


def test_an_evaluation_obeys_nothing_in_a_run(run, copy, tmp_path):
  """It imports nothing from there, and writes nothing but its results.

  The run is the working folder, which `python -m` puts on the path; its cache is lost, and its
  config names another one.
  """
  features = copy / SET / 'features.json'
  content = json.loads(features.read_text())
  content['featuresDict']['features']['image']['pythonClassName'] = 'stranger.Feature'
  features.write_text(json.dumps(content))
  (copy / 'stranger.py').write_text(STRANGER)
  shutil.rmtree(copy / 'decomposition')
  edit(copy, lambda subspace: subspace.update(cache_dir=str(tmp_path / 'away')), 'subspace')

  def contents():
    return {path: path.is_file() and path.read_bytes() for path in copy.rglob('*')}

  before = contents()
  out, home = tmp_path / 'out', tmp_path / 'home'
  home.mkdir()
  done = subprocess.run(
    [sys.executable, '-m', 'masm_jax.evaluate', '--checkpoint=.', f'--out={out}',
     f'--suite={REPOSITORY}/configs/cross_eval.py:protocol=run', '--suite.bootstrap.draws=5',
     '--suite.batch_size=16'],
    cwd=copy, capture_output=True, text=True, timeout=200, check=False,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY), 'JAX_PLATFORMS': 'cpu',
                      'XLA_FLAGS': '--xla_backend_optimization_level=0',
                      'HOME': str(home), 'XDG_CACHE_HOME': str(home), 'MPLCONFIGDIR': str(out)},
  )  # fmt: skip
  assert not (copy / 'marker').exists()
  assert done.returncode == 0, done.stderr
  assert contents() == before
  assert sorted(path.name for path in tmp_path.iterdir()) == ['home', 'out', 'run']
  # Decomposed anew, and by a pattern: still the detector that was trained.
  found, reported = results.read(out), telemetry.read_json(run / 'results.json')
  value = found.sets['known'].video.metric('auroc').value
  assert value == pytest.approx(reported['best']['sets']['known']['video']['auroc'], abs=1e-6)


def test_the_cache_of_the_run_is_read(copy, monkeypatch):
  """Its factors are those of the training; another machine's would be others."""
  from masm_jax.subspaces import decompose

  monkeypatch.setattr(decompose, '_decompose_in_threads', None)
  mesh = sharding.make_mesh()
  found = trained.load_adapted(copy, mesh)
  shutil.move(copy / 'decomposition', copy.parent / 'kept')
  edit(copy, lambda subspace: subspace.update(cache_dir=str(copy.parent / 'kept')), 'subspace')
  other = trained.load_adapted(copy, mesh)
  jax.tree.map(np.testing.assert_array_equal, found.frozen, other.frozen)


@pytest.mark.parametrize('field', ['manifest', 'root'])
@pytest.mark.parametrize(
  'place',
  ['ftp://127.0.0.1:9/m.csv', 'github://a:b@c/m.csv', 'zip://m.csv::ftp://127.0.0.1:9/z.zip',
   'gs://b/x::ftp://127.0.0.1:9', 'simplecache::ftp://127.0.0.1:9/m.csv', 'reference://m.csv',
   '/tmp/ftp://127.0.0.1:9/m.csv'],
)  # fmt: skip
def test_a_run_is_not_followed_to_other_machines(copy, tmp_path, place, field):
  edit(copy, lambda data: data['val'].update({field: place}), 'data')
  with pytest.raises(UserError, match='the config of the run names') as caught:
    evaluate(copy, make_suite(), tmp_path / 'out')
  assert place in str(caught.value) and '\n' not in str(caught.value)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'place', ['', 'data/ä b.csv', '/data/m.parquet', 'gs://b/m', 's3://b/m.csv']
)
def test_files_and_object_stores_are_places(run, place):
  config = reading.SavedRun(run).meta(2)['config']
  config['data']['val'] |= {'manifest': place, 'root': place}
  assert stored.read_config(config, run).data.val.root == place


def test_the_built_in_set_is_not_drawn_where_a_run_says(copy, tmp_path, monkeypatch):
  drawn = []

  def materialize(root, *, seed, size_px, **_):
    drawn.append((str(root), seed, size_px))
    raise UserError('drawn')

  monkeypatch.setattr(synthetic, 'materialize', materialize)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

  def change(data):
    data['synthetic']['root'] = str(tmp_path / 'away')
    data['val']['manifest'] = 'synthetic'

  edit(copy, change, 'data')
  with pytest.raises(UserError, match='drawn'):
    evaluate(copy, make_suite(), tmp_path / 'out')
  name = f'synthetic_v{synthetic.CODE_VERSION}_64px_seed0'
  ((place, *how),) = drawn
  assert place.startswith(str(tmp_path / 'cache' / 'masm_jax' / name)) and how == [0, 64]
  edit(copy, lambda data: data['synthetic'].update(seed='../../../../away'), 'data')
  with pytest.raises(UserError, match=r'data\.synthetic\.seed'):
    evaluate(copy, make_suite(), tmp_path / 'out')
  assert len(drawn) == 1


@pytest.mark.parametrize('pattern', ['(([a-z_0-9/])+)+!', '(.|.?)+!'])
def test_a_pattern_of_a_run_does_not_take_for_ever(copy, tmp_path, monkeypatch, pattern):
  monkeypatch.setattr(stored, '_PATTERN_SECONDS', 1.0)
  edit(copy, lambda subspace: subspace.update(targets=pattern), 'subspace')
  with pytest.raises(UserError, match=r'subspace\.targets = .* cannot be matched in 1 s'):
    evaluate(copy, make_suite(), tmp_path / 'out')


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [('(', r"'\(' is no regular expression"), ('nothing', "'nothing' matches no dense layer"),
   ('head', 'can be targets')],
)  # fmt: skip
def test_a_pattern_of_a_run_that_finds_nothing_is_said_as_in_training(copy, pattern, message):
  edit(copy, lambda subspace: subspace.update(targets=pattern), 'subspace')
  with pytest.raises(UserError, match=rf'subspace\.targets: .*{message}'):
    trained.load_adapted(copy, sharding.make_mesh())


@pytest.mark.parametrize('place', ['gs://bucket/m.csv', 's3://bucket/../other/m.csv'])
def test_an_object_store_is_asked_only_where_the_user_says_so(copy, tmp_path, monkeypatch, place):
  """With the user's credentials, and the owner of the bucket would see who evaluates his run."""
  asked = []

  def url_to_fs(url):
    asked.append(url)
    raise OSError('no network here')

  monkeypatch.setattr(storage.fsspec.core, 'url_to_fs', url_to_fs)
  edit(copy, lambda data: data['val'].update(manifest=place), 'data')
  for remote in ('', 'gs://buck', 'gs://other', 's3://buck'):
    with pytest.raises(
      UserError, match=re.escape(f"names '{place}' for val: add --remote")
    ) as caught:
      evaluate(copy, make_suite(), tmp_path / 'out', remote=remote)
    assert '\n' not in str(caught.value)
  assert not asked
  if place.startswith('gs://'):
    with pytest.raises(UserError, match='no network here'):
      evaluate(copy, make_suite(), tmp_path / 'out', remote='gs://bucket/')
    assert asked == ['gs://bucket/m.csv']


@pytest.mark.parametrize('name', ['scores', 'results.json'])
def test_results_do_not_follow_links_out_of_their_folder(run, tmp_path, name):
  (tmp_path / 'away').mkdir()
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / name).symlink_to(tmp_path / 'away' / name)
  with pytest.raises(UserError, match=f'holds a link, {name}: results would go elsewhere'):
    evaluate(run, make_suite(), tmp_path / 'out')
  assert not list((tmp_path / 'away').iterdir())


@pytest.mark.parametrize(
  ('group', 'field', 'value', 'message'),
  [
    ('data', 'num_threads', 10**9, 'data.num_threads = 1000000000: it must be at least 1 and at'),
    ('data', 'num_threads', True, 'data.num_threads = True: it must be at least 1'),
    ('train', 'batch_size', int('9' * 400), 'train.batch_size = 9999'),
    ('train', 'duration', '9' * 80 + ' steps', 'more than 1,000,000,000,000 steps'),
    ('backbone', 'weights', 'a\nb', 'backbone.weights = .*: it must be on one line'),
    ('backbone', 'name', ['demo_vit'], 'backbone.name = .*: it must be text'),
    ('subspace', 'targets', 'x' * 2000, 'subspace.targets = .*at most 1000 characters long'),
    ('optim', 'b1', 'nan', "optim.b1 = 'nan': it must be at least 0.0 and at most"),
    ('head', 'class_weights', 3, 'head.class_weights = 3: two positive numbers'),
    ('head', 'normalize_features', 'yes', 'head.normalize_features = .*: it is True or False'),
    ('data', 'tests', {'../x': {}}, 'cannot be read: ConfigDict does not accept dots in field'),
    ('data', 'tests', {'/x': {}}, 'a set is named by letters'),
    ('data', 'tests', {'x' * 300: {}}, 'a set is named by letters'),
    ('data', 'tests', {'a\0b': {}}, 'a set is named by letters'),
    ('data', 'tests', ['x'], 'data.tests: it must be a group of sets'),
    ('data', 'val', {'split': 'val'}, 'data.val: it lacks dataset'),
  ],
  ids=str,
)  # fmt: skip
def test_what_a_config_decides_is_a_closed_list(run, group, field, value, message):
  config = reading.SavedRun(run).meta(2)['config']
  config[group][field] = value
  with pytest.raises(UserError, match=message) as caught:
    stored.read_config(config, run)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'best_step': '2'}, 'its metadata name no best step'),
    ({'best_step': -1}, 'does not hold step -1'),
    ({'base_weights': None}, 'is damaged: base_weights: '),
    ({'config': []}, 'is damaged: config: '),
    ({'val_manifest': '../x\n'}, 'is damaged: val_manifest: '),
  ],
)
def test_the_note_of_a_checkpoint_has_types(copy, change, message):
  for path in copy.glob('checkpoints/*/meta/metadata'):
    path.write_text(json.dumps(files.seal(json.loads(path.read_text()) | change)))
  with pytest.raises(UserError, match=message):
    trained.load_adapted(copy, sharding.make_mesh())
