"""Strategies that spoil what is sound: bytes, JSON documents, tables of text.

A case is spoilt in few places, so that it passes the first checks and reaches what lies behind.
"""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

Json = Any
Path = tuple[str | int, ...]

_DEEP = 3000  # More than Python nests, and more than any JSON reader has to.

# Texts in the place of any value: too long, not of one line, no UTF-8, paths that leave, URLs,
# patterns, numbers that are none.
TEXTS = (
  '', ' ', '\0', 'a\0b', 'a\nb', '\ud800', 'ä名\u202e', 'x' * 300, 'y/' * 3000, '../../x', '/',
  '/x', '..', '.', '~', '/dev/zero', '/proc/self/mem', 'ftp://127.0.0.1:9/x', 'zip://a::file:///x',
  'reference://x', 'github://a:b@c/x', 'simplecache::file:///x', 'file:///x', 'a://b', '://', '::',
  'nan', 'inf', '-inf', '1e400', '9' * 400, '-1', '0', '1', 'True', 'null', '=1+1', '<script>',
  '(', '(a*)*b', '[', '%s', '{0}', '\\', '"', ',', ';', '\u2028', '\x1b[31m',
)  # fmt: skip

# JSON values as they are written: some have no Python value that `json.dumps` would write so.
LITERALS = (
  'null', 'true', 'false', '0', '-1', '1', '2', '-0.0', '0.5', '1e308', '-1e308', '1e400', 'NaN',
  'Infinity', '1' * 400, '9007199254740993', '18446744073709551616', '1e23', '[]', '{}', '[[]]',
  '[null]', '[1,2,3]', '{"a":1}', '{"":{}}', '"\\ud800"', '[' * _DEEP + ']' * _DEEP,
  '{"a":' * _DEEP + '1' + '}' * _DEEP, '[' * 900 + ']' * 900, '[' + '0,' * 9999 + '0]',
  *(json.dumps(text) for text in TEXTS),
)  # fmt: skip

_TOKEN = '\ue000literal'


@st.composite
def spoilt_bytes(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 6) -> bytes:
  """One of the seeds with a few places changed."""
  content = bytearray(draw(st.sampled_from(seeds)))
  for _ in range(draw(st.integers(1, most))):
    kind = draw(st.sampled_from(('flip', 'byte', 'cut', 'drop', 'copy', 'insert', 'number')))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if draw(st.booleans()):  # Headers stand at the start, and say most.
      place = place % 64
    size = draw(st.sampled_from((1, 2, 4, 8, 64, 1000)))
    if kind == 'flip' and content:
      content[place % len(content)] ^= 1 << draw(st.integers(0, 7))
    elif kind == 'byte' and content:
      content[place % len(content)] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22)))
    elif kind == 'cut':
      del content[place:]
    elif kind == 'drop':
      del content[place : place + size]
    elif kind == 'copy':
      content[place:place] = content[place : place + size]
    elif kind == 'insert':
      content[place:place] = draw(st.binary(max_size=8))
    elif kind == 'number':
      width = draw(st.sampled_from((1, 2, 4, 8)))
      value = draw(st.sampled_from((0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**63 - 1)))
      order = draw(st.sampled_from(('little', 'big')))
      content[place : place + width] = (value % 256**width).to_bytes(width, order)
  return bytes(content)


@st.composite
def spoilt_json(draw: st.DrawFn, document: Json, most: int = 3) -> bytes:
  """A JSON document with a few values replaced, removed, doubled, renamed or moved."""
  document = json.loads(json.dumps(document))
  written: list[str] = []
  for _ in range(draw(st.integers(1, most))):
    places = _places(document)
    place = places[draw(st.integers(0, len(places) - 1))]
    kind = draw(st.sampled_from(('replace',) * 3 + ('remove', 'rename', 'move', 'double')))
    if kind == 'replace' or not place:
      written.append(draw(st.sampled_from(LITERALS)))
      document = _replaced(document, place, f'{_TOKEN}{len(written) - 1}')
    elif kind == 'double' and isinstance(place[-1], str):
      value, twice = json.dumps(_at(document, place)), json.dumps(place[-1])
      written.append(f'{value}, {twice}: {draw(st.sampled_from(LITERALS))}')
      document = _replaced(document, place, f'{_TOKEN}{len(written) - 1}')
    elif kind == 'move':
      other = places[draw(st.integers(0, len(places) - 1))]
      document = _replaced(document, place, json.loads(json.dumps(_at(document, other))))
    else:
      parent = _at(document, place[:-1])
      if kind == 'rename' and isinstance(parent, dict):
        parent[draw(st.sampled_from(TEXTS))] = parent.pop(place[-1])
      else:
        del parent[place[-1]]
  text = json.dumps(document)
  for number in reversed(range(len(written))):
    text = text.replace(json.dumps(f'{_TOKEN}{number}'), written[number])
  content = text.encode()
  return draw(spoilt_bytes([content], 2)) if draw(st.integers(0, 9)) == 0 else content


@st.composite
def spoilt_csv(draw: st.DrawFn, header: Sequence[str], row: Sequence[str]) -> bytes:
  """A CSV table with some odd fields, rows of other lengths, and sometimes odd bytes."""
  columns = list(header)
  if draw(st.integers(0, 3)) == 0:
    columns[draw(st.integers(0, len(columns) - 1))] = draw(st.sampled_from((*TEXTS, columns[0])))
  rows = [columns]
  for _ in range(draw(st.integers(0, 4))):
    fields = [part.replace('#', str(len(rows))) for part in row]
    for _ in range(draw(st.integers(0, 2))):
      fields[draw(st.integers(0, len(fields) - 1))] = draw(st.sampled_from(TEXTS))
    rows.append(fields[: draw(st.sampled_from((len(fields),) * 5 + (1, 0)))])
  lines = [','.join(map(_quoted, fields)) for fields in rows]
  content = '\n'.join(lines).encode('utf-8', 'surrogatepass')
  return draw(spoilt_bytes([content], 2)) if draw(st.integers(0, 4)) == 0 else content


@st.composite
def spoilt_lines(draw: st.DrawFn, lines: Sequence[str]) -> bytes:
  """A text file of which some lines are odd."""
  some = list(lines)
  for _ in range(draw(st.integers(0, 3))):
    some.insert(draw(st.integers(0, len(some))), draw(st.sampled_from((*TEXTS, *lines))))
  content = '\n'.join(some).encode('utf-8', 'surrogatepass')
  return draw(spoilt_bytes([content], 2)) if draw(st.booleans()) else content


def _quoted(field: str) -> str:
  return '"' + field.replace('"', '""') + '"' if set(field) & set('",\n') else field


def _places(value: Json, below: Path = ()) -> list[Path]:
  """Every place in a document, itself and shallow ones first; of a long list the first few."""
  found, pending = [], [(below, value)]
  while pending:
    place, inner = pending.pop(0)
    found.append(place)
    items = inner.items() if isinstance(inner, dict) else ()
    items = enumerate(inner[:4]) if isinstance(inner, list) else items
    pending += [((*place, key), part) for key, part in items]
  return found


def _at(document: Json, place: Path) -> Json:
  for key in place:
    document = document[key]
  return document


def _replaced(document: Json, place: Path, value: Json) -> Json:
  if not place:
    return value
  _at(document, place[:-1])[place[-1]] = value
  return document
