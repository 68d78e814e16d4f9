"""TFDS sets: built from a manifest, read back in its order, without TensorFlow."""

import os
import pathlib
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from masm_jax.data import storage
from masm_jax.data.__main__ import main
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.data.pipeline import eval_batches, train_iterator
from masm_jax.data.samplers import make_sampler
from masm_jax.data.tfds_builder import build
from masm_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of tfds' own parts.


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A manifest of three splits whose rows are mixed by path, with further columns of all types."""
  root = tmp_path_factory.mktemp('files')
  rng = np.random.default_rng(0)
  rows = []
  for i in range(20):
    split = ('train', 'train', 'val', 'test')[i % 4]
    path = f'{i * 7 % 20:02} ä.{"jpg" if i % 2 else "png"}'
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(root / path)
    rows.append(
      {'path': path, 'label': i % 2, 'dataset': 'd', 'split': split,
       'video_id': f'v{i}', 'frame': i, 'pose': i / 3, 'flag': i > 4, 'rank': i, 'note': f'n{i}'}
    )  # fmt: skip
  manifest = build_manifest(rows, root)
  write_manifest(manifest, root / 'm.parquet')
  return manifest


@pytest.fixture(scope='module')
def folder(files, tmp_path_factory):
  out = tmp_path_factory.mktemp('tfds')
  assert main(['tfds', str(files.root / 'm.parquet'), '--output', str(out), '--name', 'crops']) == 0
  return out / 'face_crops/crops/1.0.0'


def test_same_rows_in_the_same_order_as_from_files(files, folder):
  sharded = load_manifest(folder)
  pd.testing.assert_frame_equal(sharded.table, files.table)
  assert sharded.sha256 == files.sha256
  for record in range(20):
    assert sharded.images.read(record) == files.images.read(record)
    assert sharded.images.name(record) == str(folder / files.table['path'][record])
  train = sharded.select(split='train', label=0)
  assert train.sha256 == files.select(split='train', label=0).sha256
  for record, path in enumerate(files.select(split='train', label=0).paths):
    assert train.images.read(record) == pathlib.Path(path).read_bytes()


def test_batches_are_those_from_files_also_in_workers(files, folder):
  sampler = make_sampler('uniform', files.select(split='train').table, 3)
  found = []
  for manifest, workers in ((files, 0), (load_manifest(folder), 0), (load_manifest(folder), 1)):
    iterator = train_iterator(
      manifest.select(split='train'),
      batch_size=4,
      image_size=8,
      sampler=sampler,
      augment='gend',
      seed=5,
      num_steps=4,
      num_workers=workers,
    )
    found.append(list(iterator))
    iterator.close()
  for expected, *others in zip(*found, strict=True):
    for other in others:
      for key in expected:
        np.testing.assert_array_equal(expected[key], other[key])
  for a, b in zip(
    *(eval_batches(m, batch_size=8, image_size=8) for m in (files, load_manifest(folder))),
    strict=True,
  ):
    np.testing.assert_array_equal(a['image'], b['image'])


def test_it_is_a_tfds_set_to_others(files, folder):
  import tensorflow_datasets as tfds

  for split in ('train', 'val', 'test'):
    expected = files.select(split=split)
    source = tfds.data_source('face_crops/crops', data_dir=folder.parents[2], split=split)
    assert len(source) == len(expected)
    for example, row in zip(source, expected.table.itertuples(), strict=True):
      assert example['path'].decode() == row.path
      assert (example['label'], example['frame'], example['flag']) == (
        row.label, row.frame, row.flag)  # fmt: skip
      assert example['pose'] == np.float32(row.pose)
      assert example['image'].shape == (12, 12, 3)
  skip = {'image': tfds.decode.SkipDecoding()}
  source = tfds.data_source(
    'face_crops/crops', data_dir=folder.parents[2], split='test', decoders=skip
  )
  assert source[1]['image'] == files.select(split='test').images.read(1)


def test_reading_and_building_keep_tensorflow_out(files, folder, tmp_path):
  code = f"""
