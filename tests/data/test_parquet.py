"""Parquet files of others: their columns are read, and nothing else of them is believed."""

import decimal
import io
import json
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from masm_jax import plain_files
from masm_jax.data import parquet, parquet_pages
from masm_jax.errors import UserError


def read(content, **options):
  return parquet.read(io.BytesIO(content), 'm', **options)


def write(table, metadata=None, **options):
  file = io.BytesIO()
  pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), file, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  'note', ['', '[', '[]', '{}', '{"columns": 3}', '[' * 3000, '{"index_columns": [[]]}', 'ä']
)
def test_notes_of_pandas_are_not_believed(note):
  table = pa.table({'path': ['a', 'b'], 'label': [0, None]})
  found, notes = read(write(table, {'pandas': note, 'own': 'x'}))
  assert found['path'].tolist() == ['a', 'b'] and found['label'].isna().tolist() == [False, True]
  assert notes[b'own'] == b'x'


def test_an_index_of_pandas_stays_a_column():
  file = io.BytesIO()
  pd.DataFrame({'label': [1]}, index=pd.Index(['a'], name='path')).to_parquet(file)
  assert list(read(file.getvalue())[0]) == ['label', 'path']


def test_texts_are_utf8():
  raw = pa.array([b'a', b'\xff\xfe'])
  text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
  with pytest.raises(UserError, match=r'^m: not a Parquet file that can be read: .*UTF') as caught:
    read(write(pa.table({'path': text})))
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
    read(write(pa.table({'x': pa.array(values, kind)})))


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
  found, _ = read(write(table))
  assert found['seconds'][0].startswith('1970-01-01') and found['day'][0] == '1970-01-01'
  assert found['name'].tolist() == ['a', 'b'] and found['points'][1].tolist() == []


def test_missing_numbers_cost_no_digits():
  large = 2**53 + 1
  table = pa.table({'id': [large, None], 'ids': [[large, None], [1]], 'small': [1, None]})
  found, _ = read(write(table))
  assert found['id'].tolist() == [large, None] and found['ids'][0].tolist() == [large, None]
  assert found['small'].dtype == float  # As ever: the hash of a manifest depends on it.


def test_a_column_twice():
  table = pa.table([pa.array(['a']), pa.array(['b'])], names=['path', 'path'])
  with pytest.raises(UserError, match='a column stands twice in the header path,path'):
    read(write(table))


def test_few_bytes_do_not_become_gigabytes(monkeypatch):
  rows = pa.table({'path': pa.array(['a'] * 100_000)})
  with pytest.raises(UserError, match=r'claims 100,000 rows of 1 columns in [\d,]+ bytes'):
    read(write(rows))
  paths = pa.array([str(i) for i in range(2000)])
  monkeypatch.setattr(parquet, 'MAX_BYTES', 2**22)
  monkeypatch.setattr(parquet, '_BYTES_PER_BYTE', 1)
  monkeypatch.setattr(parquet, '_BYTES_PER_ROW', 0)
  assert len(read(write(pa.table({'path': paths})))[0]) == 2000
  long, part = 'x' * 2000, 'x' * 300
  for kind, columns in {  # The last are too long all together alone.
    pa.string(): {'note': [long] * 2000},
    pa.large_string(): {'note': [long] * 2000},
    pa.list_(pa.string()): {'note': [[long, long], []] * 1000},
    pa.list_(pa.int8()): {'note': [[0] * 500_000] + [[]] * 1999},
    pa.list_(pa.int8(), 300): {'note': [None] * 2000},
    pa.list_(pa.float64()): {'note': [[0.5] * 20] * 2000},
    pa.int64(): {f'note{i}': [0] * 2000 for i in range(60)},
    pa.timestamp('ns'): {f'note{i}': [0] * 2000 for i in range(6)},
    pa.uint64(): {f'note{i}': [0] * 2000 for i in range(6)},
    pa.dictionary(pa.int32(), pa.string()): {f'note{i}': [part] * 2000 for i in range(2)},
  }.items():
    arrays = {name: pa.array(values, kind) for name, values in columns.items()}
    with pytest.raises(UserError, match=r'takes .* GiB of memory, more than the'):
      read(write(pa.table({'path': paths, **arrays})))
  thumbnails = pa.table({'path': paths, 'thumbnail': [b'x' * 2000] * 2000})
  with pytest.raises(UserError, match='with column thumbnail it takes'):
    read(write(thumbnails), as_bytes=('thumbnail',))


