"""What the pages of a Parquet file claim to hold, read without Arrow and without decoding them.

Arrow believes the header of each page, and makes room for what it says; its own reader of such
headers ends the process where they are damaged. Here they are read in the encoding that the format
prescribes: Thrift's compact protocol, and the structures of `parquet.thrift` by their numbers.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_MAGIC = b'PAR1'
TAIL_BYTES = 8  # The length of the footer, and the magic.
_MAX_DEPTH = 16
_VARINT_BITS = 70
# Bytes of all headers but for texts, the larger of both: columns may share pages, and all count.
# Pages of a kilobyte need a 24th of their bytes; those of a row each would take Python minutes.
_MAX_STEPS = 2**23
_BYTES_PER_STEP = 16

# Fields by their numbers in `parquet.thrift`.
_ROW_GROUPS, _ROWS, _COLUMNS, _CHUNK = 4, 3, 1, 3
_ENCODINGS, _NUM_VALUES, _COMPRESSED, _DATA_OFFSET, _DICTIONARY_OFFSET = 2, 5, 7, 9, 11
_PAGE_BYTES, _PAGE_COMPRESSED, _PAGE_VALUES = 2, 3, 1
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_DELTA_TEXTS = (6, 7)  # Encodings: DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY.


class Chunk(NamedTuple):
  """A column within a group of rows.

  Attributes:
    column: its number.
    rows: of its group.
    values: leaves that it or its pages claim, and those of its dictionaries.
    num_bytes: what its pages claim to be without compression.
    longest: bytes of its largest page; no value is longer.
    is_delta: whether it says to hold texts by differences of lengths or of texts.
  """

  column: int
  rows: int
  values: int
  num_bytes: int
  longest: int
  is_delta: bool


def chunks(content: bytes | memoryview) -> Iterator[Chunk]:
  """All columns of all groups of rows.

  Raises:
    ValueError: the file is damaged, or encrypted.
  """
  length = refuse_end(content[-TAIL_BYTES:], len(content))
  reader = _Reader(content)
  footer = reader.at(len(content) - TAIL_BYTES - length)
  for group in _listed(footer, _ROW_GROUPS):
    for number, column in enumerate(_listed(group, _COLUMNS)):
      note = _struct(column, _CHUNK)
      kinds = note.get(_ENCODINGS)
      is_delta = isinstance(kinds, list) and any(kind in kinds for kind in _DELTA_TEXTS)
      yield Chunk(number, _number(group, _ROWS), *_claims(reader, note, len(content)), is_delta)


def refuse_end(tail: bytes | memoryview, size: int) -> int:
  """Refuses what is no Parquet file by its last bytes.

  Args:
    tail: the last `TAIL_BYTES` of the file.
    size: of the file, in bytes.

  Returns:
    How long its footer is.

  Raises:
    ValueError: it is none.
  """
  length = int.from_bytes(tail[:4], 'little')
  if tail[4:] != _MAGIC or length > size - TAIL_BYTES - len(_MAGIC):
    raise ValueError('it ends as no such file does')
  return length


def _claims(reader: '_Reader', note: Mapping[int, Any], size: int) -> tuple[int, int, int]:
  """Values and bytes of a column's pages, and the bytes of the largest."""
  claimed = _number(note, _NUM_VALUES)
  start = _number(note, _DATA_OFFSET)
  if _DICTIONARY_OFFSET in note:
    start = min(start, _number(note, _DICTIONARY_OFFSET) or start)
  end = min(start + _number(note, _COMPRESSED), size)
  seen = values = num_bytes = longest = 0
  while seen < claimed and start < end:
    page = reader.at(start)
    start = reader.place + _number(page, _PAGE_COMPRESSED)
    for kind in (_DATA, _DATA_V2, _DICTIONARY):
      if kind in page:
        count = _number(_struct(page, kind), _PAGE_VALUES)
        values += count
        seen += 0 if kind == _DICTIONARY else count
        num_bytes += _number(page, _PAGE_BYTES)
        longest = max(longest, _number(page, _PAGE_BYTES))
  return max(claimed, values), num_bytes, longest


def _number(fields: Mapping[int, Any], name: int) -> int:
  value = fields.get(name)
  if type(value) is not int or value < 0:
    raise ValueError('a count is missing or negative')
  return value


def _struct(fields: Mapping[int, Any], name: int) -> Mapping[int, Any]:
  value = fields.get(name)
  if not isinstance(value, dict):
    raise ValueError('a column is encrypted, or its description is missing')
  return value


def _listed(fields: Mapping[int, Any], name: int) -> list[Mapping[int, Any]]:
  values = fields.get(name)
  if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
    raise ValueError('a list of its parts is missing')
  return values


class _Reader:
  """Values in Thrift's compact protocol.

  Attributes:
    place: behind what was read last.
  """

  def __init__(self, content: bytes | memoryview):
    self._content, self.place, self._steps = content, 0, 0
    self._max_steps = max(_MAX_STEPS, len(content) // _BYTES_PER_STEP)

  def at(self, place: int) -> dict[int, Any]:
    """Fields of the structure at a place, by their numbers; texts and fractions are None."""
    self.place = place
    return self._fields(0)

  def _fields(self, depth: int) -> dict[int, Any]:
    if depth > _MAX_DEPTH:
      raise ValueError('it is nested too deeply')
    fields: dict[int, Any] = {}
    number = 0
    while head := self._byte():
      number = number + (head >> 4) if head >> 4 else self._whole()
      kind = head & 15
      fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
    return fields

  def _value(self, kind: int, depth: int) -> Any:
    if kind in (1, 2, 3):
      return self._byte()
    if kind in (4, 5, 6):
      return self._whole()
    if kind == 7:
      self._pass_by(struct.calcsize('d'))
    elif kind == 8:
      self._pass_by(self._varint())
    elif kind in (9, 10):
      head = self._byte()
      size = head >> 4 if head >> 4 < 15 else self._varint()
      if size > len(self._content) - self.place:  # An item takes a byte at least.
        raise ValueError('a list is longer than the file')
      if depth > _MAX_DEPTH:
        raise ValueError('it is nested too deeply')
      return [self._value(head & 15, depth + 1) for _ in range(size)]
    elif kind == 12:
      return self._fields(depth + 1)
    else:
      raise ValueError('a field of its headers is of no known type')
    return None

  def _whole(self) -> int:
    value = self._varint()
    return (value >> 1) ^ -(value & 1)

  def _varint(self) -> int:
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
      part = self._byte()
      value |= (part & 127) << shift
      if part < 128:
        return value
    raise ValueError('a number of its headers is too long')

  def _byte(self) -> int:
    self.place += 1
    self._steps += 1
    if not 0 < self.place <= len(self._content):
      raise ValueError('it is truncated')
    if self._steps > self._max_steps:
      raise ValueError('its headers are too long')
    return self._content[self.place - 1]

  def _pass_by(self, size: int) -> None:
    if size > len(self._content) - self.place:
      raise ValueError('it is truncated')
    self.place += size
