"""The set's plan, its files, and that a set is either whole or not there."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from masm_jax.data.manifest import load_manifest
from masm_jax.data.synthetic import HELD_OUT_METHODS, TRAINING_METHODS, dataset, materialize
from masm_jax.data.synthetic.dataset import plan_videos, split_sizes
from masm_jax.errors import UserError

_SMALL = {
  'size_px': 32,
  'num_identities': 6,
  'videos_per_identity': 2,
  'frames_per_video': 2,
  'progress': False,
}


@pytest.fixture(scope='module')
def small_set(tmp_path_factory):
  root = tmp_path_factory.mktemp('sets') / 'small'
  return load_manifest(materialize(root, num_processes=1, **_SMALL))


def test_default_split_sizes():
  assert split_sizes(90) == {'train': 60, 'val': 10, 'test': 20}
  assert split_sizes(6) == {'train': 2, 'val': 2, 'test': 2}


@pytest.mark.parametrize(('num_identities', 'videos'), [(90, 3), (6, 1), (13, 2)])
def test_plan_keeps_identities_and_held_out_mechanisms_apart(num_identities, videos):
  plans = plan_videos(0, num_identities, videos)
  assert len(plans) == num_identities * videos
  people, methods = {}, {}
  for plan in plans:
    donors = [donor for _, donor in plan.forgeries if donor >= 0]
    assert plan.identity not in donors
    people.setdefault(plan.split, set()).update([plan.identity, *donors])
    methods.setdefault(plan.split, set()).update(method for method, _ in plan.forgeries)
  assert not people['train'] & people['val']
  assert not people['train'] & people['test']
  assert not people['val'] & people['test']
  assert sum(map(len, people.values())) == num_identities
  assert methods['train'] == methods['val'] == set(TRAINING_METHODS)
  assert methods['test'] == set(TRAINING_METHODS) | set(HELD_OUT_METHODS)


def test_plan_uses_every_mechanism_about_as_often():
  plans = plan_videos(0, 90, 3)
  counts = {}
  for plan in plans:
    for method, _ in plan.forgeries:
      counts[plan.split, method] = counts.get((plan.split, method), 0) + 1
  assert {counts['train', method] for method in TRAINING_METHODS} == {90}
  assert {counts['val', method] for method in TRAINING_METHODS} == {15}
  assert {counts['test', method] for method in TRAINING_METHODS} == {30}
  assert {counts['test', method] for method in HELD_OUT_METHODS} == {40}


def test_manifest_names_sources_and_identities(small_set):
  table = small_set.table
  # Six identities with two videos: each real has two forgeries, in the test split four.
  assert len(table) == 2 * (8 * 3 + 4 * 5)
  assert (table['label'] == (table['method'] != 'real')).all()
  assert set(table['dataset']) == {'synthetic'}
  assert set(table.loc[table['label'] == 0, 'split']) == {'train', 'val', 'test'}
  reals = set(table.loc[table['label'] == 0, 'video_id'])
  assert set(table['source_video_id']) == reals
  swaps = table[table['method'].isin(['swap', 'poisson'])]
  for row in swaps.itertuples():
    assert row.identities == f'id{row.identity:03d};id{row.donor:03d}'
    assert row.identity != row.donor
  others = table[~table['method'].isin(['swap', 'poisson'])]
  assert (others['donor'] == -1).all()
  assert (others['identities'] == others['identity'].map('id{:03d}'.format)).all()
  by_video = table.groupby('video_id')
  assert (by_video.size() == 2).all()
  # A video's frames share their light and move a little.
  assert (by_video['light_azimuth'].nunique() == 1).all()
  assert (by_video['yaw'].nunique() == 2).all()


def test_files_are_what_the_manifest_says(small_set):
  table = small_set.table.set_index('path')
  for path in table.index:
    image = cv2.imread(str(small_set.root / path))
    assert image.shape == (32, 32, 3)
  assert table['sha256'].is_unique
  assert set(zip(table['width'], table['height'], strict=True)) == {(32, 32)}


def test_fakes_differ_from_their_source_mainly_inside(small_set):
  """Delivery alone (grain, JPEG) changes the border by little."""
  table = small_set.table
  fakes = table[(table['label'] == 1) & (table['method'] != 'regenerate')]
  inside, border = [], []
  for row in fakes.itertuples():
    fake = cv2.imread(str(small_set.root / row.path)).astype(int)
    real = cv2.imread(str(small_set.root / f'{row.source_video_id}/{row.frame:03d}.png'))
    change = np.abs(fake - real).mean(2)
    inside.append(change[14:26, 10:22].mean())
    border.append(change[:, [0, 1, 2, -3, -2, -1]].mean())
  assert np.mean(inside) > 1.5 * np.mean(border)
  assert np.mean(border) < 4


def test_bytes_do_not_depend_on_processes_but_on_the_seed(small_set, tmp_path):
  again = load_manifest(materialize(tmp_path / 'two', num_processes=2, **_SMALL))
  assert again.sha256 == small_set.sha256
  manifest = (tmp_path / 'two' / 'manifest.parquet').read_bytes()
  assert manifest == (small_set.root / 'manifest.parquet').read_bytes()
  other = load_manifest(materialize(tmp_path / 'other', seed=1, num_processes=1, **_SMALL))
  assert not set(other.table['sha256']) & set(small_set.table['sha256'])


def test_a_complete_set_is_reused_and_another_is_refused(small_set, monkeypatch):
  def never(*_):
    raise AssertionError('rendered again')

  monkeypatch.setattr(dataset, '_write_video', never)
  path = materialize(small_set.root, num_processes=1, **_SMALL)
  assert path == small_set.root / 'manifest.parquet'
  with pytest.raises(UserError, match=r'other parameters \(seed=0\)'):
    materialize(small_set.root, seed=5, num_processes=1, **_SMALL)
  monkeypatch.setattr(dataset, 'CODE_VERSION', 10**6)
  with pytest.raises(UserError, match='code_version'):
    materialize(small_set.root, num_processes=1, **_SMALL)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
  write, calls = dataset._write_video, []

  def fails_late(job):
    calls.append(job)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return write(job)

  monkeypatch.setattr(dataset, '_write_video', fails_late)
  with pytest.raises(KeyboardInterrupt):
    materialize(tmp_path / 'set', num_processes=1, **_SMALL)
  assert os.listdir(tmp_path) == []
  monkeypatch.undo()
  (tmp_path / 'set').mkdir()  # an empty folder is as good as none
  assert len(load_manifest(materialize(tmp_path / 'set', num_processes=1, **_SMALL))) == 88
  assert os.listdir(tmp_path) == ['set']


def test_a_damaged_set_is_not_taken_for_whole(tmp_path):
  manifest = materialize(tmp_path / 'set', num_processes=1, **_SMALL)
  next((tmp_path / 'set' / 'synthetic').glob('*/*/*.png')).unlink()
  with pytest.raises(UserError, match='damaged'):
    materialize(tmp_path / 'set', num_processes=1, **_SMALL)
  manifest.unlink()
  with pytest.raises(UserError, match='damaged'):
    materialize(tmp_path / 'set', num_processes=1, **_SMALL)


def test_other_peoples_files_are_left_alone(tmp_path):
  (tmp_path / 'mine.txt').write_text('keep me')
  with pytest.raises(UserError, match='holds other files'):
    materialize(tmp_path, num_processes=1, **_SMALL)
  with pytest.raises(UserError, match='not a folder'):
    materialize(tmp_path / 'mine.txt', num_processes=1, **_SMALL)
  (tmp_path / 'odd').mkdir()
  (tmp_path / 'odd' / 'synthetic.json').write_text(json.dumps([1]))
  with pytest.raises(UserError, match='holds other files'):
    materialize(tmp_path / 'odd', num_processes=1, **_SMALL)
  assert (tmp_path / 'mine.txt').read_text() == 'keep me'


def test_a_folder_called_by_a_pattern_takes_no_others_unfinished_set(tmp_path):
  other = tmp_path / '.other.partial-1'
  other.mkdir()
  materialize(tmp_path / '*', num_processes=1, **_SMALL)
  assert other.is_dir()


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('seed', -1),
    ('size_px', 16),
    ('num_identities', 5),
    ('videos_per_identity', 0),
    ('frames_per_video', 0),
    ('num_processes', 0),
  ],
)
def test_bad_arguments_are_named(name, value, tmp_path):
  with pytest.raises(UserError, match=name):
    materialize(tmp_path / 'set', **{**_SMALL, name: value})
  assert not (tmp_path / 'set').exists()


def test_a_script_without_a_main_guard_gets_one_line_and_no_endless_loop(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
    'from masm_jax.data.synthetic import materialize\n'
    f'materialize({str(tmp_path / "set")!r}, num_processes=2, **{_SMALL!r})\n'
  )
  package_root = pathlib.Path(dataset.__file__).parents[3]
  done = subprocess.run(
    [sys.executable, script],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
    env=os.environ | {'PYTHONPATH': str(package_root)},
  )
  assert done.returncode == 1
  assert 'num_processes=1' in done.stderr.splitlines()[-1]
  assert os.listdir(tmp_path) == ['script.py']
