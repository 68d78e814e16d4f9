import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from masm_jax.data.check import stats
from masm_jax.data.columns import COLUMNS
from masm_jax.data.derive import split_by_identity
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.errors import UserError


@pytest.fixture
def rows(tmp_path):
  """Six crops of three videos; the second of each is rotated by its EXIF tag."""
  found = []
  for video, label in (('000', 0), ('000_003', 1), ('007', 0)):
    for frame in range(2):
      path = f'{video}/{frame:03}.png'
      (tmp_path / video).mkdir(exist_ok=True)
      exif = Image.Exif()
      exif[274] = 6 if frame else 1
      Image.new('RGB', (5, 4), (label * 99, frame, len(found))).save(tmp_path / path, exif=exif)
      found.append(
        {
          'path': path,
          'label': label,
          'dataset': 'set',
          'split': 'train' if label else 'val',
          'video_id': video,
          'frame': frame,
          'pose': 0.1 * len(found),
          'person': video[:3],
          'rank': len(found),
        }
      )
  return found


def test_build_completes_and_sorts_rows(rows, tmp_path):
  manifest = build_manifest(rows[::-1], tmp_path)
  table = manifest.table
  assert tuple(table.columns) == (*COLUMNS, 'person', 'pose', 'rank')
  assert list(table['path']) == sorted(row['path'] for row in rows)
  assert manifest.labels.dtype == np.int32
  assert manifest.labels.tolist() == [0, 0, 1, 1, 0, 0]
  assert manifest.video_ids.tolist() == ['000', '000', '000_003', '000_003', '007', '007']
  assert manifest.paths[2] == os.path.join(tmp_path, '000_003/000.png')
  assert list(table['method']) == ['real'] * 2 + ['fake'] * 2 + ['real'] * 2
  assert list(table['source_video_id']) == ['000'] * 2 + [''] * 2 + ['007'] * 2
  assert list(table['width']) == [5, 4] * 3
  assert list(table['height']) == [4, 5] * 3
  content = (tmp_path / '000/001.png').read_bytes()
  assert table['sha256'][1] == hashlib.sha256(content).hexdigest()


def test_method_ids_number_the_forgeries_and_put_all_real_faces_together(rows, tmp_path):
  for row, method in zip(rows, ('youtube', 'actors', 'NT', 'DF', 'youtube', ''), strict=True):
    row['method'] = method
  manifest = build_manifest(rows, tmp_path)
  assert manifest.table['method'].tolist() == ['youtube', 'actors', 'NT', 'DF', 'youtube', 'real']
  assert manifest.method_ids.tolist() == [0, 0, 2, 1, 0, 0]
  assert manifest.method_ids.dtype == np.int32
  assert manifest.select(label=0).method_ids.tolist() == [0, 0, 0, 0]


def test_file_that_is_no_image_gets_size_zero(rows, tmp_path):
  (tmp_path / '000/000.png').write_text('hello')
  table = build_manifest(rows, tmp_path).table
  assert (table['width'][0], table['height'][0]) == (0, 0)
  assert table['sha256'][0] == hashlib.sha256(b'hello').hexdigest()


def test_csv_parquet_and_row_order_give_one_hash(rows, tmp_path):
  manifest = build_manifest(rows, tmp_path)
  for name in ('m.csv', 'm.parquet'):
    write_manifest(manifest, tmp_path / name)
    loaded = load_manifest(tmp_path / name)
    assert loaded.sha256 == manifest.sha256
    pd.testing.assert_frame_equal(loaded.table, manifest.table, check_exact=True)
  assert hashlib.sha256((tmp_path / 'm.csv').read_bytes()).hexdigest() == manifest.sha256
  header, *lines = (tmp_path / 'm.csv').read_text().splitlines()
  (tmp_path / 'shuffled.csv').write_text('\n'.join([header, *lines[::-1]]))
  assert load_manifest(tmp_path / 'shuffled.csv').sha256 == manifest.sha256
  rows[0]['frame'] = 5
  assert build_manifest(rows, tmp_path).sha256 != manifest.sha256


