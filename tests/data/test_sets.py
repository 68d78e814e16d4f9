"""The data sets of a config: selection, checks, the built-in set."""

import logging

import cv2
import ml_collections
import numpy as np
import pytest

from masm_jax.data import manifest as manifest_lib
from masm_jax.data import sets
from masm_jax.errors import UserError


@pytest.fixture(scope='module')
def manifest(tmp_path_factory):
  root = tmp_path_factory.mktemp('crops')
  rows = []
  for split in ('train', 'val', 'test'):
    for dataset in ('a', 'b'):
      for method in ('real', 'DF', 'FS'):
        path = f'{dataset}/{method}/{split}/0.png'
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), np.full((8, 8, 3), len(rows), np.uint8))
        rows.append(
          {'path': path, 'label': int(method != 'real'), 'dataset': dataset, 'split': split,
           'method': method, 'video_id': f'{dataset}/{method}/{split}', 'frame': 0}
        )  # fmt: skip
  path = root / 'manifest.parquet'
  manifest_lib.write_manifest(manifest_lib.build_manifest(rows, root), path)
  return path


def spec(manifest, /, **fields):
  base = {'manifest': str(manifest), 'root': '', 'split': '', 'dataset': '', 'methods': ()}
  return ml_collections.ConfigDict(base | fields)


def config(manifest, train=None, val=None, augment='none', **tests):
  return ml_collections.ConfigDict({
    'train': train or spec(manifest, split='train'),
    'val': val or spec(manifest, split='val'),
    'tests': tests,
    'augment': augment,
    'synthetic': {'root': '', 'seed': 0, 'size_px': 32, 'strength': 2.0, 'identities': 9},
  })  # fmt: skip


def test_selection_by_split_data_set_and_method(manifest):
  loaded = sets.load_sets(
    config(
      manifest,
      all=spec(manifest, split='test'),
      b=spec(manifest, split='test', dataset='b'),
      df=spec(manifest, split='test', methods=('DF',)),
      left_out=spec(''),
    )
  )
  assert [len(loaded.train), len(loaded.val)] == [6, 6]
  assert {name: len(test) for name, test in loaded.tests.items()} == {'all': 6, 'b': 3, 'df': 4}
  assert set(loaded.tests['df'].table['method']) == {'real', 'DF'}
  hashes = loaded.hashes()
  assert set(hashes) == {'train', 'val', 'test/all', 'test/b', 'test/df'}
  assert len(set(hashes.values())) == 5


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'train': {'split': 'train', 'dataset': 'c'}}, r'data.train: no row of .* dataset = c'),
    ({'train': {'split': 'train', 'methods': ('NT',)}}, "data.train: no row has method 'NT'"),
    ({'train': {'manifest': ''}}, 'data.train.manifest is empty'),
    ({'val': {'split': 'validation'}}, 'it has the splits test, train, val; .*data split` divides'),
  ],
)
def test_what_is_not_there_is_named(manifest, fields, message):
  fields = {name: spec(manifest, **value) for name, value in fields.items()}
  with pytest.raises(UserError, match=message):
    sets.load_sets(config(manifest, **fields))


def test_shared_videos_are_warned_about(manifest, caplog):
  with caplog.at_level(logging.WARNING):
    sets.load_sets(config(manifest, val=spec(manifest, split='train')))
  assert 'validation shares 6 videos or source videos with the training set' in caplog.text


def test_few_validation_videos_are_warned_about(manifest, caplog, monkeypatch):
  with caplog.at_level(logging.WARNING):
    sets.load_sets(config(manifest))
  assert 'the validation set has few videos (2 real, 4 fake)' in caplog.text
  caplog.clear()
  monkeypatch.setattr(sets, '_FEW_VIDEOS', 1)
  sets.load_sets(config(manifest))
  assert 'few videos' not in caplog.text


