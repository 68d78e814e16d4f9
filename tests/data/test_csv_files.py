"""Tables as CSV files: texts as they are, in bounded memory, and always the same bytes."""

import hashlib
import io

import numpy as np
import pandas as pd
import pytest

from masm_jax import plain_files
from masm_jax.data import csv_files
from masm_jax.errors import UserError


def read(content):
  return csv_files.read(io.BytesIO(content), 'm', max_columns=3)


def test_texts_stay_texts():
  table = read('\ufeffvideo,"a ""b"""\r\n000,NA\n\n"1,\n2",\xe4'.encode())
  assert table.to_dict('list') == {'video': ['000', '1,\n2'], 'a "b"': ['NA', '\xe4']}
  assert list(read(b'a,b')) == ['a', 'b'] and read(b'').empty


@pytest.mark.parametrize(
  ('content', 'line'),
  [
    (b'a,b\n1', 'm: row 1 has 1 fields, its header 2'),
    (b'a,a\n1,2', 'm: a column stands twice in the header a,a'),
    (b'a,b,c,d', 'm: its header has 4 columns; at most 3 can be read'),
    (b'a\n"1', 'm: not a CSV file in UTF-8: unexpected end of data'),
    (b'a\n\xff', 'm: not a CSV file in UTF-8: .* byte 0xff'),
  ],
)
def test_what_is_no_table_is_one_line(content, line):
  with pytest.raises(UserError, match=line):
    read(content)


def test_a_hole_in_a_file_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(csv_files, '_MAX_LINE', 2**20)
  path = tmp_path / 'm.csv'
  path.write_bytes(b'a,b\n')
  with path.open('r+b') as file:
    file.truncate(2**32 - 1)
    with pytest.raises(UserError, match='m: a line of it has more than 1,048,576 letters'):
      csv_files.read(file, 'm', max_columns=3)
    assert file.tell() < 2**22
  assert len(read(b'a\n' + 900 * (b'x' * 2000 + b'\n'))) == 900


def test_no_table_is_larger_than_the_machine(monkeypatch):
  monkeypatch.setattr(plain_files, 'memory_bytes', lambda: 2**16)
  assert len(read(b'a,b\n' + b'1,2\n' * 200)) == 200
  with pytest.raises(UserError, match='m: a file of 2,004 bytes takes more memory from row 2'):
    read(b'a,b\n' + b'1,2\n' * 500)
  with pytest.raises(UserError, match='takes more memory from row 1'):
    read(b'a\n' + b'x' * 2**15)


def test_the_hash_is_of_the_file():
  """And both are what pandas writes at once: the hashes of earlier versions."""
  table = pd.DataFrame(
    {'path': np.array(['a,\n"\xe4', 'b'] * 30_000, object), 'x': np.arange(60_000) / 7, 'y': True}
  )
  expected = table.to_csv(index=False, lineterminator='\n').encode()
  assert csv_files.content(table) == expected
  assert csv_files.sha256(table) == hashlib.sha256(expected).hexdigest()