def test_writing_twice_gives_the_same_bytes_and_no_left_overs(rows, tmp_path):
  manifest = build_manifest(rows, tmp_path)
  for name in ('a.parquet', 'b.parquet', 'a.csv'):
    write_manifest(manifest, tmp_path / 'out' / name)
  out = tmp_path / 'out'
  assert (out / 'a.parquet').read_bytes() == (out / 'b.parquet').read_bytes()
  assert sorted(os.listdir(out)) == ['a.csv', 'a.parquet', 'b.parquet']


def test_further_columns_keep_what_they_say(rows, tmp_path):
  for i, row in enumerate(rows):
    row |= {'ids': f'{i:03}', 'flag': i > 2, 'gap': None if i == 1 else i / 3, 'note': 'a,"b"\nc'}
    row |= {'big': '9' * 30, 'half': f'{i}.50', 'tiny': 1e-300 * i}
  manifest = build_manifest(rows, tmp_path)
  write_manifest(manifest, tmp_path / 'm.csv')
  table = load_manifest(tmp_path / 'm.csv').table
  assert list(table['ids']) == [f'{i:03}' for i in range(6)]
  assert list(table['flag']) == [False] * 3 + [True] * 3
  assert table['gap'].isna().tolist() == [False, True] + [False] * 4
  assert list(table['gap'][2:]) == [i / 3 for i in range(2, 6)]
  assert list(table['note']) == ['a,"b"\nc'] * 6
  assert list(table['half']) == [f'{i}.50' for i in range(6)]
  assert list(table['big']) == ['9' * 30] * 6
  assert list(table['tiny']) == [1e-300 * i for i in range(6)]


def test_minimal_csv_loads(rows, tmp_path):
  lines = ['path,label,dataset,split,video_id', *(f'{r["path"]},1,NA,test,7' for r in rows)]
  (tmp_path / 'm.csv').write_text('\n'.join(lines), encoding='utf-8-sig')
  table = load_manifest(tmp_path / 'm.csv').table
  assert set(table['dataset']) == {'NA'}
  assert set(table['video_id']) == {'7'}
  assert set(table['sha256']) == {''}


def test_select(rows, tmp_path):
  manifest = build_manifest(rows, tmp_path)
  picked = manifest.select(split='val', video_id=['007', '000_003'])
  assert list(picked.table['path']) == ['007/000.png', '007/001.png']
  assert list(picked.table.index) == [0, 1]
  assert picked.sha256 != manifest.sha256
  assert manifest.select(label=[0, 1]).sha256 == manifest.sha256
  assert len(manifest.select(split='test')) == 0
  with pytest.raises(UserError, match='no column'):
    manifest.select(colour='red')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'label': 2}, r'unknown label.*row 3 \(000_003/000.png, label=2\)'),
    ({'label': 0.5}, 'unknown label'),
    ({'label': 'fake'}, 'unknown label'),
    ({'label': None}, 'unknown label'),
    ({'split': 'dev'}, r'unknown split, must be one of train, val, test: row 3'),
    ({'path': '007/009.png'}, r'missing file below .*row 3 \(007/009.png\)'),
    ({'path': '007'}, 'missing file'),
    ({'path': './000//000.png'}, r'duplicate path: row 1 \(000/000.png\), row 3'),
    ({'path': '../x.png'}, 'leaves the root'),
    ({'path': '000/../../x.png'}, 'leaves the root'),
    ({'path': '/etc/passwd'}, 'leaves the root'),
    ({'path': ''}, 'path is empty'),
    ({'path': 'a\nb.png'}, 'line break'),
    ({'path': 'a\udc80.png'}, 'not UTF-8'),
    ({'video_id': '000'}, 'video_id with two labels: row 1 .*row 2 .*row 3'),
    ({'video_id': ''}, 'empty video_id'),
    ({'frame': 'x'}, 'frame is not a whole number'),
    ({'width': float('inf')}, 'width is not a whole number'),
  ],
)
def test_first_offending_rows_are_named_in_one_line(rows, tmp_path, change, message):
  rows[2] |= change
  with pytest.raises(UserError, match=message) as caught:
    build_manifest(rows, tmp_path)
  assert '\n' not in str(caught.value)
  str(caught.value).encode()


