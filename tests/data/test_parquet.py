"""Parquet files of others: their columns are read, and nothing else of them is believed."""

import io
import json
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from masm_jax.data import parquet, parquet_pages
from masm_jax.errors import UserError


def write(table, metadata=None, **options):
  file = io.BytesIO()
  pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), file, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  'note', ['', '[', '[]', '{}', '{"columns": 3}', '[' * 3000, '{"index_columns": [[]]}', 'ä']
)
def test_notes_of_pandas_are_not_believed(note):
  table = pa.table({'path': ['a', 'b'], 'label': [0, None]})
  found, notes = parquet.read(write(table, {'pandas': note, 'own': 'x'}), 'm.parquet')
  assert found['path'].tolist() == ['a', 'b'] and found['label'].isna().tolist() == [False, True]
  assert notes[b'own'] == b'x'


def test_an_index_of_pandas_stays_a_column():
  file = io.BytesIO()
  pd.DataFrame({'label': [1]}, index=pd.Index(['a'], name='path')).to_parquet(file)
  assert list(parquet.read(file.getvalue(), 'm')[0]) == ['label', 'path']


def test_texts_are_utf8():
  raw = pa.array([b'a', b'\xff\xfe'])
  text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
  with pytest.raises(UserError, match=r'^m: not a Parquet file that can be read: .*UTF') as caught:
    parquet.read(write(pa.table({'path': text})), 'm')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('values', 'kind', 'expected'),
  [
    ([{'a': 1}], pa.struct([('a', pa.int8())]), 'struct<a: int8>'),
    ([[('a', 'b')]], pa.map_(pa.string(), pa.string()), 'map<string, string'),
    ([[[[1]]]], pa.list_(pa.list_(pa.list_(pa.int8()))), 'list<'),
    ([b'a'], pa.binary(), 'binary'),
  ],
)
def test_types_are_a_closed_list(values, kind, expected):
  with pytest.raises(UserError, match=f'm: column x is of type {expected}'):
    parquet.read(write(pa.table({'x': pa.array(values, kind)})), 'm')


def test_what_is_no_number_becomes_text():
  table = pa.table(
    {
      'seconds': pa.array([0, 2**50], pa.timestamp('s')),
      'day': pa.array([0, -(2**31)], pa.date32()),
      'exact': pa.array([None, None], pa.decimal128(38, 2)),
      'name': pa.array(['a', 'b']).dictionary_encode(),
      'points': pa.array([[[1.0, 2.0]], []], pa.list_(pa.list_(pa.float64()))),
    }
  )
  found, _ = parquet.read(write(table), 'm')
  assert found['seconds'][0].startswith('1970-01-01') and found['day'][0] == '1970-01-01'
  assert found['name'].tolist() == ['a', 'b'] and found['points'][1].tolist() == []


def test_a_column_twice():
  table = pa.table([pa.array(['a']), pa.array(['b'])], names=['path', 'path'])
  with pytest.raises(UserError, match='a column stands twice in the header path,path'):
    parquet.read(write(table), 'm')


def test_few_bytes_do_not_become_gigabytes(monkeypatch):
  rows = pa.table({'path': pa.array(['a'] * 100_000)})
  with pytest.raises(UserError, match=r'claims 100,000 rows of 1 columns in [\d,]+ bytes'):
    parquet.read(write(rows), 'm')
  paths = pa.array([str(i) for i in range(2000)])
  monkeypatch.setattr(parquet, 'MAX_BYTES', 2**22)
  monkeypatch.setattr(parquet, '_BYTES_PER_BYTE', 1)
  monkeypatch.setattr(parquet, '_BYTES_PER_ROW', 0)
  assert len(parquet.read(write(pa.table({'path': paths})), 'm')[0]) == 2000
  long, part = 'x' * 2000, 'x' * 300
  for kind, columns in {  # The last are too long all together alone.
    pa.string(): {'note': [long] * 2000},
    pa.large_string(): {'note': [long] * 2000},
    pa.list_(pa.string()): {'note': [[long, long], []] * 1000},
    pa.list_(pa.int8()): {'note': [[0] * 500_000] + [[]] * 1999},
    pa.list_(pa.int8(), 300): {'note': [None] * 2000},
    pa.int64(): {f'note{i}': [0] * 2000 for i in range(60)},
    pa.dictionary(pa.int32(), pa.string()): {f'note{i}': [part] * 2000 for i in range(2)},
  }.items():
    arrays = {name: pa.array(values, kind) for name, values in columns.items()}
    with pytest.raises(UserError, match=r'takes .* GiB of memory, more than the'):
      parquet.read(write(pa.table({'path': paths, **arrays})), 'm')
  thumbnails = pa.table({'path': paths, 'thumbnail': [b'x' * 2000] * 2000})
  with pytest.raises(UserError, match='with column thumbnail it takes'):
    parquet.read(write(thumbnails), 'm', as_bytes=('thumbnail',))


