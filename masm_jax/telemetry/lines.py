"""Files of JSON lines that survive a kill, and the damage of a line."""

import contextlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from masm_jax import plain_files
from masm_jax.errors import UserError
from masm_jax.files import parse_object, spare_of, to_json, write_bytes

_NON_FINITE = ('nan', 'inf', '-inf')


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Records of a file of `JsonLines`, non-finite numbers restored at any depth.

  A last line without its line break was being written when the process died, and is left out.

  Raises:
    UserError: if the file is missing, or a complete line is not a JSON object.
  """
  path = pathlib.Path(path)
  try:
    lines = _kept_lines(path)[0]
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  records = []
  for number, line in enumerate(lines, start=1):
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
    spare: whether each line is written twice, the second time into a hidden file with its
      checksum: a line that is damaged later is then read from there.

  Raises:
    UserError: if it cannot be written.
  """

  def __init__(self, path: str | os.PathLike, *, spare: bool = False):
    self.path = pathlib.Path(path)
    self._has_spare = spare
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      if self.path.exists():
        self._rewrite(lambda step: True)
      self._open()
    except OSError as error:
      raise UserError(
        f'cannot write {self.path}: {error.strerror}; give a folder that can be written'
      ) from error

  def append(self, record: Mapping[str, Any]) -> None:
    """Adds one line."""
    line = json.dumps(to_json(record), allow_nan=False).encode()
    for file, text in zip(self._files, (line, _checked(line)), strict=False):
      file.write(text + b'\n')
      file.flush()

  def truncate(self, step: int) -> None:
    """Drops every line of a later step, every line that is not a record, and every repetition of a
    line; atomic."""
    self.close()
    self._rewrite(lambda line_step: line_step <= step)
    self._open()

  def sync(self) -> None:
    """Waits until every line is on the disk: they then survive a crash of the machine too."""
    for file in self._files:
      os.fsync(file.fileno())

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    for file in self._files:
      file.close()

  def _open(self) -> None:
    paths = [self.path, spare_of(self.path)][: 1 + self._has_spare]
    self._files = [path.open('ab') for path in paths]

  def _rewrite(self, wanted: Callable[[int], bool]) -> None:
    data = _content(self.path)
    lines, is_damaged = _kept_lines(self.path)
    kept, damaged = (
      {},
      0,
    )  # By line: two processes at once, of an earlier version, wrote each twice.
    for line in lines:
      record = _parse(line)
      if record is None or type(record.get('step')) is not int:
        damaged += 1
      elif wanted(record['step']):
        kept[line + b'\n'] = _checked(line) + b'\n'
    if damaged:
      logging.warning('%s: dropped %d damaged lines', self.path, damaged)
    if is_damaged:
      write_bytes(self.path.with_name(f'{self.path.name}.damaged'), data)
    if (rewritten := b''.join(kept)) != data:
      write_bytes(self.path, rewritten)
    if self._has_spare:
      write_bytes(spare_of(self.path), b''.join(kept.values()))


def _checked(line: bytes) -> bytes:
  """A line of the spare: checksum and line."""
  return b'%08x ' % zlib.crc32(line) + line


def _kept_lines(path: pathlib.Path) -> tuple[list[bytes], bool]:
  """The whole lines of a file, from its spare where the file was damaged; and whether it was."""
  lines, spare = _whole_lines(_content(path)), []
  with contextlib.suppress(FileNotFoundError):
    spare = _whole_lines(_content(spare_of(path)))
  texts = [line[9:] for line in spare]
  # A kill may have left the spare shorter. One that fails its own checksums helps nobody.
  if lines[: len(texts)] == texts or any(map(bytes.__ne__, map(_checked, texts), spare)):
    return lines, False
  logging.warning('%s is damaged: its lines are read from its spare copy', path)
  return texts, True


def _restored(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _restored(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_restored(item) for item in value]
  return float(value) if value in _NON_FINITE else value


def _content(path: pathlib.Path) -> bytes:
  return plain_files.read_lines_file(path)


def _whole_lines(data: bytes) -> list[bytes]:
  return data.split(b'\n')[:-1]  # Behind the last line break: nothing, or an unfinished line.


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    return parse_object(line)
  except ValueError:  # Covers bad UTF-8 too.
    return None
