"""Borders of data: manifests, lists to import, raw data sets' own lists."""

import contextlib
import decimal
import io
import json
import pathlib

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st
from PIL import Image

from masm_jax.analysis import probe
from masm_jax.data import crop_settings, leaks
from masm_jax.data.check import stats
from masm_jax.data.importers.deepfakebench import Options, import_deepfakebench
from masm_jax.data.importers.dfdc import import_dfdc
from masm_jax.data.importers.gend_lists import import_gend_lists
from masm_jax.data.manifest import Manifest, build_manifest, load_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.preprocess import layouts
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import TEXTS, spoilt_bytes, spoilt_csv, spoilt_json, spoilt_lines

# --- Manifests ------------------------------------------------------------------------------------

_HEADER = (
  *('path', 'label', 'dataset', 'split', 'video_id', 'method', 'frame', 'width'),
  *('identities', 'crop_template', 'crop_margin', 'crop_size_px', 'landmarks', 'note'),
  *('source_video_id', 'identity', 'yaw', 'pitch'),
)
_ROW = (
  *('#.png', '1', 'd', 'train', 'd/v#', 'DF', '#', '8'),
  *('a;b', 'gend', '1.3', '256', '', '007'),
  *('d/v#', '#', '-0.5', '#'),
)


def _bombs() -> list[bytes]:
  """Manifests of some kB, of which a column or some of them take gigabytes once they are read."""
  rows = {name: pa.array([part.replace('#', str(i)) for i in range(1900)])
          for name, part in zip(_HEADER, _ROW, strict=True)}  # fmt: skip
  zeros = pa.array([0] * 1900, pa.int32())
  texts = pa.DictionaryArray.from_arrays(zeros, pa.array(['a' * 2**20]))
  lists = pa.ListArray.from_arrays(pa.array(range(1901), pa.int32()), texts)
  found = []
  for further in ({f'x{i}': texts for i in range(3)}, {'x': lists}):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(rows | further), file)
    found.append(file.getvalue())
  return found


def _sound(folder: pathlib.Path) -> list[bytes]:
  """Manifests in Parquet as they are written."""
  parts = [[part.replace('#', str(i)) for part in _ROW] for i in range(4)]
  rows = [dict(zip(_HEADER, row, strict=True)) for row in parts]
  for i in range(4):
    Image.new('RGB', (8, 8), (i, 0, 0)).save(folder / f'{i}.png')
  write_manifest(build_manifest(rows, folder), folder / 'm.parquet')
  file = io.BytesIO()
  pd.DataFrame(rows).to_parquet(file)  # With pandas' own notes.
  return [(folder / 'm.parquet').read_bytes(), file.getvalue()]


CELLS = {  # Types of columns, and strategies of their cells.
  'text': (pa.string(), st.sampled_from([t for t in TEXTS if '\ud800' not in t])),
  'bytes': (pa.binary(), st.sampled_from([b'', b'\xff\xfe', b'0.png'])),
  'whole': (pa.int64(), st.sampled_from([-1, 0, 1, 2**63 - 1])),
  'small': (pa.uint8(), st.integers(0, 2)),
  'large': (pa.uint64(), st.sampled_from([0, 1, 2**63, 2**64 - 1])),
  'fraction': (pa.float64(), st.sampled_from([0.0, 1.0, 0.5, float('nan'), float('inf'), 1e300])),
  'bool': (pa.bool_(), st.booleans()),
  'list': (pa.list_(pa.int32()), st.lists(st.integers(0, 3), max_size=2)),
  'fractions': (
    pa.list_(pa.float32()),
    st.lists(st.sampled_from([3e38, -3e38, 1e-40, 0.0, float('nan')]), min_size=3, max_size=3),
  ),
  'lists': (pa.list_(pa.list_(pa.string())), st.just([['a'], []])),
  'struct': (pa.struct([('a', pa.int8())]), st.just({'a': 1})),
  'map': (pa.map_(pa.string(), pa.string()), st.just([('a', 'b')])),
  'date': (pa.date32(), st.sampled_from([0, 2**31 - 1, -(2**31)])),
  'time': (pa.timestamp('ns', 'Europe/Berlin'), st.sampled_from([0, 2**62])),
  'seconds': (pa.timestamp('s'), st.sampled_from([0, 2**50, -(2**50)])),
  'decimal': (
    pa.decimal128(38, 2),
    st.sampled_from([decimal.Decimal('0.50'), decimal.Decimal('1e30'), None]),
  ),
  'duration': (pa.duration('s'), st.sampled_from([0, 2**50])),
  'nothing': (pa.null(), st.just(None)),
  'names': (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(['a', 'real'])),
}


