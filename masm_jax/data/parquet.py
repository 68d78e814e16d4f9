"""Reads Parquet files as data: what stands beside the columns in a file changes nothing.

Pandas keeps notes of its own in a file, and believes them; Arrow decodes what a few bytes say a
million times. Here the notes are not read, texts are UTF-8, types are a closed list, and what the
columns take in memory is known before they take it.
"""

import io
from collections.abc import Collection, Sequence
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from masm_jax import plain_files
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
_WRITTEN_BYTES = 360  # One that is a text later on: 75 digits, at most.
_ITEM_BYTES = 12  # A number in a list.
_DIGIT_COPIES = 5
_LIST_BYTES = 256  # A list becomes an array of its own.
_TEXT_COPIES = 4
_MAX_DEPTH = 2  # Of lists in lists: landmarks are a list of points.
_MAX_FIXED_BYTES = 32  # Of a decimal of 76 digits; other such types are shorter.

_kinds = pa.types


def read(
  file: BinaryIO, name: str, *, as_bytes: Collection[str] = ()
) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
  """The table of a file, and the notes in its schema.

  Args:
    file: open at any place.
    name: what errors call it.
    as_bytes: columns that may hold bytes.

  Returns:
    Columns of texts, whole numbers, fractions, truth values, or lists of these; dates and exact
    decimals are texts. Whole numbers of which some are missing are fractions, unless that would
    lose digits.

  Raises:
    UserError: it is no Parquet file, is damaged, or holds what no such table holds.
    OSError: it cannot be read.
  """
  owned = _content(file, name)
  content = memoryview(owned).cast('B')
  try:
    parts = pa.parquet.ParquetFile(pa.BufferReader(owned))
    schema, rows = parts.schema_arrow, parts.metadata.num_rows
    columns = schema.names
    if len(columns) > MAX_COLUMNS or rows > _ROWS_PER_BYTE * len(content):
      raise UserError(
        f'{name}: claims {rows:,} rows of {len(columns)} columns in {len(content):,} bytes: it is '
        'damaged'
      )
    if len(set(columns)) != len(columns):
      raise UserError(f'{name}: a column stands twice in the header {_listed(columns)}')
    leaves = [parts.schema.column(i) for i in range(len(parts.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == 'BYTE_ARRAY']
    for leaf in leaves:  # Any length can be claimed, and each row would get so many bytes.
      if leaf.physical_type == 'FIXED_LEN_BYTE_ARRAY' and leaf.length > _MAX_FIXED_BYTES:
        raise UserError(
          f'{name}: each value of column {_listed([leaf.path])} has {leaf.length:,} bytes, and no'
          f' number has more than {_MAX_FIXED_BYTES}; texts, numbers and lists of them can be read'
        )
    for field in schema:
      is_known = _is_plain(field.type) or (field.name in as_bytes and _is_bytes(field.type))
      # A decimal that is written as bytes could be of any length.
      if not is_known or (_kinds.is_decimal(field.type) and field.name in texts):
        raise UserError(
          f'{name}: column {_listed([field.name])} is of type {str(field.type)[:80]}; texts,'
          ' numbers and lists of them can be read'
        )
    limit = MAX_BYTES + _BYTES_PER_ROW * rows + _BYTES_PER_BYTE * len(content)
    limit = min(limit, plain_files.memory_bytes())
    need, longest, deltas = _decoded_bytes(content, schema)
    _check(need, limit, name)
    deltas = _with_namesakes(deltas, schema, [leaf.path for leaf in leaves])
    found = {}
    for column in deltas:
      # As many rows at a time as are not too long even where each is as long as a page.
      size = max(min((limit - need) // max(_TEXT_COPIES * longest, 1), 2**16), 1)
      batches = []
      for batch in parts.iter_batches(size, columns=[column], use_threads=False):
        batches.append(batch.column(column))
        need += _TEXT_COPIES * batch.nbytes
        _check(need, limit, name, column)
      found[column] = pa.chunked_array(batches, schema.field(column).type)
    # Other texts that repeat stay numbers of a list until it is known how long they are.
    others = [column for column in columns if column not in deltas] if deltas else None
    parts = pa.parquet.ParquetFile(pa.BufferReader(owned), read_dictionary=texts)
    table = parts.read(columns=others)
    whole = [found[column] if column in deltas else table[column] for column in columns]
    table = pa.table(whole, names=columns)
    table.validate(full=True)
    for column in columns:
      if column not in deltas:
        need += sum(_TEXT_COPIES * _text_bytes(chunk) for chunk in table[column].chunks)
        _check(need, limit, name, column)
    whole = [_written_out(table[field.name], field.type) for field in schema]
    table = pa.table(whole, names=columns)
    exact = [column for column in columns if _loses_digits(table[column])]
    _check(need + _WRITTEN_BYTES * rows * len(exact), limit, name)
    frame = table.to_pandas(ignore_metadata=True)
    for column in exact:
      frame[column] = table[column].to_pandas(integer_object_nulls=True)
    return frame, dict(schema.metadata or {})
  except UserError:
    raise
  # MemoryError is Arrow's too: of a length that is damaged.
  except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
    raise UserError(f'{name}: not a Parquet file that can be read: {first_line(error)}') from error


def _content(file: BinaryIO, name: str) -> pa.Buffer:
  """A file in Arrow's own memory, unless its ends say that it is none of these.

  Arrow's threads let go of what they read a moment after the table is there. If that is an object
  of Python's while Python ends, the process is aborted (apache/arrow issue 34314).

  Raises:
    UserError: it is none, or is larger than the memory.
    OSError: it cannot be read.
  """
  size = file.seek(0, io.SEEK_END)
  file.seek(max(size - pages.TAIL_BYTES, 0))
  try:
    pages.refuse_end(file.read(), size)
  except ValueError as error:
    raise UserError(f'{name}: not a Parquet file that can be read: {error}') from error
  _check(size, plain_files.memory_bytes(), name)
  file.seek(0)
  buffer = pa.allocate_buffer(size)
  view, place = memoryview(buffer), 0
  while count := file.readinto(view[place:]):
    place += count
  if place < size:
    raise UserError(f'{name}: it has become shorter while it was read: run the same command again')
  return buffer


def _decoded_bytes(content: memoryview, schema: pa.Schema) -> tuple[int, int, set[str]]:
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
    total += _value_bytes(kind) * values + chunk.num_bytes
    longest = max(longest, chunk.longest)
    if _is_list(kind):
      total += _LIST_BYTES * (values if _is_list(kind.value_type) else chunk.rows)
    if chunk.is_delta and (_is_text(kind) or _is_bytes(kind)):
      deltas.add(schema.field(chunk.column).name)
  return total, longest, deltas


def _with_namesakes(deltas: set[str], schema: pa.Schema, paths: Sequence[str]) -> set[str]:
  """The columns to read in parts: asked for one called `a`, Arrow reads `a.b` too.

  Args:
    deltas: the columns that have to be.
    schema: of the table.
    paths: of each of its columns in the file.

  Returns:
    These, and those of whose names theirs are parts; none if a list would be among what is read.
  """
  fields = zip(schema, paths, strict=True)
  lists = {field.name: path for field, path in fields if _is_list(field.type)}
  names = set(schema.names) - set(lists)
  found = deltas | {name for name in names if any(d.startswith(f'{name}.') for d in deltas)}
  # A list repeats texts within one row: Arrow then says that it cannot read the column.
  is_safe = not any(f'{path}.'.startswith(f'{d}.') for path in lists.values() for d in found)
  return found if is_safe else set()


def _value_bytes(kind: pa.DataType) -> int:
  """What a value takes beside what its pages hold of it."""
  if _is_list(kind):
    while _is_list(kind):
      kind = kind.value_type
    is_short = _kinds.is_integer(kind) and kind.bit_width < 64
    return _ITEM_BYTES + _DIGIT_COPIES * (len(f'{-(2**kind.bit_width)}, ') if is_short else 24)
  is_written = _kinds.is_temporal(kind) or _kinds.is_decimal(kind) or _kinds.is_uint64(kind)
  return _VALUE_BYTES + _WRITTEN_BYTES * is_written


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
  letters = array.dictionary
  lengths = pa.compute.binary_length(letters).cast(pa.int64())
  if _is_text(letters.type):  # With one letter that is none of ASCII, each may take four bytes.
    is_ascii = pa.compute.string_is_ascii(letters)
    lengths = pa.compute.if_else(is_ascii, lengths, pa.compute.multiply(lengths, 2))
  return pa.compute.sum(lengths.take(array.indices)).as_py() or 0


def _loses_digits(column: pa.ChunkedArray) -> bool:
  """Whether pandas would make fractions of whole numbers that fractions cannot hold."""
  while _is_list(column.type):
    column = pa.compute.list_flatten(column)
  if not (_kinds.is_integer(column.type) and column.null_count):
    return False
  ends = pa.compute.min_max(column).as_py()
  return any(abs(end or 0) > 2**53 for end in ends.values())


def _written_out(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
  """A column of the type that its file names, without a dictionary; dates and decimals as text."""
  kind = _plain_kind(kind)
  column = column.cast(kind)
  return column.cast(pa.string()) if _kinds.is_temporal(kind) or _kinds.is_decimal(kind) else column


def _plain_kind(kind: pa.DataType) -> pa.DataType:
  """The type of the same values without dictionaries, and without texts that share their bytes."""
  if _kinds.is_dictionary(kind):
    return _plain_kind(kind.value_type)
  if _is_fixed(kind):
    return pa.list_(_plain_kind(kind.value_type), kind.list_size)
  if _is_list(kind):
    return pa.large_list(_plain_kind(kind.value_type))
  views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
  return views.get(kind, kind)


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
  return _kinds.is_string(kind) or _kinds.is_large_string(kind) or _kinds.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
  is_view = _kinds.is_binary_view(kind)
  return is_view or _kinds.is_binary(kind) or _kinds.is_large_binary(kind) or _kinds.is_null(kind)


def _listed(names: Collection[str]) -> str:
  """Names of columns as part of an error."""
  return ascii(','.join(names))[1:-1][:200]
