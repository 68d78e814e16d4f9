"""Reads Parquet files as data: what stands beside the columns in a file changes nothing.

Pandas keeps notes of its own in a file, and believes them; Arrow decodes what a few bytes say a
million times. Here the notes are not read, texts are UTF-8, types are a closed list, and what the
columns take in memory is known before they take it.
"""

from collections.abc import Collection

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from masm_jax.errors import UserError, first_line

# A table names a file or a frame in each row: those names alone take some bits of the file.
_ROWS_PER_BYTE = 4
_MAX_COLUMNS = 1000
MAX_COLUMN_BYTES = 2**32  # Of the texts of a column, once they are written out.
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
    if len(columns) > _MAX_COLUMNS or rows > _ROWS_PER_BYTE * len(content):
      raise UserError(
        f'{name}: claims {rows:,} rows of {len(columns)} columns in {len(content):,} bytes: it is '
        'damaged'
      )
    if len(set(columns)) != len(columns):
      raise UserError(f'{name}: a column stands twice in the header {_listed(columns)}')
    for field in schema:
      if not _is_plain(field.type) and not (field.name in as_bytes and _is_bytes(field.type)):
        raise UserError(
          f'{name}: column {_listed([field.name])} is of type {str(field.type)[:80]}; texts,'
          ' numbers and lists of them can be read'
        )
    # Texts that repeat stay numbers of a list until it is known how long they are.
    texts = [field.name for field in schema if _kinds.is_string(field.type)]
    table = pa.parquet.read_table(pa.BufferReader(owned), read_dictionary=texts)
    table.validate(full=True)
    whole = {column: _written_out(table[column], column, name) for column in columns}
    table = pa.table(list(whole.values()), names=columns)
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


def _written_out(column: pa.ChunkedArray, label: str, name: str) -> pa.ChunkedArray:
  """A column without a dictionary; dates and decimals as text."""
  kind = column.type
  if _kinds.is_dictionary(kind):
    size = 0
    for chunk in column.chunks:
      lengths = pa.compute.binary_length(chunk.dictionary) if _is_text(kind.value_type) else None
      size += 0 if lengths is None else pa.compute.sum(lengths.take(chunk.indices)).as_py() or 0
    if size > MAX_COLUMN_BYTES:
      raise UserError(f'{name}: column {_listed([label])} holds {size:,} bytes: it is damaged')
    return column.cast(kind.value_type)
  if _kinds.is_temporal(kind) or _kinds.is_decimal(kind):
    return column.cast(pa.string())
  return column


def _is_plain(kind: pa.DataType, depth: int = 0) -> bool:
  if _kinds.is_dictionary(kind):
    return _is_plain(kind.value_type, _MAX_DEPTH)
  if _kinds.is_list(kind) or _kinds.is_large_list(kind) or _kinds.is_fixed_size_list(kind):
    return depth < _MAX_DEPTH and _is_plain(kind.value_type, depth + 1)
  is_number = _kinds.is_integer(kind) or _kinds.is_floating(kind) or _kinds.is_boolean(kind)
  is_written = _kinds.is_temporal(kind) or _kinds.is_decimal(kind)
  return is_number or _is_text(kind) or _kinds.is_null(kind) or (is_written and not depth)


def _is_text(kind: pa.DataType) -> bool:
  return _kinds.is_string(kind) or _kinds.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
  return _kinds.is_binary(kind) or _kinds.is_large_binary(kind) or _kinds.is_null(kind)


def _listed(names: Collection[str]) -> str:
  """Names of columns as part of an error."""
  return ascii(','.join(names))[1:-1][:200]
