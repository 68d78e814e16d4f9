"""Files written whole, and documents of strict JSON.

What cannot be made again is sealed: it holds a digest of its content, which reading verifies, and
has a spare copy beside it where nothing else could replace it.

JSON has no nan and no infinity. Both are written as the strings 'nan', 'inf' and '-inf', in every
file of a run: `null` could not tell a diverged loss from a metric that is undefined, and `float()`
takes the strings in Python as `Number()` does (as NaN) in a browser. `telemetry.read_lines`
turns them back.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from masm_jax import plain_files, processes
from masm_jax.errors import UserError

_UNFINISHED = '.partial'  # How files end that are being written.
_OLD_S = 3600.0  # So long without a write: its process, on another machine, is gone.
_MAX_DEPTH = 100  # Of objects and lists in a document; what follows it may call itself.
_DIGEST = 'digest'  # The key of a sealed document that holds the digest of all others.


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Writes a file whole: at every moment `path` is the old file or the new one.

  Gives the path of an empty file beside it, under a name that nobody can guess and that tells which
  process writes it. When the block ends well, that file is on the disk and takes the name `path`;
  otherwise it is removed. What a kill leaves behind, `remove_unfinished` takes away.

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
  owner = f'{processes.mark()}.{secrets.token_hex(8)}'
  fresh = path.with_name(f'.{cut_name(path.name, 80)}.{owner}{_UNFINISHED}')
  os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
  try:
    yield fresh
    sync(fresh)
    os.replace(fresh, path)
    sync(path.parent)  # The new name is on the disk too.
  finally:
    fresh.unlink(missing_ok=True)


def cut_name(name: str, max_bytes: int) -> str:
  """A file's name; one that is longer is cut, with a hash of all of it at its end."""
  encoded = name.encode(errors='surrogatepass')
  if len(encoded) <= max_bytes:
    return name
  kept = encoded[: max_bytes - 17].decode(errors='ignore')
  return f'{kept}~{hashlib.sha256(encoded).hexdigest()[:16]}'


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file whole, see `replacing`, which tells its errors too."""
  with replacing(path) as fresh:
    fresh.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file whole, in UTF-8, see `replacing`, which tells its errors too."""
  write_bytes(path, text.encode())


