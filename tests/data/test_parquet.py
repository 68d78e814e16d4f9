"""Parquet files of others: their columns are read, and nothing else of them is believed."""

import io
import json
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from masm_jax.data import parquet
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
  long = pa.table({'path': [str(i) for i in range(2000)], 'note': ['x' * 9000] * 2000})
  monkeypatch.setattr(parquet, 'MAX_COLUMN_BYTES', 2**24)
  with pytest.raises(UserError, match=r'column note holds 18,000,000 bytes'):
    parquet.read(write(long), 'm')


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
from masm_jax.data import parquet
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
