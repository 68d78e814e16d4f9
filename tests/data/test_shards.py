"""TFDS sets read as data: the records of `tfds`, and nothing that a stranger's set asks for."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from masm_jax.data import transforms
from masm_jax.data.__main__ import main
from masm_jax.data.loader import decode
from masm_jax.data.manifest import build_manifest, load_manifest
from masm_jax.data.shards import INFO_NAME
from masm_jax.data.tfds_builder import FaceCrops, FaceCropsConfig
from masm_jax.data.transforms import DecodeError
from masm_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
SHARD = 'face_crops-{}.array_record-{:05}-of-00003'

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of tfds' own parts.


@pytest.fixture(scope='module')
def files(crops):
  """The crops in three splits."""
  splits = [('train', 'train', 'val', 'test')[i % 4] for i in range(len(crops))]
  return build_manifest(crops.table.assign(split=splits), crops.root)


@pytest.fixture(scope='module')
def built(files, tmp_path_factory):
  """The same as a TFDS set of three shards a split."""
  import tensorflow_datasets as tfds

  out = tmp_path_factory.mktemp('sets')
  builder = FaceCrops(manifest=files, data_dir=out, config=FaceCropsConfig(name='many'))
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
  return pathlib.Path(builder.data_dir)


@pytest.fixture
def copy(built, tmp_path):
  """A copy to spoil."""
  return pathlib.Path(shutil.copytree(built, tmp_path / 'set'))


def edit(folder, change):
  """Changes `dataset_info.json` by a function of its content."""
  info = json.loads((folder / INFO_NAME).read_text())
  change(info)
  (folder / INFO_NAME).write_text(json.dumps(info))


def test_records_of_many_shards_are_those_of_tfds_in_its_order(files, built):
  import tensorflow_datasets as tfds

  assert len(list(built.glob('*.array_record-*'))) == 9
  sharded = load_manifest(built)
  assert sharded.sha256 == files.sha256
  skip = {'image': tfds.decode.SkipDecoding()}
  for split, count in (('train', 12), ('val', 6), ('test', 5)):
    ours = sharded.select(split=split)
    theirs = tfds.builder_from_directory(built).as_data_source(split=split, decoders=skip)
    assert len(ours) == len(theirs) == count
    for i, example in enumerate(theirs):
      assert ours.images.read(i) == example['image'] == files.select(split=split).images.read(i)
      assert ours.table['path'][i] == example['path'].decode()


STRANGER = """
import pathlib
pathlib.Path('marker').write_text('the set was obeyed')
from tensorflow_datasets.core.features import Image as Feature
"""


def test_a_set_does_not_choose_what_is_imported(copy, tmp_path):
  """`python -m` puts the working folder on the path: here it is the stranger's."""
  features = json.loads((copy / 'features.json').read_text())
  features['featuresDict']['features']['image']['pythonClassName'] = 'stranger.Feature'
  features['pythonClassName'] = 'stranger.Feature'
  (copy / 'features.json').write_text(json.dumps(features))
  edit(copy, lambda info: info.update(moduleName='stranger'))
  (tmp_path / 'stranger.py').write_text(STRANGER)
  done = subprocess.run(
    [sys.executable, '-m', 'masm_jax.data', 'check', 'set'], cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert not (tmp_path / 'marker').exists()
  assert done.returncode == 0 and 'no problems found' in done.stdout, done.stderr


def test_reading_imports_neither_tfds_nor_tensorflow(built):
  code = f"""
import sys
from masm_jax.data.manifest import load_manifest
manifest = load_manifest({str(built)!r})
assert len(manifest.images.read(3)) > 1000
print(sorted(name for name in sys.modules if name.startswith('tensorflow')))
"""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout == '[]\n'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda info: info.update(name='../x/face_crops'), 'name of the set is not of letters'),
    (lambda info: info.update(name='/etc/passwd'), 'name of the set is not of letters'),
    (lambda info: info.update(name=['face_crops']), 'name of the set is not of letters'),
    (lambda info: info.update(name='other'), r'other-train.array_record-00000-of-00003: no such'),
    (lambda info: info.update(fileFormat='tfrecord'), 'not in the format array_record'),
    (lambda info: info.update(splits={}), 'it lists no splits'),
    (lambda info: info.update(splits=[3]), 'a split has no name'),
    (lambda info: info['splits'].append(info['splits'][0]), 'a split stands there twice'),
    (lambda info: info['splits'].pop(0), 'has 12 rows of split train, dataset_info.json 0'),
    (
      lambda info: info['splits'][1].update(filepathTemplate='../{DATASET}-{SPLIT}'),
      'its files are named otherwise',
    ),
    (
      lambda info: info['splits'][1].update(filepathTemplate='/etc/{SPLIT}'),
      'its files are named otherwise',
    ),
    (lambda info: info['splits'][0]['shardLengths'].append('1'), 'has 12 rows of split train'),
    (lambda info: info['splits'][0].update(shardLengths=['-1', '13']), 'not a whole number'),
    (lambda info: info['splits'][0].update(shardLengths=[1e400]), 'not a whole number'),
    (lambda info: info['splits'][0].update(shardLengths=['9' * 5000]), 'not a whole number'),
    (lambda info: info['splits'][0].update(shardLengths=[True] * 12), 'not a whole number'),
    (lambda info: info['splits'][0].update(shardLengths=['12']), '-of-00001: no such file'),
    (
      lambda info: info['splits'][0]['shardLengths'].__setitem__(slice(2), ['3', '5']),
      r'has 4 records, by dataset_info.json [35]',
    ),
  ],
)
def test_hostile_descriptions_are_one_line(copy, change, message, capsys):
  edit(copy, change)
  with pytest.raises(UserError, match=message) as caught:
    load_manifest(copy)
  assert '\n' not in str(caught.value)
  assert main(['check', str(copy)]) == 1
  assert capsys.readouterr().out.startswith('problem: ')