@pytest.mark.parametrize('version', ['1.0', '2.0'])
def test_claims_are_those_of_the_pages(version):
  table = pa.table({'path': [str(i) for i in range(900)], 'points': [[1, 2, 3]] * 900})
  content = write(table, data_page_version=version, data_page_size=500, row_group_size=400)
  found = list(parquet_pages.chunks(content))
  dictionaries = {0: (400, 400, 100), 1: (3, 3, 3)}
  for chunk, rows in zip(found[::2], (400, 400, 100), strict=True):
    assert chunk[:3] == (0, rows, rows + dictionaries[0][found.index(chunk) // 2])
  assert [chunk.values for chunk in found[1::2]] == [1203, 1203, 303]
  metadata = pyarrow.parquet.read_metadata(io.BytesIO(content))
  for i, chunk in enumerate(found):
    noted = metadata.row_group(i // 2).column(i % 2)
    assert 0 < noted.total_uncompressed_size - chunk.num_bytes < 3000  # Headers of pages.


def test_headers_that_take_too_long_are_refused(monkeypatch):
  content = write(pa.table({f'c{i}': [1] for i in range(20)}))
  monkeypatch.setattr(parquet_pages, '_MAX_STEPS', 500)
  monkeypatch.setattr(parquet_pages, '_STEPS_PER_BYTE', 0)
  with pytest.raises(UserError, match='its headers are too long'):
    parquet.read(content, 'm')


@pytest.mark.parametrize('kind', ['DELTA_BYTE_ARRAY', 'DELTA_LENGTH_BYTE_ARRAY', 'PLAIN'])
def test_every_encoding_of_texts_is_read(kind):
  table = pa.table({'note': ['a', None] * 1500, 'path': [f'a/{i:06d}.png' for i in range(3000)]})
  content = write(table, use_dictionary=['note'], column_encoding={'path': kind})
  found, _ = parquet.read(content, 'm')
  assert list(found) == ['note', 'path'] and found['path'].tolist() == table['path'].to_pylist()
  assert found['note'].isna().tolist() == [False, True] * 1500


def test_texts_of_which_only_what_is_new_is_written_are_bounded(monkeypatch):
  table = pa.table({'path': ['x' * 10_000 + str(i) for i in range(500)]})
  content = write(table, use_dictionary=False, column_encoding={'path': 'DELTA_BYTE_ARRAY'})
  assert len(content) < 30_000 and len(parquet.read(content, 'm')[0]) == 500
  monkeypatch.setattr(parquet, 'MAX_BYTES', 2**22)
  with pytest.raises(UserError, match=r'm: with column path it takes .* more than the'):
    parquet.read(content, 'm')


def test_names_that_compress_well_are_read():
  folder = [f'{"long/" * 20}{i // 100:06d}' for i in range(50_000)]
  table = pa.table(
    {'path': [f'{name}/{i % 100:04d}.png' for i, name in enumerate(folder)]}
    | {f'{i}': folder for i in range(5)}
  )
  content = write(table, compression='zstd')
  assert len(content) < 200_000
  assert len(parquet.read(content, 'm')[0]) == 50_000
  for rows in (1_000_000, 5_000_000):  # What is measured of them, in file and in memory.
    need = rows * (12 * parquet._VALUE_BYTES + 340 * (parquet._TEXT_COPIES + 1))
    assert need < parquet.MAX_BYTES + parquet._BYTES_PER_ROW * rows


def test_no_table_is_larger_than_the_machine(monkeypatch):
  monkeypatch.setattr(parquet, '_memory_bytes', lambda: 2**20)
  with pytest.raises(UserError, match=r'm: with .* GiB of memory, .* that this machine may hold'):
    parquet.read(write(pa.table({'path': ['x' * 1000] * 400})), 'm')


def test_any_flipped_byte_is_one_line_or_a_table():
  table = pa.table({'path': ['a', 'b', 'c'], 'label': [0, 1, 0], 'points': [[1], [2, 3], []]})
  content = write(table, {'pandas': json.dumps({'columns': []})})
  outcomes = set()
  for place in range(len(content)):
    damaged = bytearray(content)
    damaged[place] ^= 0x55
    try:
      outcomes.add(list(parquet.read(bytes(damaged), 'm')[0]) == list(table.column_names))
    except UserError as error:
      assert '\n' not in str(error)
      outcomes.add('refused')
  assert {True, 'refused'} <= outcomes


# Twenty processes; with an object of Python's in the hands of Arrow's threads a quarter aborts.
_READS_AND_ENDS = """
import os, sys
from masm_jax.data import parquet, parquet_pages
content = open(sys.argv[1], 'rb').read()
statuses = []
for _ in range(20):
  child = os.fork()
  if not child:
    parquet.read(content, 'm')
    sys.exit()
  statuses.append(os.waitpid(child, 0)[1])
print(statuses)
"""


def test_a_process_that_has_read_a_table_ends_well(tmp_path):
  columns = {f'c{i}': list(range(300)) for i in range(12)}
  path = tmp_path / 'm.parquet'
  path.write_bytes(write(pa.table({'path': [f'{i}.png' for i in range(300)]} | columns)))
  ended = subprocess.run(
    [sys.executable, '-c', _READS_AND_ENDS, path], capture_output=True, text=True, check=True
  )
  assert ended.stdout == f'{[0] * 20}\n'
