"""Reads Parquet files as data: what stands beside the columns in a file changes nothing.

Pandas keeps notes of its own in a file, and believes them; Arrow decodes what a few bytes say a
million times. Here the notes are not read, texts are UTF-8, types are a closed list, and what the
columns take in memory is known before they take it.
"""

import os
from collections.abc import Collection

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from masm_jax.data import parquet_pages as pages
from masm_jax.errors import UserError, first_line

# A table names a file or a frame in each row: those names alone take some bits of the file.
_ROWS_PER_BYTE = 4
MAX_COLUMNS = 1000
# What a table may take once it is decoded and checked, where the machine has it: so much, and so
# much more for each row (20 columns, 600 letters) and for each byte of its file.
MAX_BYTES = 2**31
_BYTES_PER_ROW = 4096
_BYTES_PER_BYTE = 64
# Measured of a manifest of a million rows, from its file to its hash: 2.1 GB where this says 2.2.
_VALUE_BYTES = 40  # A value beside what its pages hold of it.
_ITEM_BYTES = 12  # A number in a list.
_LIST_BYTES = 256  # A list becomes an array of its own.
_TEXT_COPIES = 4
_MAX_DEPTH = 2  # Of lists in lists: landmarks are a list of points.

_kinds = pa.types


def read(
  content: bytes, name: str, *, as_bytes: Collection[str] = ()
) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
  """The table of a file, and the notes in its schema.

  Args:
    content: the file.
    name: what errors call it.
    as_bytes: columns that may hold bytes.

  Returns:
    Columns of texts, whole numbers, fractions, truth values, or lists of these; dates and exact
    decimals are texts.

  Raises:
    UserError: it is no Parquet file, is damaged, or holds what no such table holds.
  """
  try:
    owned = _copied(content)
    file = pa.parquet.ParquetFile(pa.BufferReader(owned))
    schema, rows = file.schema_arrow, file.metadata.num_rows
    columns = schema.names
    if len(columns) > MAX_COLUMNS or rows > _ROWS_PER_BYTE * len(content):
      raise UserError(
        f'{name}: claims {rows:,} rows of {len(columns)} columns in {len(content):,} bytes: it is '
        'damaged'
      )
    if len(set(columns)) != len(columns):
      raise UserError(f'{name}: a column stands twice in the header {_listed(columns)}')
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == 'BYTE_ARRAY']
    for field in schema:
      is_known = _is_plain(field.type) or (field.name in as_bytes and _is_bytes(field.type))
      # A decimal that is written as bytes could be of any length.
      if not is_known or (_kinds.is_decimal(field.type) and field.name in texts):
        raise UserError(
          f'{name}: column {_listed([field.name])} is of type {str(field.type)[:80]}; texts,'
          ' numbers and lists of them can be read'
        )
    limit = min(MAX_BYTES + _BYTES_PER_ROW * rows + _BYTES_PER_BYTE * len(content), _memory_bytes())
    need, longest, deltas = _decoded_bytes(content, schema)
    _check(need, limit, name)
    if any('.' in column for column in columns):  # Arrow would take it for a part of a column.
      deltas = set()
    found = {}
    for column in deltas:
      # As many rows at a time as are not too long even where each is as long as a page.
      size = max(min((limit - need) // max(_TEXT_COPIES * longest, 1), 2**16), 1)
      batches = []
      for batch in file.iter_batches(size, columns=[column], use_threads=False):
        batches.append(batch.column(0))
        need += _TEXT_COPIES * batch.nbytes
        _check(need, limit, name, column)
      found[column] = pa.chunked_array(batches, schema.field(column).type)
    # Other texts that repeat stay numbers of a list until it is known how long they are.
    others = [column for column in columns if column not in deltas] if deltas else None
    table = pa.parquet.read_table(pa.BufferReader(owned), columns=others, read_dictionary=texts)
    whole = [found[column] if column in deltas else table[column] for column in columns]
    table = pa.table(whole, names=columns)
    table.validate(full=True)
    for column in columns:
      if column not in deltas:
        need += sum(_TEXT_COPIES * _text_bytes(chunk) for chunk in table[column].chunks)
        _check(need, limit, name, column)
    whole = [_written_out(table[field.name], field.type) for field in schema]
    table = pa.table(whole, names=columns)
    return table.to_pandas(ignore_metadata=True), dict(schema.metadata or {})
  except UserError:
    raise
  # MemoryError is Arrow's too: of a length that is damaged.
  except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
    raise UserError(f'{name}: not a Parquet file that can be read: {first_line(error)}') from error


def _copied(content: bytes) -> pa.Buffer:
  """Bytes in Arrow's own memory.

  Arrow's threads let go of what they read a moment after the table is there. If that is an object
  of Python's while Python ends, the process is aborted (apache/arrow issue 34314).
  """
  stream = pa.BufferOutputStream()
  stream.write(content)
  return stream.getvalue()


def _decoded_bytes(content: bytes, schema: pa.Schema) -> tuple[int, int, set[str]]:
  """What the values of a file take, as its pages claim, but for texts that repeat.

  And the most bytes of a page, and the columns of texts that are written as differences: Arrow
  cannot keep them as numbers of a list.
  """
  total = longest = 0
  deltas = set()
  for chunk in pages.chunks(content):
    if chunk.column >= len(schema):
      raise ValueError('a group of its rows has more columns than its header')
    kind = schema.field(chunk.column).type  # A list has one leaf: columns and leaves are the same.
    values = max(chunk.values, chunk.rows)
    # Where a list has a fixed length, even a list that is none takes its place.
    values = max(values, (chunk.rows if _is_fixed(kind) else values) * _fixed_length(kind))
    total += (_ITEM_BYTES if _is_list(kind) else _VALUE_BYTES) * values + chunk.num_bytes
    longest = max(longest, chunk.longest)
    if _is_list(kind):
      total += _LIST_BYTES * (values if _is_list(kind.value_type) else chunk.rows)
    if chunk.is_delta and (_is_text(kind) or _is_bytes(kind)):
      deltas.add(schema.field(chunk.column).name)
  return total, longest, deltas


def _fixed_length(kind: pa.DataType) -> int:
  """How many values a list has that stands for none; 1 where lengths are not fixed."""
  own = kind.list_size if _is_fixed(kind) else 1
  return own * _fixed_length(kind.value_type) if _is_list(kind) else own


def _text_bytes(array: pa.Array) -> int:
  """How long all texts of an array are together, each as often as it stands there."""
  kind = array.type
  if _is_list(kind):
    return _text_bytes(array.flatten())
  if not _kinds.is_dictionary(kind) or not (
    _is_text(kind.value_type) or _is_bytes(kind.value_type)
  ):
    return 0
  lengths = pa.compute.binary_length(array.dictionary).take(array.indices)
  return pa.compute.sum(lengths.cast(pa.int64())).as_py() or 0


def _written_out(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
  """A column of the type that its file names, without a dictionary; dates and decimals as text."""
  if _kinds.is_dictionary(kind):
    kind = kind.value_type
  column = column.cast(kind)
  return column.cast(pa.string()) if _kinds.is_temporal(kind) or _kinds.is_decimal(kind) else column


def _memory_bytes() -> int:
  """The memory of this machine."""
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _check(need: int, limit: int, name: str, column: str = '') -> None:
  """Refuses a table that takes too much."""
  if need > limit:
    where = f'with column {_listed([column])} it' if column else 'it'
    raise UserError(
      f'{name}: {where} takes {need / 2**30:,.1f} GiB of memory, more than the'
      f' {limit / 2**30:,.1f} GiB that this machine may hold of such a table: write it again in'
      ' parts, or without columns that nobody needs'
    )


def _is_plain(kind: pa.DataType, depth: int = 0) -> bool:
  if _kinds.is_dictionary(kind):
    return _is_plain(kind.value_type, _MAX_DEPTH)
  if _is_list(kind):
    return depth < _MAX_DEPTH and _is_plain(kind.value_type, depth + 1)
  is_number = _kinds.is_integer(kind) or _kinds.is_floating(kind) or _kinds.is_boolean(kind)
  is_written = _kinds.is_temporal(kind) or _kinds.is_decimal(kind)
  return is_number or _is_text(kind) or _kinds.is_null(kind) or (is_written and not depth)


def _is_list(kind: pa.DataType) -> bool:
  return _kinds.is_list(kind) or _kinds.is_large_list(kind) or _is_fixed(kind)


def _is_fixed(kind: pa.DataType) -> bool:
  return _kinds.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
  return _kinds.is_string(kind) or _kinds.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
  return _kinds.is_binary(kind) or _kinds.is_large_binary(kind) or _kinds.is_null(kind)


def _listed(names: Collection[str]) -> str:
  """Names of columns as part of an error."""
  return ascii(','.join(names))[1:-1][:200]
