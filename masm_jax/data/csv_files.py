"""Tables as CSV files in UTF-8: read as text in bounded memory, written always alike."""

import csv
import hashlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from masm_jax import plain_files
from masm_jax.errors import UserError

# What a table takes from its file to its hash, measured: a letter that is no ASCII may take four
# bytes of each letter of its field.
_FIELD_BYTES = 100
_BYTES_PER_BYTE = 4
_MAX_LINE = 2**27  # Letters: 1,000 fields of 2**17, which `csv` reads at most.


def read(file: BinaryIO, name: str, *, max_columns: int) -> pd.DataFrame:
  """The table of an open file, as text alone.

  Types are not inferred: the video '000' would become 0, and the method 'NA' nothing.

  Args:
    file: open at its beginning.
    name: what errors call it.
    max_columns: of a table that is read.

  Raises:
    UserError: it is no table, or one that takes more memory than there is.
    OSError: it cannot be read.
  """
  size = file.seek(0, io.SEEK_END)
  file.seek(0)
  budget = plain_files.memory_bytes() - _BYTES_PER_BYTE * size
  text = io.TextIOWrapper(file, 'utf-8-sig', newline='')
  try:
    records = csv.reader(_lines(text, name), strict=True)
    header = next(records, [])
    if len(header) > max_columns:
      raise UserError(
        f'{name}: its header has {len(header):,} columns; at most {max_columns:,} can be read'
      )
    if len(set(header)) != len(header):
      raise UserError(f'{name}: a column stands twice in the header {",".join(header)}')
    rows: list[list[str]] = []
    for record in records:
      if not record:
        continue
      rows.append(record)
      if len(record) != len(header):
        raise UserError(
          f'{name}: row {len(rows)} has {len(record)} fields, its header {len(header)}'
        )
      budget -= _FIELD_BYTES * len(record)
      if budget < 0:
        raise UserError(
          f'{name}: a file of {size:,} bytes takes more memory from row {len(rows):,} on than this'
          ' machine has: write it again in parts, or without columns that nobody needs'
        )
  except (csv.Error, UnicodeDecodeError) as error:
    raise UserError(f'{name}: not a CSV file in UTF-8: {error}') from error
  finally:
    text.detach()
  columns = zip(*rows, strict=True) if rows else [[]] * len(header)
  return pd.DataFrame(
    {title: np.array(values, object) for title, values in zip(header, columns, strict=True)}
  )


def content(table: pd.DataFrame) -> bytes:
  """A table as a file."""
  sink = io.BytesIO()
  _write(table, sink)
  return sink.getvalue()


def sha256(table: pd.DataFrame) -> str:
  """SHA-256 of `content(table)`, as hexadecimal text, without all of it in memory."""
  digest = _Digest()
  _write(table, digest)
  return digest.sha256.hexdigest()


class _Digest(io.BufferedIOBase):
  """A file that keeps the SHA-256 of what is written into it, and nothing else."""

  def __init__(self):
    self.sha256 = hashlib.sha256()

  def writable(self) -> bool:
    return True

  def write(self, data: Any) -> int:
    self.sha256.update(data)
    return len(data)


def _write(table: pd.DataFrame, sink: Any) -> None:
  text = io.TextIOWrapper(sink, 'utf-8', newline='')
  table.to_csv(text, index=False, lineterminator='\n')
  text.detach()  # Which writes what is left, and does not close the sink.


def _lines(text: io.TextIOWrapper, name: str) -> Iterator[str]:
  """Its lines; a hole in a file would be one of gigabytes."""
  while line := text.readline(_MAX_LINE):
    if len(line) == _MAX_LINE and line[-1] not in '\r\n':
      raise UserError(f'{name}: a line of it has more than {_MAX_LINE:,} letters: it is damaged')
    yield line