def test_only_the_first_rows_are_shown(rows, tmp_path):
  with pytest.raises(UserError, match='and 3 more'):
    build_manifest([row | {'split': 'x'} for row in rows], tmp_path)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('m.csv', '', 'empty'),
    ('m.csv', 'path,label,dataset,split,video_id\n', 'empty'),
    ('m.csv', 'path,label\na,1\n', 'missing column dataset, split, video_id'),
    ('m.csv', 'path,label\na,1,2\n', 'row 1 has 3 fields'),
    ('m.csv', 'path,path\na,1\n', 'stands twice'),
    ('m.csv', 'a' + ',a' * 1000, 'its header has 1,001 columns; at most 1,000'),
    ('m.csv', b'\xff\xfe\x00', 'not a CSV file in UTF-8'),
    ('m.parquet', 'nonsense', 'not a Parquet file'),
    ('m.json', '{}', r'is a \.csv or \.parquet file'),
  ],
)
def test_file_that_is_no_manifest(tmp_path, name, content, message):
  content = content if isinstance(content, bytes) else content.encode()
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    load_manifest(tmp_path / name)


def test_further_columns_of_lists_are_kept_as_text(rows, tmp_path):
  table = build_manifest(rows, tmp_path).table
  boxes = [np.array([i, 2]) if i else None for i in range(len(table))]
  table.assign(box=boxes).to_parquet(tmp_path / 'm.parquet')
  assert load_manifest(tmp_path / 'm.parquet').table['box'].tolist()[:2] == ['', '[1, 2]']


@pytest.mark.parametrize(
  'points', [[[1 / 3, 2.0], [1 / 3 + 1e-16, 0.1]], [list(range(1500)), []], [['a b', "c'"], None]]
)
def test_no_digit_of_a_list_of_lists_is_lost(rows, tmp_path, points):
  table = build_manifest(rows, tmp_path).table
  table.assign(points=[points] * len(table)).to_parquet(tmp_path / 'm.parquet')
  write_manifest(load_manifest(tmp_path / 'm.parquet'), tmp_path / 'm.csv')
  found = load_manifest(tmp_path / 'm.csv')
  assert found.table['points'][0] == str(points)
  assert found.sha256 == load_manifest(tmp_path / 'm.parquet').sha256


def test_absent_manifest_and_root(rows, tmp_path):
  with pytest.raises(UserError, match='no manifest at'):
    load_manifest(tmp_path / 'm.parquet')
  write_manifest(build_manifest(rows, tmp_path), tmp_path / 'm.parquet')
  with pytest.raises(UserError, match='is not a folder'):
    load_manifest(tmp_path / 'm.parquet', root=tmp_path / 'nowhere')
  with pytest.raises(UserError, match='a manifest is'):
    write_manifest(build_manifest(rows, tmp_path), tmp_path / 'm.xlsx')


def test_describing_data_needs_no_jax():
  names = 'manifest transforms samplers check importers.folder importers.gend_lists __main__'
  code = '\n'.join(
    [f'import masm_jax.data.{name}' for name in names.split()]
    + ['import sys', 'print([m for m in ("jax", "torch", "tensorflow") if m in sys.modules])']
  )
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'


def test_unlabelled_rows(tmp_path):
  for i in range(3):
    Image.new('RGB', (8, 8), (i, i, i)).save(tmp_path / f'{i}.png')
  rows = [
    {'path': '0.png', 'label': -1, 'dataset': 'd', 'split': '', 'video_id': 'd/0'},
    {'path': '1.png', 'label': -1, 'dataset': 'd', 'split': 'test', 'video_id': 'd/1'},
    {'path': '2.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': 'd/2'},
  ]
  manifest = build_manifest(rows, tmp_path)
  for name in ('a.csv', 'a.parquet'):
    write_manifest(manifest, tmp_path / name)
    found = load_manifest(tmp_path / name)
    assert found.sha256 == manifest.sha256 and found.labels.tolist() == [-1, -1, 0]
    assert found.table['method'].tolist() == ['unlabelled', 'unlabelled', 'real']
    assert found.table['source_video_id'].tolist() == ['', '', 'd/2']
  assert stats(manifest)['label'].tolist() == ['unlabelled', 'real', 'unlabelled']
  with pytest.raises(UserError, match='2 rows have no label'):
    split_by_identity(manifest, {'train': 0.5, 'test': 0.5}, 0)
  rows[2]['split'] = ''
  with pytest.raises(UserError, match=r'unknown split.*row 3'):
    build_manifest(rows, tmp_path)