@pytest.mark.parametrize('split', ['test', ''])
def test_a_set_marked_test_never_chooses(manifest, split):
  with pytest.raises(UserError, match=r'data.val: 6 of .* rows are marked test'):
    sets.load_sets(config(manifest, val=spec(manifest, split=split)))


def test_an_empty_set_is_a_result_where_it_is_allowed(manifest, caplog):
  load = sets.SetLoader(None)
  with caplog.at_level(logging.WARNING):
    assert len(load('sets.x', spec(manifest, dataset='c'), allow_empty=True)) == 0
  assert "dataset = c; it has the splits test, train, val; sets.x.split = '' takes" in caplog.text
  with pytest.raises(UserError, match="no row has method 'MT'; there are DF, FS, real"):
    load('sets.x', spec(manifest, methods=('DF', 'MT')), allow_empty=True)
  none = load('sets.x', spec(manifest, dataset='c', methods=('DF',)), allow_empty=True)
  assert len(none) == 0


def test_the_built_in_set_is_drawn_once_into_the_cache(tmp_path, monkeypatch):
  calls = []

  def materialize(root, **parameters):
    calls.append((root, *parameters.values()))
    raise UserError('drawn')

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr('masm_jax.data.synthetic.materialize', materialize)
  with pytest.raises(UserError, match='drawn'):
    sets.load_sets(config('synthetic'))
  ((root, *drawn),) = calls
  assert root.parent == tmp_path / 'masm_jax' and drawn == [0, 32, 9, 2.0]
  assert '32px_seed0_identities9_strength2' in root.name


@pytest.mark.parametrize(('people', 'size_px'), [(100_000, 32), (100, 512)])
def test_a_stored_config_draws_no_large_set(tmp_path, monkeypatch, people, size_px):
  data = config('synthetic')
  data.synthetic.identities, data.synthetic.size_px = people, size_px
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

  def materialize(root, **_):
    root.mkdir(parents=True, exist_ok=True)
    raise UserError('drawn')

  monkeypatch.setattr('masm_jax.data.synthetic.materialize', materialize)
  of_run = sets.SetLoader(data.synthetic, is_stored=True)
  with pytest.raises(UserError, match=r'val: the config of the run asks for .* people at'):
    of_run('val', data.val)
  for load in (sets.SetLoader(data.synthetic), of_run):  # What somebody drew before is used.
    with pytest.raises(UserError, match='drawn'):
      load('val', data.val)


def test_only_self_blending_trains_without_fakes(manifest):
  real = spec(manifest, split='train')
  both = sets.load_sets(config(manifest, train=real))
  path = manifest.with_name('real.parquet')
  manifest_lib.write_manifest(both.train.select(label=0), path)
  assert len(sets.load_sets(config(manifest, train=spec(path), augment='sbi')).train) == 2
  with pytest.raises(UserError, match=r'data.train: no fake face among its 2 rows'):
    sets.load_sets(config(manifest, train=spec(path), augment='gend'))
  with pytest.raises(UserError, match=r'data.val: no fake face'):
    sets.load_sets(config(manifest, val=spec(path), augment='sbi'))


def test_what_needs_labels_refuses_rows_without(manifest, tmp_path):
  table = manifest_lib.load_manifest(manifest).table
  table.loc[table['split'] == 'val', ['label', 'method']] = [-1, 'unlabelled']
  path = tmp_path / 'manifest.parquet'
  manifest_lib.write_manifest(manifest_lib.build_manifest(table, manifest.parent), path)
  root = str(manifest.parent)
  unlabelled = spec(path, split='val', root=root)
  with pytest.raises(UserError, match=r'data.val: 6 of 6 rows have no label \(label = -1\)'):
    sets.load_sets(config(manifest, val=unlabelled))
  with pytest.raises(UserError, match=r'data.train: 6 of 18 rows have no label'):
    sets.load_sets(config(manifest, train=spec(path, root=root)))
  assert len(sets.load_sets(config(manifest, new=unlabelled)).tests['new']) == 6