def write_arrays(
  path: str | os.PathLike, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
  """Writes a safetensors file whole, see `replacing`, without a copy of it in memory.

  Args:
    path: the file.
    arrays: NumPy arrays of any shape by name.
    metadata: what its header says beside them.

  Raises:
    OSError: it cannot be written; the library has an error of its own for a full disk.
  """
  import numpy as np
  import safetensors.numpy  # Not above: a command's --help should not wait for it.

  contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with replacing(path) as fresh:
    mode = fresh.stat().st_mode  # The library makes a file of its own, for its owner alone.
    try:
      safetensors.numpy.save_file(contiguous, fresh, dict(metadata) if metadata else None)
    except safetensors.SafetensorError as error:
      if not (found := re.search(r'\(os error (\d+)\)', str(error))):
        raise
      raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    fresh.chmod(mode)


def remove_unfinished(
  folder: str | os.PathLike, *, deep: bool = False, alone: bool = False
) -> None:
  """Removes what killed processes left of `replacing` in a folder.

  What a process of this machine is writing stays. Whether one of another machine is, nobody here
  can know: its file goes when nothing was written to it for an hour.

  Args:
    folder: the folder.
    deep: whether in all folders below it too.
    alone: whether no other machine writes there: then what is of others goes at once.
  """
  find = pathlib.Path(folder).rglob if deep else pathlib.Path(folder).glob
  for path in find(f'.*.{"[0-9a-f]" * 16}{_UNFINISHED}'):
    is_gone = processes.is_gone(path.name.split('.')[-3])
    with contextlib.suppress(OSError):
      if is_gone is None:
        is_gone = alone or time.time() - path.lstat().st_mtime > _OLD_S
      if is_gone:
        path.unlink()


def sync(path: str | os.PathLike) -> None:
  """Waits until a file, or the names in a folder, are on the disk."""
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


def parse_json(text: str | bytes) -> Any:
  """The value of a JSON document; of every reader, so that none of them meets another error.

  Raises:
    ValueError: it is no JSON, no UTF-8, is nested more deeply than any file of a program, or has a
      key twice in one object: Python would take the last, and other readers the first.
  """
  deep = 'it is nested too deeply: it is damaged'
  try:
    value = json.loads(text, object_pairs_hook=_unique)
  except RecursionError as error:
    raise ValueError(deep) from error
  level = [value] if isinstance(value, dict | list) else []
  for _ in range(_MAX_DEPTH):
    parts = [part.values() if isinstance(part, dict) else part for part in level]
    level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]
    if not level:
      return value
  raise ValueError(deep)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) != len(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    raise ValueError(f'it has the key {max(counts, key=counts.__getitem__)[:80]!a} twice')
  return made


def parse_object(text: str | bytes) -> dict[str, Any]:
  """As `parse_json`, of a document that is an object; a ValueError for every other."""
  if not isinstance(value := parse_json(text), dict):
    raise ValueError('it is no JSON object')
  return value


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
  """A document as JSON types, with the digest of all of it under `digest`.

  >>> unseal(seal({'step': 3})) == {'step': 3}
  True

  Raises:
    TypeError: see `to_json`.
  """
  content = to_json({key: value for key, value in document.items() if key != _DIGEST})
  return content | {_DIGEST: _digest(content)}


def unseal(document: Any) -> Any:
  """What was sealed; anything without a digest, as earlier versions wrote it, is given as it is.

  Raises:
    ValueError: the content is not what was sealed.
  """
  if not isinstance(document, dict):
    return document
  if _DIGEST not in document:
    for name, value in document.items():
      rest = {key: item for key, item in document.items() if key != name}
      if isinstance(value, str) and len(value) == 64 and value == _digest(rest):
        raise ValueError(f'its digest is called {name[:20]!a}: it is damaged')
    return document
  content = {key: value for key, value in document.items() if key != _DIGEST}
  if document[_DIGEST] != _digest(content):
    raise ValueError('its content does not match its digest: it is damaged')
  return content


def _digest(content: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sealed(
  path: str | os.PathLike, document: Mapping[str, Any], *, spare: bool = False
) -> None:
  """Writes a document as `write_json` does, sealed.

  Args:
    path: the file.
    document: JSON types.
    spare: whether a hidden copy is written beside it, for what nothing could make again.

  Raises:
    TypeError: see `to_json`.
  """
  write_json(path, seal(document))
  if spare:
    write_bytes(spare_of(path), plain_files.read_bytes(path))


def mend(path: str | os.PathLike) -> None:
  """Replaces a damaged document, or its spare, by the other one.

  The damaged one is kept as `NAME.damaged`. Where there is no spare, one is made.
  """
  path, spare = pathlib.Path(path), spare_of(path)
  good = spare if _read(path)[1] else path
  if _read(good)[1]:
    return
  for other in (path, spare):
    if other != good and _read(other)[1]:
      set_aside(other)
      write_bytes(other, plain_files.read_bytes(good))


def set_aside(path: str | os.PathLike) -> None:
  """Renames a damaged file to `NAME.damaged`, if it is there, and says so in one line."""
  path = pathlib.Path(path)
  target = path.with_name(f'{path.name}.damaged')
  with contextlib.suppress(FileNotFoundError):
    os.replace(path, target)
    logging.warning('%s is damaged: it is %s now', path, target.name)


def spare_of(path: str | os.PathLike) -> pathlib.Path:
  """Where the spare copy of a file lies: hidden, beside it."""
  path = pathlib.Path(path)
  return path.with_name(f'.{path.name}.spare')


def _read(path: pathlib.Path) -> tuple[dict[str, Any], str]:
  """A document, and why it cannot be used; '' if it can."""
  try:
    return unseal(parse_object(plain_files.read_text(path))), ''
  except OSError as error:
    return {}, f'cannot read {path}: {error.strerror}'
  except ValueError as error:
    is_json = str(error).startswith('it')
    return {}, f'{path}: {error}' if is_json else f'{path} is not JSON: {error}'


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads an object of `write_json` or `write_sealed`; if it is damaged, its spare.

  Non-finite numbers stay strings, `float()` reads them.

  Raises:
    UserError: if the file is missing or damaged or is no JSON object.
  """
  document, problem = _read(pathlib.Path(path))
  if problem:
    document, no_spare = _read(spare_of(path))
    if no_spare:
      raise UserError(problem)
    logging.warning('%s; its spare copy is read', problem)
  return document


def read_or_set_aside(path: str | os.PathLike) -> dict[str, Any] | None:
  """As `read_json`, for what can be made again: None if it is missing, or damaged and set aside."""
  try:
    return read_json(path)
  except UserError:
    set_aside(path)
    return None
