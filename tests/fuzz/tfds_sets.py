"""The border of TFDS sets: their shards, notes and manifests."""

import io
import json
import pathlib

import numpy as np
from array_record.python import array_record_module
from hypothesis import strategies as st
from PIL import Image

from masm_jax.data import shards, transforms
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import spoilt_bytes, spoilt_json

_SHARD = 'face_crops-{}.array_record-00000-of-00001'


def _built(folder: pathlib.Path) -> dict[str, bytes]:
  """The files of a set of two splits, as TFDS writes them."""
  rows, contents = [], {'train': [], 'val': []}
  for i in range(6):
    split = 'train' if i < 4 else 'val'
    file = io.BytesIO()
    Image.new('RGB', (8, 8), (40 * i, 0, 0)).save(file, 'PNG')
    contents[split].append(file.getvalue())
    (folder / f'{i}.png').write_bytes(file.getvalue())
    rows.append({'path': f'{i}.png', 'label': i % 2, 'dataset': 'd', 'split': split,
                 'video_id': f'v{i}'})  # fmt: skip
  write_manifest(build_manifest(rows, folder), folder / 'manifest.parquet')
  example = shards._example_class()
  for split, images in contents.items():
    writer = array_record_module.ArrayRecordWriter(str(folder / _SHARD.format(split)))
    for image in images:
      record = example()
      record.features.feature['image'].bytes_list.value.append(image)
      writer.write(record.SerializeToString())
    writer.close()
  info = {
    'name': 'face_crops',
    'fileFormat': 'array_record',
    'splits': [
      {'name': split, 'shardLengths': [str(len(images))], 'numBytes': '9',
       'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'}
      for split, images in contents.items()
    ],
  }  # fmt: skip
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  kept = ('manifest.parquet', 'dataset_info.json', *(map(_SHARD.format, contents)))
  return {name: (folder / name).read_bytes() for name in kept}


@st.composite
def _sets(draw: st.DrawFn, files: dict[str, bytes]) -> Case:
  name = draw(st.sampled_from(sorted(files)))
  if name == 'dataset_info.json' and draw(st.booleans()):
    return files | {name: draw(spoilt_json(json.loads(files[name])))}
  if not name.endswith('00001'):
    return files | {name: draw(spoilt_bytes([files[name]]))}
  content = bytearray(files[name])  # Most of a shard is padding, which nobody reads.
  used = np.flatnonzero(np.frombuffer(files[name], np.uint8))
  for _ in range(draw(st.integers(1, 4))):
    content[used[draw(st.integers(0, len(used) - 1))]] ^= 1 << draw(st.integers(0, 7))
  cut = draw(st.integers(0, 3)) == 0
  return files | {name: bytes(content[: draw(st.integers(0, len(content)))] if cut else content)}


def _read_set(files: dict[str, bytes], folder: pathlib.Path) -> str:
  manifest = load_manifest(folder)
  is_own = (folder / 'manifest.parquet').read_bytes() == files['manifest.parquet']
  outcome = 'read'
  for i in range(len(manifest)):
    try:
      image = transforms.decode_bytes(manifest.images.read(i), manifest.images.name(i))
    except OSError as error:
      assert str(error)
      outcome = 'undecodable'
      continue
    if is_own:
      number = int(pathlib.Path(manifest.table['path'][i]).stem)
      assert image[0, 0].tolist() == [40 * number, 0, 0], 'another image'
  return outcome


SETS = Border('tfds', _built, _sets, _read_set, 60)