@pytest.mark.parametrize(
  'content', [b'', b'{', b'\xff\xfe', b'[]', b'null', b'[' * 100_000, b'9' * 5000, b'{"splits": 1}']
)
def test_a_damaged_description_is_one_line(copy, content):
  (copy / INFO_NAME).write_bytes(content)
  with pytest.raises(UserError, match=r'dataset_info\.json') as caught:
    load_manifest(copy)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', [SHARD.format('val', 1), 'manifest.parquet', INFO_NAME])
def test_links_out_of_the_set_are_not_followed(copy, tmp_path, name):
  away = tmp_path / 'away'
  away.mkdir()
  shutil.move(copy / name, away / name)
  (copy / name).symlink_to(away / name)
  with pytest.raises(UserError, match=rf'{name} is a link that leads out of its set'):
    load_manifest(copy)
  # One within the set is as good as the file.
  (copy / name).unlink()
  shutil.move(away / name, copy / 'elsewhere')
  (copy / name).symlink_to('elsewhere')
  assert len(load_manifest(copy)) == 23


def test_a_pipe_in_the_place_of_a_shard_does_not_wait(copy):
  (copy / SHARD.format('val', 1)).unlink()
  os.mkfifo(copy / SHARD.format('val', 1))
  with pytest.raises(UserError, match='no such file'):
    load_manifest(copy)


@pytest.mark.parametrize('share', [0, 0.3, 0.9])
def test_a_truncated_shard_is_one_line(copy, share):
  shard = copy / SHARD.format('train', 1)
  content = shard.read_bytes()
  shard.write_bytes(content[: int(share * len(content))])
  with pytest.raises(
    UserError, match=r'train\.array_record-00001-of-00003: a damaged shard'
  ) as caught:
    load_manifest(copy)
  assert '\n' not in str(caught.value)
  assert len(load_manifest(copy, check_files=False)) == 23


def test_a_record_with_a_flipped_bit_is_an_undecodable_image(built, copy, capsys):
  shard = copy / SHARD.format('val', 0)
  content = bytearray(shard.read_bytes())
  whole = load_manifest(built).select(split='val').images
  at = content.index(whole.read(1)[200:300])
  content[at] ^= 4
  shard.write_bytes(content)
  sharded = load_manifest(copy).select(split='val')
  with pytest.raises(DecodeError, match=r'\.png: its record cannot be read: .*hash mismatch'):
    decode(sharded.images, 1)
  assert [sharded.images.read(i) for i in (0, 2, 3, 5)] == [whole.read(i) for i in (0, 2, 3, 5)]
  assert main(['check', str(copy)]) == 1
  assert 'problem: 1 files cannot be decoded' in capsys.readouterr().out


def test_any_flipped_bit_is_found_or_changes_nothing(built, copy):
  whole = load_manifest(built).select(split='val').images
  shard = copy / SHARD.format('val', 0)
  content = shard.read_bytes()
  rng = np.random.default_rng(1)
  outcomes = {'refused': 0, 'undecodable': 0, 'same': 0}
  used = np.flatnonzero(np.frombuffer(content, np.uint8))  # The rest is padding.
  footer = used[used >= len(content) - 2**16]
  for place in (*rng.choice(used, 60), *rng.choice(footer, 20)):
    damaged = bytearray(content)
    damaged[place] ^= 1 << rng.integers(8)
    shard.write_bytes(damaged)
    try:
      images = load_manifest(copy).select(split='val').images
    except UserError:
      outcomes['refused'] += 1
      continue
    for i in range(2):
      try:
        assert images.read(i) == whole.read(i)
        outcomes['same'] += 1
      except OSError:
        outcomes['undecodable'] += 1
  assert min(outcomes.values()) > 0, outcomes


def write_records(folder, records):
  """Puts other records into the last of the three shards of the split val."""
  from array_record.python import array_record_module

  shard = folder / SHARD.format('val', 2)
  shard.unlink()
  writer = array_record_module.ArrayRecordWriter(str(shard), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    (b'', 'holds 0 images'),
    (b'\xff' * 40, 'cannot be read'),
    (b'\x0a' * 40, 'cannot be read'),
    # features.feature['image'] without a value, with an integer, with two values.
    (bytes.fromhex('0a090a070a05696d616765'), 'holds 0 images'),
    (bytes.fromhex('0a100a0e0a05696d61676512051a030a0101'), 'holds 0 images'),
    (bytes.fromhex('0a130a110a05696d61676512080a060a01610a0162'), 'holds 2 images'),
  ],
)
def test_records_that_are_no_examples_are_undecodable(copy, record, message):
  lengths = json.loads((copy / INFO_NAME).read_text())['splits'][1]['shardLengths']
  write_records(copy, [record] * int(lengths[2]))
  sharded = load_manifest(copy).select(split='val')
  with pytest.raises(DecodeError, match=message):
    decode(sharded.images, 5)
  assert sharded.images.read(0) == load_manifest(copy).select(split='val').images.read(0)


def test_a_picture_starts_no_program(tmp_path):
  """Pillow gives EPS to Ghostscript, whatever the file is called."""
  for name in ('a.png', 'b.jpg'):
    Image.new('RGB', (8, 8)).save(tmp_path / name, 'EPS')
    with pytest.raises(DecodeError, match=r'not an image$'):
      transforms.decode(tmp_path / name)
  rows = [{'path': 'a.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': 'v'}]
  assert build_manifest(rows, tmp_path).table['width'].tolist() == [0]