def test_numbers_of_any_length_are_refused():
  numbers = pa.array([decimal.Decimal(1)] * 3, pa.decimal128(38))
  content = write(pa.table({'exact': numbers}))
  length = b'\x15\x0e\x15'  # Of the schema: FIXED_LEN_BYTE_ARRAY, and the bytes of each value.
  assert content.count(length + b'\x20') == 1 and read(content)[0]['exact'][0] == '1'
  with pytest.raises(UserError, match='m: each value of column exact has 33 bytes, and no number'):
    read(content.replace(length + b'\x20', length + b'\x42'))


def test_texts_that_are_not_ascii_take_more():
  plain, other = ([parquet._text_bytes(pa.array([text, text]).dictionary_encode())]
                  for text in ('abcd', 'ab\xe4'))  # fmt: skip
  assert plain == [8] and other == [16]


class Counted(io.FileIO):
  """A file that knows how much of it was read."""

  taken = 0

  def readinto(self, buffer):
    count = super().readinto(buffer)
    self.taken += count
    return count

  def read(self, size=-1):
    found = super().read(size)
    self.taken += len(found)
    return found


def test_a_hole_is_not_read(tmp_path):
  path = tmp_path / 'm.parquet'
  with path.open('wb') as file:
    file.truncate(2**32 - 1)
  with Counted(path) as file, pytest.raises(UserError, match='it ends as no such file does'):
    parquet.read(file, 'm')
  assert file.taken < 100


def test_a_file_larger_than_the_memory_is_not_read(tmp_path, monkeypatch):
  path = tmp_path / 'm.parquet'
  path.write_bytes(write(pa.table({'path': ['a' * 100]})))
  monkeypatch.setattr(plain_files, 'memory_bytes', lambda: 100)
  with Counted(path) as file, pytest.raises(UserError, match='this machine may hold of such'):
    parquet.read(file, 'm')
  assert file.taken < 100


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
  monkeypatch.setattr(parquet_pages, '_BYTES_PER_STEP', 2**20)
  with pytest.raises(UserError, match='its headers are too long'):
    read(content)


def test_pages_of_a_row_each_are_refused(monkeypatch):
  table = pa.table({'path': [str(i) for i in range(900)]})
  monkeypatch.setattr(parquet_pages, '_MAX_STEPS', 500)
  assert len(read(write(table))[0]) == 900
  with pytest.raises(UserError, match='its headers are too long'):
    read(write(table, data_page_size=1, write_batch_size=1, use_dictionary=False))


@pytest.mark.parametrize('kind', ['DELTA_BYTE_ARRAY', 'DELTA_LENGTH_BYTE_ARRAY', 'PLAIN'])
def test_every_encoding_of_texts_is_read(kind):
  table = pa.table({'note': ['a', None] * 1500, 'path': [f'a/{i:06d}.png' for i in range(3000)]})
  content = write(table, use_dictionary=['note'], column_encoding={'path': kind})
  found, _ = read(content)
  assert list(found) == ['note', 'path'] and found['path'].tolist() == table['path'].to_pylist()
  assert found['note'].isna().tolist() == [False, True] * 1500