@st.composite
def _typed_table(draw: st.DrawFn, note: dict) -> bytes:
  """A table of which some columns are of other types, with notes of pandas that may be spoilt."""
  size = draw(st.integers(0, 3))
  columns, names = [], []
  for name, part in zip(_HEADER, _ROW, strict=True):
    if draw(st.integers(0, 3)):
      column = pa.array([part.replace('#', str(i)) for i in range(size)], pa.string())
    else:
      kind, cells = CELLS[draw(st.sampled_from(sorted(CELLS)))]
      values = [None if draw(st.integers(0, 4)) == 0 else draw(cells) for _ in range(size)]
      column = pa.array(values, kind)
    columns.append(column)
    odd = draw(st.integers(0, 30)) == 0
    names.append(draw(st.sampled_from(TEXTS[:8])).replace('\ud800', '') if odd else name)
  table = pa.table(columns, names=names)
  metadata = {}
  if draw(st.booleans()):
    metadata[b'pandas'] = draw(spoilt_json(note))
  if draw(st.booleans()):
    root = draw(st.sampled_from(TEXTS)).encode('utf-8', 'surrogatepass')
    metadata[b'masm_jax.root'] = root.replace(b'\0', b'')
  file = io.BytesIO()
  pyarrow.parquet.write_table(table.replace_schema_metadata(metadata or None), file)
  return file.getvalue()


def _manifests(seeds: list[bytes]) -> st.SearchStrategy[Case]:
  note = json.loads(pyarrow.parquet.read_schema(io.BytesIO(seeds[1])).metadata[b'pandas'])
  return st.one_of(
    st.builds(lambda content: {'m.csv': content}, spoilt_csv(_HEADER, _ROW)),
    st.builds(lambda content: {'m.parquet': content}, spoilt_bytes(seeds)),
    st.builds(lambda content: {'m.parquet': content}, _typed_table(note)),
    st.builds(lambda content: {'m.parquet': content}, st.sampled_from(_bombs())),
  )


def _load(state: list[bytes], folder: pathlib.Path) -> str:
  (path,) = folder.iterdir()
  return _used(load_manifest(path, check_files=False), folder)


def _used(manifest: Manifest, folder: pathlib.Path) -> str:
  """What commands make of a manifest; it is the same when it was written and read again."""
  stats(manifest)
  leaks.find_leaks(manifest, manifest)
  crop_settings.read_crop_settings(manifest)
  with contextlib.suppress(UserError):
    probe.tasks(manifest.table)
  # What a TFDS set has features for.
  kinds = {kind.kind if kind.kind in 'Ob' else str(kind) for kind in manifest.table.dtypes}
  assert kinds <= {'O', 'b', 'int64', 'float64'}, kinds
  assert len(manifest.method_ids) == len(manifest.paths) == len(manifest)
  for name in ('again.csv', 'again.parquet'):
    write_manifest(manifest, folder / name)
    again = load_manifest(folder / name, manifest.root, check_files=False)
    assert again.sha256 == manifest.sha256, f'another hash from {name}'
  return 'loaded'


MANIFESTS = Border('manifests', _sound, _manifests, _load, 80)

# --- Lists to import ------------------------------------------------------------------------------

_BENCH = {
  'FF-DF': {
    'FF-DF': {
      'train': {
        'c23': {
          '000_003': {
            'label': 'FF-DF',
            'frames': ['d\\rgb\\FF\\fake\\000_003\\0.png', 'FF/fake/000_003/1.png'],
            'masks': ['FF/masks/000_003/0.png'],
          }
        }
      },
      'test': {'c23': {}},
    },
    'FF-real': {'val': {'c23': {'001': {'label': 'FF-real', 'frames': ['FF/real/001/0.png']}}}},
  }
}
_DFDC = {
  '001.mp4': {'label': 'REAL', 'split': 'train'},
  '000_003.mp4': {'label': 'FAKE', 'split': 'train', 'original': '001.mp4'},
}
_LIST = ['FF/real/001/0.png', 'FF/fake/000_003/1.png', '# note', '']


def _crops(folder: pathlib.Path) -> pathlib.Path:
  for path in ('real/001/0', 'fake/000_003/0', 'fake/000_003/1', 'masks/000_003/0'):
    file = folder / 'FF' / f'{path}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8)).save(file)
  return folder


