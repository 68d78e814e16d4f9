"""Files by path, on this machine or in an object store: `gs://`, `s3://` and a few more.

A path with `://` in it goes through fsspec, which needs the file system's own package (`gcsfs` for
`gs://`, `s3fs` for `s3://`); every other path is a local one. Of what fsspec knows, only stores of
files are used: others (`zip://`, `reference://`, `github://`, chains with `::`) interpret a file,
or run what it says.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec

from masm_jax import files, places, plain_files
from masm_jax.errors import UserError, first_line

Path = str | os.PathLike

SCHEMES = (
  'gs',
  'gcs',
  's3',
  's3a',
  'az',
  'abfs',
  'abfss',
  'hdfs',
  'http',
  'https',
  'file',
  'memory',
)


def is_remote(path: Path) -> bool:
  """Whether a path is a URL."""
  return '://' in os.fspath(path)


def as_root(path: Path) -> pathlib.Path | str:
  """A folder to join paths to: a URL without its last slash, or a local path."""
  return os.fspath(path).rstrip('/') if is_remote(path) else pathlib.Path(path)


def join(root: Path, relative: str) -> str:
  """`root/relative`; a URL keeps its forward slashes."""
  return (posixpath if is_remote(root) else os.path).join(os.fspath(root), relative)


def parent(path: Path) -> pathlib.Path | str:
  """The folder that a file lies in."""
  return as_root(os.fspath(path).rpartition('/')[0] if is_remote(path) else os.path.dirname(path))


def absolute(path: Path) -> str:
  """The whole path, without `.` and `..` in it; up from a link is up from where it leads to."""
  if not is_remote(path):
    parts = os.fspath(path).split(os.sep)
    if os.pardir in parts:
      end = len(parts) - parts[::-1].index(os.pardir)
      path = os.path.join(_real(os.sep.join(parts[:end])), *parts[end:])
    return os.path.abspath(path)
  scheme, _, rest = os.fspath(path).partition('://')
  return f'{scheme}://{posixpath.normpath(rest)}'


def _real(path: Path) -> str:
  """The path without links; as it stands where no file can have its name, as with a NUL."""
  try:
    return os.path.realpath(path)
  except ValueError:
    return os.path.abspath(path)


def relative(path: Path, root: Path) -> str:
  """The path as seen from a folder, with forward slashes; it begins with `..` if it leaves it."""
  if is_remote(path) != is_remote(root):
    return '..'
  found = os.path.relpath(absolute(path), absolute(root))
  is_above = found.partition(os.sep)[0] == os.pardir and not is_remote(path)
  # Read from there, as the system does, it may be another one, where there are links.
  if is_above and _real(os.path.join(root, found)) != _real(path):
    found = os.path.relpath(_real(path), _real(root))
  return pathlib.PurePath(found).as_posix()


def suffix(path: Path) -> str:
  """The ending of a file's name, with its dot."""
  return posixpath.splitext(os.fspath(path))[1]


def read_bytes(path: Path, *, max_bytes: int = plain_files.MAX_TABLE_BYTES) -> bytes:
  """The content of a file.

  Args:
    path: of the file.
    max_bytes: of a file that is refused when it is larger, before it takes memory.

  Raises:
    OSError: it cannot be read, is no plain file, or is too large.
    UserError: its file system is not known or not installed.
  """
  if not is_remote(path):
    return plain_files.read_bytes(path, max_bytes=max_bytes)
  file_system, inner = _file_system(path)
  with _answers(path):
    plain_files.refuse_size(file_system.size(inner) or 0, max_bytes)
    return file_system.cat_file(inner)


