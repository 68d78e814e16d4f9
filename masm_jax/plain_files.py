"""Local files are opened and read here: plain ones alone, and none that would fill the memory.

A named pipe in the place of a file would be waited for, a device has no end, and a file of 200 GB
takes no room on a disk where it is all holes.
"""

import contextlib
import errno
import hashlib
import os
import resource
import stat
import zipfile
from typing import BinaryIO

from masm_jax.errors import UnfitFileError

# The largest files of each kind, in bytes. They are far above what this program writes.
MAX_LOCK_BYTES = 2**16
MAX_DOCUMENT_BYTES = 2**28  # JSON: settings, metrics, records, notes.
MAX_TABLE_BYTES = 2**32  # Manifests, scores, and lines of metrics and answers.
MAX_ARRAYS_BYTES = 2**38  # Weights.

# What an archive may unpack to: weights are hardly compressed.
_UNPACKED_PER_BYTE, _UNPACKED_BYTES = 8, 2**26
_BLOCK_BYTES = 2**20
_GROUP_LIMITS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')
_KINDS = (
  (stat.S_ISFIFO, 'a named pipe'),
  (stat.S_ISSOCK, 'a socket'),
  (stat.S_ISCHR, 'a device'),
  (stat.S_ISBLK, 'a device'),
)


def open_file(
  path: str | os.PathLike, *, follows_links: bool = True, max_bytes: int | None = None
) -> BinaryIO:
  """A plain file, opened to read bytes; never waits for anybody to write to it.

  Args:
    path: the file.
    follows_links: False to refuse a link in its place.
    max_bytes: of a file that is refused when it is larger.

  Raises:
    OSError: it cannot be opened; `UnfitFileError`: it is a pipe, a device, a refused link, or too
      large.
  """
  flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
  try:
    descriptor = os.open(path, flags if follows_links else flags | os.O_NOFOLLOW)
  except OSError as error:
    if error.errno == errno.ENXIO:  # A socket, or a device that is not there.
      refuse_odd(path)
    if error.errno == errno.ELOOP and not follows_links and os.path.islink(path):
      raise UnfitFileError(errno.ELOOP, 'it is a link, not a file', os.fspath(path)) from error
    raise
  try:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    _refuse_odd(path, status.st_mode)
    if max_bytes is not None:
      refuse_size(status.st_size, max_bytes)
    return open(descriptor, 'rb')
  except BaseException:
    os.close(descriptor)
    raise


def read_bytes(path: str | os.PathLike, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
  """The content of a plain file.

  Args:
    path: the file.
    max_bytes: of a file that is refused when it is larger, before it takes memory.

  Raises:
    OSError: it cannot be read; `UnfitFileError`: it is no plain file, or too large.
  """
  with open_file(path) as file:
    return content(file, max_bytes=max_bytes)


def read_text(path: str | os.PathLike, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
  """As `read_bytes`, of a text in UTF-8.

  Raises:
    OSError: as of `read_bytes`.
    UnicodeDecodeError: it is no UTF-8.
  """
  return read_bytes(path, max_bytes=max_bytes).decode('utf-8')


def open_table(path: str | os.PathLike) -> BinaryIO:
  """As `open_file`, of a table or of lines.

  Raises:
    OSError: as of `open_file`; a large file that has a hole is refused too: it takes no disk, but
      all of the memory.
  """
  file = open_file(path, max_bytes=MAX_TABLE_BYTES)
  size = hole = os.fstat(file.fileno()).st_size
  with contextlib.suppress(OSError):  # Not every file system tells.
    hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
  file.seek(0)
  if hole < size and size > MAX_DOCUMENT_BYTES:  # Others may have one since a power failure.
    file.close()
    raise UnfitFileError(
      errno.EINVAL, f'a file of {size:,} bytes that has a hole: it is damaged', os.fspath(path)
    )
  return file


def read_lines_file(path: str | os.PathLike) -> bytes:
  """The content of a file of lines.

  Raises:
    OSError: as of `open_table`, and it cannot be read.
  """
  with open_table(path) as file:
    return content(file, max_bytes=MAX_TABLE_BYTES)


def sha256(path: str | os.PathLike) -> str:
  """SHA-256 of a plain file, as hexadecimal text, without the file in memory.

  Raises:
    OSError: as of `open_file`.
  """
  with open_file(path) as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def content(file: BinaryIO, *, max_bytes: int) -> bytes:
  """The content of an open file, see `read_bytes`; one that grows meanwhile is refused too."""
  size = os.fstat(file.fileno()).st_size  # 0 of those that the kernel makes up.
  refuse_size(size, max_bytes)
  if size > MAX_DOCUMENT_BYTES:
    refuse_size(size, memory_bytes())
  blocks, total, wanted = [], 0, size + 1
  while True:
    block = file.read(wanted)
    blocks.append(block)
    total += len(block)
    refuse_size(total, max_bytes)
    if len(block) < wanted:
      return b''.join(blocks)
    wanted = _BLOCK_BYTES


def memory_bytes() -> int:
  """The memory that this process may have: the machine's, or less where a limit is set."""
  found = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
    limit, _ = resource.getrlimit(kind)
    found += [] if limit == resource.RLIM_INFINITY else [limit]
  for path in _GROUP_LIMITS:  # Of a container.
    with contextlib.suppress(OSError, ValueError), open_file(path) as file:
      found.append(int(file.read(_BLOCK_BYTES)))  # `max` where there is none.
  return min(found)


def refuse_size(size: int, max_bytes: int) -> None:
  """Refuses a file of so many bytes.

  Raises:
    UnfitFileError: they are too many.
  """
  if size > max_bytes:
    raise UnfitFileError(errno.EFBIG, f'a file of {size:,} bytes; the limit is {max_bytes:,}')


def refuse_bomb(file: BinaryIO) -> None:
  """Refuses a zip archive, open at its beginning, by the sizes that its directory claims.

  Raises:
    ValueError: its parts are far larger than the file.
    OSError: it cannot be read.
  """
  size = os.fstat(file.fileno()).st_size
  try:
    with zipfile.ZipFile(file) as archive:
      total = sum(part.file_size for part in archive.infolist())
  except (zipfile.BadZipFile, NotImplementedError, ValueError):
    total = 0  # No archive: its reader says so.
  file.seek(0)
  if total > _UNPACKED_PER_BYTE * size + _UNPACKED_BYTES:
    raise ValueError(f'its {size:,} bytes would be {total:,} unpacked')


def refuse_odd(path: str | os.PathLike) -> os.stat_result:
  """Refuses a pipe, a socket or a device, for a library that opens the path itself.

  Returns:
    What there is to say of the file.

  Raises:
    OSError: there is nothing; `UnfitFileError`: there is one of these.
  """
  status = os.stat(path)
  _refuse_odd(path, status.st_mode)
  return status


def _refuse_odd(path: str | os.PathLike, mode: int) -> None:
  for is_kind, name in _KINDS:
    if is_kind(mode):
      raise UnfitFileError(errno.EINVAL, f'it is {name}, not a file', os.fspath(path))