def _lists(root: pathlib.Path) -> st.SearchStrategy[Case]:
  named = lambda name: lambda content: {name: content}
  row = ('001.mp4', 'FAKE', 'train', '000_003.mp4')
  return st.one_of(
    st.builds(named('FF-DF.json'), spoilt_json(_BENCH)),
    st.builds(named('metadata.json'), spoilt_json(_DFDC)),
    st.builds(named('metadata.csv'), spoilt_csv(('filename', 'label', 'split', 'original'), row)),
    st.builds(named('train.txt'), spoilt_lines(_LIST)),
  )


def _import(root: pathlib.Path, folder: pathlib.Path) -> str:
  (path,) = folder.iterdir()
  if path.name == 'FF-DF.json':
    manifest = import_deepfakebench([path], root, Options(skip_missing=True))
  elif path.name == 'train.txt':
    manifest = import_gend_lists({'train': [path]}, root)
  else:
    manifest = import_dfdc([path], root)
  return _used(manifest, folder)


IMPORTERS = Border('importers', _crops, _lists, _import, 80)

# --- Raw data sets --------------------------------------------------------------------------------

_PREVIEW = {
  'original_videos/1/1_C/a.mp4': {
    'label': 'real', 'set': 'train', 'target_id': 1, 'swapped_id': None,
  },
  'method_A/1/2_1_C_001.mp4': {'label': 'fake', 'set': 'test', 'target_id': 1, 'swapped_id': 2},
}  # fmt: skip
_PAIRS = [['000', '003'], ['001', '002']]
_TEST_LIST = ['1 Celeb-real/id0_0000.mp4', '0 Celeb-synthesis/id0_id1_0000.mp4']
_PERTURBATION = {'key': 'CS', 'level': 1, 'parameter': 0.4, 'seed': 0}

_TREES = {
  'dfdc': ('metadata.json', '001.mp4', '000_003.mp4'),
  'dfdcp': ('dataset.json', 'original_videos/1/1_C/a.mp4', 'method_A/1/2_1_C_001.mp4'),
  'ffpp': (
    'train.json',
    'original_sequences/youtube/c23/videos/000.mp4',
    'manipulated_sequences/Deepfakes/c23/videos/000_003.mp4',
  ),
  'celebdf_v2': (
    'List_of_testing_videos.txt',
    'Celeb-real/id0_0000.mp4',
    'Celeb-synthesis/id0_id1_0000.mp4',
  ),
  'deeperforensics': (
    'lists/splits/train.txt', 'manipulated_videos/end_to_end/000_M101.mp4',
  ),
}  # fmt: skip


def _raw(state: None) -> st.SearchStrategy[Case]:
  row = ('001.mp4', 'FAKE', 'train', '000_003.mp4')
  table = spoilt_csv(('filename', 'label', 'split', 'original'), row)
  lists = {
    'dfdc': spoilt_json(_DFDC),
    'dfdcp': spoilt_json(_PREVIEW),
    'ffpp': spoilt_json(_PAIRS),
    'celebdf_v2': spoilt_lines(_TEST_LIST),
    'deeperforensics': spoilt_lines(['000_M101.mp4', 'a/000_M101.mp4']),
  }

  def tree(layout: str, name: str, content: bytes) -> Case:
    return {f'{layout}/{name}': content} | {f'{layout}/{p}': b'' for p in _TREES[layout][1:]}

  cases = [
    st.builds(tree, st.just(layout), st.just(_TREES[layout][0]), content)
    for layout, content in lists.items()
  ]
  return st.one_of(*cases, st.builds(tree, st.just('dfdc'), st.just('metadata.csv'), table))


def _list_videos(state: None, folder: pathlib.Path) -> str:
  (root,) = folder.iterdir()
  split = 'train' if root.name in ('dfdc', 'ffpp') else ''
  videos = layouts.list_videos(root, root.name, layouts.Options(split=split))
  for video in videos:
    json.dumps(video.columns, ensure_ascii=False).encode()
    path = (root / video.video_id).resolve()
    assert root.resolve() in path.parents, f'{video.video_id} leaves the folder of its crops'
    video.video_id.encode()
    assert all(ord(letter) >= 32 for letter in video.video_id)
    assert video.path.encode('utf-8', 'surrogateescape')
  return 'listed'


LAYOUTS = Border('layouts', lambda folder: None, _raw, _list_videos, 80)