def open_table(path: Path) -> BinaryIO:
  """A file, opened to read bytes; see `plain_files.open_table`, which says what is refused."""
  return io.BytesIO(read_bytes(path)) if is_remote(path) else plain_files.open_table(path)


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file, which appears whole or not at all; makes its folder.

  Raises:
    UserError: it cannot be written.
  """
  try:
    if is_remote(path):  # Object stores show an object when it is complete.
      file_system, inner = _file_system(path)
      file_system.makedirs(posixpath.dirname(inner), exist_ok=True)
      file_system.pipe_file(inner, content)
      return
    files.write_bytes(path, content)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror or error}') from error


def is_file(path: Path) -> bool:
  """Whether there is such a file."""
  if not is_remote(path):
    return os.path.isfile(path)
  file_system, inner = _file_system(path)
  with _answers(path):
    return file_system.isfile(inner)


def is_folder(path: Path) -> bool:
  """Whether there is such a folder."""
  if not is_remote(path):
    return os.path.isdir(path)
  file_system, inner = _file_system(path)
  with _answers(path):
    return file_system.isdir(inner)


def file_names(folder: Path) -> set[str]:
  """Names of the files directly in a folder; empty if it cannot be listed."""
  return _names(folder, folders=False)


def folder_names(folder: Path) -> set[str]:
  """Names of the folders directly in a folder; empty if it cannot be listed."""
  return _names(folder, folders=True)


def walk(top: Path) -> Iterator[tuple[str, list[str]]]:
  """All folders from `top` down: the path from there ('' for itself), and the names of the files.

  Sorted, without hidden folders; links are followed, but never in circles.
  """
  if is_remote(top):
    pending = ['']
    while pending:
      below = pending.pop()
      folder = join(top, below) if below else top
      yield below, sorted(file_names(folder))
      shown = sorted(name for name in folder_names(folder) if name[0] != '.')
      pending += [posixpath.join(below, name) for name in reversed(shown)]
    return
  seen = set()
  for folder, subfolders, names in os.walk(top, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:
      subfolders.clear()
      continue
    seen.add(real)
    subfolders[:] = sorted(name for name in subfolders if name[0] != '.')
    below = pathlib.PurePath(folder).relative_to(top).as_posix()
    yield '' if below == '.' else below, sorted(names)


def local_folder(folder: Path) -> pathlib.Path:
  """A folder as one on this machine: itself, or a copy that is made once.

  A remote folder is copied into the user's cache, under a name of its URL and of the sizes and
  times of its files, so that a changed folder is copied anew. Only its own files are copied.

  Raises:
    UserError: it cannot be read.
  """
  if not is_remote(folder):
    return pathlib.Path(folder)
  try:
    file_system, inner = _file_system(folder)
    entries = [entry for entry in file_system.ls(inner, detail=True) if entry['type'] == 'file']
    facts = sorted((entry['name'], entry['size'], _version(entry)) for entry in entries)
    key = hashlib.sha256(repr((os.fspath(folder), facts)).encode()).hexdigest()[:16]
    target = places.cache_folder() / 'remote' / key
    if not target.is_dir():
      target.parent.mkdir(parents=True, exist_ok=True)
      partial = pathlib.Path(tempfile.mkdtemp(prefix=f'.{key}.', dir=target.parent))
      try:
        for entry in entries:
          file_system.get_file(entry['name'], str(partial / posixpath.basename(entry['name'])))
        if not target.is_dir():  # Another process may have made the same copy meanwhile.
          os.replace(partial, target)
      finally:
        shutil.rmtree(partial, ignore_errors=True)
  except OSError as error:
    raise UserError(f'cannot copy {folder}: {error.strerror or error}') from error
  return target


def upload_folder(source: pathlib.Path, target: Path, *, last: str) -> None:
  """Copies a local folder's own files to a remote one.

  Args:
    source: the local folder.
    target: where they go.
    last: name of the file that is copied last: the mark that all others are there.

  Raises:
    UserError: something cannot be read or written.
  """
  for path in sorted(source.iterdir(), key=lambda path: (path.name == last, path.name)):
    try:
      content = plain_files.read_bytes(path, max_bytes=plain_files.MAX_TABLE_BYTES)
    except OSError as error:
      raise UserError(f'cannot read {path}: {error.strerror}') from error
    write_bytes(join(target, path.name), content)


def _names(folder: Path, *, folders: bool) -> set[str]:
  try:
    if not is_remote(folder):
      with os.scandir(folder) as entries:
        return {entry.name for entry in entries if (entry.is_dir() if folders else entry.is_file())}
    file_system, inner = _file_system(folder)
    with _answers(folder):
      entries = file_system.ls(inner, detail=True)
  except OSError:
    return set()
  kind = 'directory' if folders else 'file'
  names = {posixpath.basename(e['name'].rstrip('/')) for e in entries if e['type'] == kind}
  return names - {''}


@contextlib.contextmanager
def _answers(path: Path) -> Iterator[None]:
  """Within it, whatever a store raises but an OSError is a UserError: credentials, for one."""
  try:
    yield
  except (OSError, UserError):
    raise
  except Exception as error:
    raise UserError(f'{path}: {type(error).__name__}: {first_line(error)}') from error


def _version(entry: dict[str, Any]) -> str:
  """What changes with a remote file's content, where its store tells."""
  names = ('etag', 'ETag', 'md5Hash', 'updated', 'LastModified', 'mtime', 'created')
  return str(next((entry[name] for name in names if entry.get(name)), ''))


def _file_system(path: Path) -> tuple[fsspec.AbstractFileSystem, str]:
  url = os.fspath(path)
  if url.partition('://')[0] not in SCHEMES or '::' in url:
    raise UserError(f'{path}: no such place is read; URLs begin with {", ".join(SCHEMES)}')
  try:
    return fsspec.core.url_to_fs(url)
  except Exception as error:  # Its package is missing, or whatever it makes of an odd address.
    raise UserError(f'{path}: {" ".join(str(error).split())}') from error