import sys
import simple_parsing
from tensorflow_datasets.scripts.cli import build
from masm_jax.data.manifest import load_manifest, write_manifest
manifest = load_manifest({str(folder)!r})
assert len(manifest.images.read(3)) > 50
parser = simple_parsing.ArgumentParser()
parser.add_arguments(build.Args, dest='build')
parser.parse_args().build.execute()  # What `tfds build` runs.
assert 'tensorflow' not in sys.modules
print(load_manifest({str(tmp_path / 'face_crops/mine/1.0.0')!r}).sha256)
"""
  config = f'{{"name": "mine", "manifest": "{files.root / "m.parquet"}"}}'
  arguments = ['--datasets', str(ROOT / 'masm_jax/data/tfds_builder.py'), '--config', config]
  arguments += ['--data_dir', str(tmp_path), '--file_format', 'array_record']
  done = subprocess.run(
    [sys.executable, '-c', code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split()[-1] == files.sha256
  mine = load_manifest(tmp_path / 'face_crops/mine/1.0.0')
  assert [mine.images.read(i) for i in range(20)] == [files.images.read(i) for i in range(20)]


def test_remote_sets_and_files(files, folder, tmp_path, monkeypatch):
  """`memory://` stands for any remote file system: crops, manifest and set lie there."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  memory = fsspec.filesystem('memory')
  for path in files.table['path']:
    memory.pipe_file(f'/crops/{path}', (files.root / path).read_bytes())
  write_manifest(files, 'memory://crops/m.parquet')
  remote = load_manifest('memory://crops/m.parquet')
  assert remote.root == 'memory://crops'
  assert remote.sha256 == files.sha256
  assert remote.images.read(4) == files.images.read(4)
  assert main(['check', 'memory://crops/m.parquet']) == 0
  assert build_manifest(files.table[['path', 'label', 'dataset', 'split', 'video_id']],
                        'memory://crops').table['sha256'].tolist() == (
    files.table['sha256'].tolist())  # fmt: skip
  memory.rm('/crops/00 ä.png')
  with pytest.raises(UserError, match='missing file below memory://crops'):
    load_manifest('memory://crops/m.parquet')

  where = build(files, 'memory://sets', 'crops')
  assert where == 'memory://sets/face_crops/crops/1.0.0'
  sharded = load_manifest(where)
  assert sharded.sha256 == files.sha256
  assert sharded.images.read(7) == files.images.read(7)
  copies = list((tmp_path / 'masm_jax/remote').iterdir())
  load_manifest(where)
  assert list((tmp_path / 'masm_jax/remote').iterdir()) == copies  # Copied once.
  assert build(files, 'memory://sets', 'crops') == where  # Whole, and with the same content.
  with pytest.raises(UserError, match='is there already'):
    build(files.select(split='test'), 'memory://sets', 'crops')
  memory.store.clear()


def test_a_folder_that_array_record_cannot_name_is_one_line(files, folder, tmp_path, capsys):
  strange = tmp_path / os.fsdecode(b'tfds\xff')
  words = ['--output', str(strange), '--name', 'crops']
  assert main(['tfds', str(files.root / 'm.parquet'), *words]) == 2
  assert 'tfds\\udcff is not UTF-8' in capsys.readouterr().err and not strange.exists()
  shutil.copytree(folder, strange)
  with pytest.raises(UserError, match='is not UTF-8'):
    load_manifest(strange)


def test_what_cannot_be(files, folder, tmp_path, capsys):
  arguments = ['tfds', str(files.root / 'm.parquet'), '--output']
  again = [*arguments, str(folder.parents[2]), '--name', 'crops']
  assert main(again) == 0  # As after a kill behind the last write.
  write_manifest(files.select(split='test'), tmp_path / 'other.parquet')
  assert main([again[0], str(tmp_path / 'other.parquet'), *again[2:]]) == 2
  assert 'something else; delete it or choose another --name' in capsys.readouterr().err
  assert main([*arguments, str(tmp_path), '--name', 'a/b']) == 2
  assert main(['sample', str(folder), '--output', str(tmp_path / 'm.csv'), '--frames', '1']) == 2
  assert 'is a TFDS set: change the manifest' in capsys.readouterr().err
  assert main(['check', str(folder)]) == 0
  # It would stand in the place of the pictures.
  files.table.assign(image='x').to_csv(files.root / 'image.csv')
  arguments = ['tfds', str(files.root / 'image.csv'), '--output', str(tmp_path), '--name', 'image']
  assert main(arguments) == 2
  assert 'rename the manifest' in capsys.readouterr().err
  (tmp_path / 'dataset_info.json').write_text('{}')
  with pytest.raises(UserError, match=r'without manifest.parquet'):
    load_manifest(tmp_path)
  with pytest.raises(UserError, match=r'^nosuch://x/m.csv.*: no such place is read; URLs begin'):
    load_manifest('nosuch://x/m.csv')
  with pytest.raises(UserError, match=r'no manifest at memory://none/m.csv'):
    load_manifest('memory://none/m.csv')


def test_storage_joins_and_writes_whole_files(tmp_path):
  assert storage.join('gs://b/c', 'd.png') == 'gs://b/c/d.png'
  assert storage.parent('gs://b/c/d.png') == 'gs://b/c'
  assert storage.suffix('gs://b/c.x/d.parquet') == '.parquet'
  storage.write_bytes(tmp_path / 'a/b', b'1')
  assert [path.name for path in (tmp_path / 'a').iterdir()] == ['b']
  with pytest.raises(UserError, match='cannot write'):
    storage.write_bytes(tmp_path / 'a/b/c', b'1')
  assert storage.read_bytes(f'file://{tmp_path}/a/b') == b'1'
