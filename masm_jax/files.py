"""Files written whole, and strict JSON: documents, and files of lines that survive a kill.

JSON has no nan and no infinity. Both are written as the strings 'nan', 'inf' and '-inf', in every
file of a run: `null` could not tell a diverged loss from a metric that is undefined, and `float()`
takes the strings in Python as `Number()` does (as NaN) in a browser. `read_lines` turns them back.
"""

import contextlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from masm_jax.errors import UserError

_UNFINISHED = '.partial'  # How files end that are being written.
_NON_FINITE = ('nan', 'inf', '-inf')


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Writes a file whole: at every moment `path` is the old file or the new one.

  Gives the path of an empty file beside it, under a name that nobody can guess. When the block ends
  well, that file is on the disk and takes the name `path`; otherwise it is removed. What a kill
  leaves behind, `remove_unfinished` takes away.

  >>> import tempfile
  >>> folder = pathlib.Path(tempfile.mkdtemp())
  >>> with replacing(folder / 'new' / 'a.txt') as fresh:
  ...   _ = fresh.write_text('whole')
  >>> (folder / 'new' / 'a.txt').read_text(), len(list((folder / 'new').iterdir()))
  ('whole', 1)

  Args:
    path: the file; its folder is made.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  fresh = path.with_name(f'.{path.name[:80]}.{secrets.token_hex(8)}{_UNFINISHED}')
  os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
  try:
    yield fresh
    _sync(fresh)
    os.replace(fresh, path)
    _sync(path.parent)  # The new name is on the disk too.
  finally:
    fresh.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file whole, see `replacing`.

  Raises:
    OSError: it cannot be written.
  """
  with replacing(path) as fresh:
    fresh.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file whole, in UTF-8, see `replacing`.

  Raises:
    OSError: it cannot be written.
  """
  write_bytes(path, text.encode())


def remove_unfinished(folder: str | os.PathLike) -> None:
  """Removes what killed processes left of `replacing` in a folder that no process writes to now."""
  for path in pathlib.Path(folder).glob(f'.*{_UNFINISHED}'):
    with contextlib.suppress(OSError):
      path.unlink()


def _sync(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def to_json(value: Any) -> Any:
  """Plain JSON types from nested mappings, sequences, paths, and NumPy or JAX arrays and scalars.

  Raises:
    TypeError: on anything else, and on a key that is not a string.
  """
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, Mapping):
    if strange := [key for key in value if not isinstance(key, str)]:
      raise TypeError(f'JSON keys are strings, not {strange[0]!r}')
    return {key: to_json(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_json(item) for item in value]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, 'tolist'):
    return to_json(value.tolist())
  raise TypeError(f'{value!r} has no place in JSON')


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes one indented JSON document; the file is the old one or the new one at every moment.

  Keys keep their order, so equal values give equal bytes.

  Raises:
    TypeError: see `to_json`.
  """
  text = json.dumps(to_json(value), indent=2, allow_nan=False)
  write_bytes(path, (text + '\n').encode())


def read_json(path: str | os.PathLike) -> Any:
  """Reads a document of `write_json`; non-finite numbers stay strings, `float()` reads them.

  Raises:
    UserError: if the file is missing or is not JSON.
  """
  path = pathlib.Path(path)
  try:
    return json.loads(path.read_text('utf-8'))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  except ValueError as error:
    raise UserError(f'{path} is not JSON: {error}') from error


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Records of a file of `JsonLines`, non-finite numbers restored at any depth.

  A last line without its line break was being written when the process died, and is left out.

  Raises:
    UserError: if the file is missing, or a complete line is not a JSON object.
  """
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  records = []
  for number, line in enumerate(_whole_lines(data), start=1):
    record = _parse(line)
    if record is None:
      raise UserError(f'{path}, line {number} is not a JSON object: the file is damaged')
    records.append(_restored(record))
  return records


class JsonLines:
  """An append-only file of one JSON object per line, each with an integer `step`.

  Every line is handed to the operating system at once, so a killed process loses at most the line
  that it was writing. What is left of that line is cut off when the file is opened again.

  Args:
    path: the file; it and its folder are made if need be.

  Raises:
    UserError: if it cannot be written.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      if self.path.exists():
        self._rewrite(lambda step: True)
      self._file = self.path.open('ab')
    except OSError as error:
      raise UserError(
        f'cannot write {self.path}: {error.strerror}; give a folder that can be written'
      ) from error

  def append(self, record: Mapping[str, Any]) -> None:
    """Adds one line."""
    text = json.dumps(to_json(record), allow_nan=False)
    self._file.write(text.encode() + b'\n')
    self._file.flush()

  def truncate(self, step: int) -> None:
    """Drops every line of a later step, and every line that is not a record; atomic."""
    self._file.close()
    self._rewrite(lambda line_step: line_step <= step)
    self._file = self.path.open('ab')

  def sync(self) -> None:
    """Waits until every line is on the disk: they then survive a crash of the machine too."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    self._file.close()

  def _rewrite(self, wanted: Callable[[int], bool]) -> None:
    data = self.path.read_bytes()
    kept, damaged = [], 0
    for line in _whole_lines(data):
      record = _parse(line)
      if record is None or type(record.get('step')) is not int:
        damaged += 1
      elif wanted(record['step']):
        kept.append(line + b'\n')
    if damaged:
      logging.warning('%s: dropped %d damaged lines', self.path, damaged)
    if (rewritten := b''.join(kept)) != data:
      write_bytes(self.path, rewritten)


def _restored(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _restored(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_restored(item) for item in value]
  return float(value) if value in _NON_FINITE else value


def _whole_lines(data: bytes) -> list[bytes]:
  return data.split(b'\n')[:-1]  # Behind the last line break: nothing, or an unfinished line.


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    record = json.loads(line)
  except ValueError:  # Covers bad UTF-8 too.
    return None
  return record if isinstance(record, dict) else None