@pytest.mark.parametrize('uses_dictionary', [True, False])
def test_texts_that_share_their_bytes_are_read(uses_dictionary):
  texts = ['a', None, 'b' * 30]
  table = pa.table(
    {
      'path': pa.array(texts, pa.string_view()),
      'lists': pa.array([texts, [], None], pa.list_(pa.string())).cast(pa.list_(pa.string_view())),
      'bytes': pa.array([b'a', b'b', None], pa.binary_view()),
    }
  )
  found, _ = read(write(table, use_dictionary=uses_dictionary), as_bytes=('bytes',))
  assert found['path'].fillna('').tolist() == ['a', '', 'b' * 30]
  assert found['lists'][0].tolist() == texts and found['bytes'][1] == b'b'
  with pytest.raises(UserError, match='column bytes is of type binary_view'):
    read(write(table))


def test_dots_in_names_are_part_of_them():
  columns = {name: [f'{name}{i}' for i in range(300)] for name in ('a', 'a.b', 'a.b.c', 'a.d', 'e')}
  deltas = dict.fromkeys(('a.b', 'a.b.c'), 'DELTA_BYTE_ARRAY')
  content = write(pa.table(columns), use_dictionary=['a', 'a.d', 'e'], column_encoding=deltas)
  found, _ = read(content)
  assert {name: found[name].tolist() for name in found} == columns
  # Read in parts with `a`, a list would be written out, however long it is.
  table = pa.table({'a': columns['a'], 'a.b': [['x', 'x']] * 300})
  content = write(table, use_dictionary=['a.b.list.element'], column_encoding={'a': deltas['a.b']})
  with pytest.raises(UserError, match='Not yet implemented'):
    read(content)


def test_texts_of_which_only_what_is_new_is_written_are_bounded(monkeypatch):
  table = pa.table({'path': ['x' * 10_000 + str(i) for i in range(500)]})
  content = write(table, use_dictionary=False, column_encoding={'path': 'DELTA_BYTE_ARRAY'})
  assert len(content) < 30_000 and len(read(content)[0]) == 500
  monkeypatch.setattr(parquet, 'MAX_BYTES', 2**22)
  with pytest.raises(UserError, match=r'm: with column path it takes .* more than the'):
    read(content)


def test_names_that_compress_well_are_read():
  folder = [f'{"long/" * 20}{i // 100:06d}' for i in range(50_000)]
  table = pa.table(
    {'path': [f'{name}/{i % 100:04d}.png' for i, name in enumerate(folder)]}
    | {f'{i}': folder for i in range(5)}
  )
  content = write(table, compression='zstd')
  assert len(content) < 200_000
  assert len(read(content)[0]) == 50_000
  for rows in (1_000_000, 5_000_000):  # What is measured of them, in file and in memory.
    need = rows * (12 * parquet._VALUE_BYTES + 340 * (parquet._TEXT_COPIES + 1))
    assert need < parquet.MAX_BYTES + parquet._BYTES_PER_ROW * rows


def test_no_table_is_larger_than_the_machine(monkeypatch):
  monkeypatch.setattr(plain_files, 'memory_bytes', lambda: 2**20)
  with pytest.raises(UserError, match=r'm: with .* GiB of memory, .* that this machine may hold'):
    read(write(pa.table({'path': ['x' * 1000] * 400})))


def test_any_flipped_byte_is_one_line_or_a_table():
  table = pa.table({'path': ['a', 'b', 'c'], 'label': [0, 1, 0], 'points': [[1], [2, 3], []]})
  content = write(table, {'pandas': json.dumps({'columns': []})})
  outcomes = set()
  for place in range(len(content)):
    damaged = bytearray(content)
    damaged[place] ^= 0x55
    try:
      outcomes.add(list(read(bytes(damaged))[0]) == list(table.column_names))
    except UserError as error:
      assert '\n' not in str(error)
      outcomes.add('refused')
  assert {True, 'refused'} <= outcomes


# Twenty processes; with an object of Python's in the hands of Arrow's threads a quarter aborts.
_READS_AND_ENDS = """
import os, sys
from masm_jax.data import parquet, parquet_pages
statuses = []
for _ in range(20):
  child = os.fork()
  if not child:
    parquet.read(open(sys.argv[1], 'rb'), 'm')
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
