"""One process at a time in a folder: a lock file that names its owner, on NFS too.

The lock is a file that is made whole and then linked to its name, which either succeeds or finds
another one there: no file system that people train on lets two processes do it. (FAT and many FUSE
mounts have no links; there the file is made under its name, and then written.) The owner touches it
every few seconds. A lock whose owner is gone is taken over: on the same machine that is known at
once (no such process, or another one under its number), on another one when it has not been touched
for two minutes, by this machine's clock, for clocks of machines differ; an old one at once.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import pathlib
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from masm_jax import files, places, plain_files, processes
from masm_jax.errors import UnfitFileError, UserError
from masm_jax.terminal import say, terminal_line

NAME = '.lock'
BEAT_S = 15.0
STALE_S = 120.0  # So long without a touch: its machine is gone.
OLD_S = 900.0  # By its time: more than clocks of machines differ.
_POLL_S = 0.5
_WRITTEN_S = 1.0  # A lock without an owner for so long is not being written: it is damaged.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def held(
  folder: str | os.PathLike,
  *,
  name: str = NAME,
  kind: str = '',
  waits: bool = False,
  enabled: bool = True,
) -> Iterator[None]:
  """Keeps every other process out of a folder while the block runs.

  A process that has the lock may take it again. The folder is made, and removed again if nothing
  else came into it.

  Args:
    folder: what is worked in.
    name: of the lock file, where a folder holds several things.
    kind: of `places`: what the folder is for; one of another kind is refused.
    waits: whether to wait for the owner, which is said in one line, rather than to refuse.
    enabled: False on all processes of a run but the first, which holds the lock for them.

  Raises:
    UserError: another process has it, it is of another kind, or it cannot be written.
  """
  if kind and enabled:
    places.refuse_other(folder, kind)
  path = pathlib.Path(folder).absolute() / name
  if not enabled or ((found := _read(path)) and _is_own(found[0])):
    yield
    return
  if os.path.lexists(path.parent) and not os.path.isdir(path.parent):
    raise UserError(f'{os.fspath(folder)} is there and is no folder: give another path')
  is_new = not path.parent.is_dir()
  try:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      token = _take(path, waits)
    except OSError as error:
      raise UserError(f'cannot write {path}: {error.strerror or error}') from error
    with _touched(path, token):
      yield
  finally:
    if is_new:
      with contextlib.suppress(OSError):  # It holds something.
        path.parent.rmdir()


@contextlib.contextmanager
def _touched(path: pathlib.Path, token: str) -> Iterator[None]:
  """Within it, the owner touches its lock; then it is removed."""
  released = threading.Event()
  beat = threading.Thread(target=_beat, args=(path, token, released), daemon=True)
  beat.start()
  try:
    yield
  finally:
    released.set()
    if (found := _read(path)) and found[0].get('token') == token:
      path.unlink(missing_ok=True)


def held_beside(
  path: str | os.PathLike, *, waits: bool = False
) -> contextlib.AbstractContextManager[None]:
  """As `held`, for a file, or a folder that has to stay empty: the lock lies beside it."""
  path = pathlib.Path(path).absolute()
  return held(path.parent, name=f'.{files.cut_name(path.name, 100)}.lock', waits=waits)


def describe(owner: dict[str, Any]) -> str:
  """The owner of a lock, for people."""
  host, since, command = (str(owner.get(key))[:200] for key in ('host', 'since', 'command'))
  return terminal_line(f'process {owner.get("pid")} on {host}, which runs since {since}: {command}')


def _take(path: pathlib.Path, waits: bool) -> str:
  """Makes the lock file; returns its token."""
  token = secrets.token_hex(8)
  text = json.dumps(_own() | {'token': token, 'since': time.strftime('%Y-%m-%d %H:%M:%S')})
  fresh = path.with_name(f'{path.name}.{processes.mark()}-{token}')
  with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), 'w') as file:
    file.write(text)
  try:
    seen = _Sightings()
    said = False
    while True:
      os.utime(fresh)
      now = fresh.stat().st_mtime
      if _has_named(fresh, path, text, token):
        _tidy(path, token)
        return token
      if not (found := _read(path)):
        continue  # Released in between.
      owner, touched = found
      gone = _is_gone(owner)
      was_touched, still_s = seen.look(str(owner.get('token')), touched)
      if not _has_owner(owner) and still_s < _WRITTEN_S and now - touched <= OLD_S:
        time.sleep(_POLL_S)
        continue  # Without links it has its name before its owner stands in it.
      if gone or (gone is None and (still_s > STALE_S or now - touched > OLD_S)):
        _remove(path, owner)
        continue
      # On another machine: alive is who touches it again, and who died a moment ago does not.
      is_alive = gone is False or was_touched
      if is_alive and not waits:
        raise UserError(f'{path.parent} is in use by {describe(owner)}; wait for it, or end it')
      if not said and (is_alive or gone is None):
        say(f'waiting for {describe(owner)}', file=sys.stderr)
        said = True
      time.sleep(_POLL_S)
  finally:
    fresh.unlink(missing_ok=True)


def _has_named(fresh: pathlib.Path, path: pathlib.Path, text: str, token: str) -> bool:
  """Gives the lock its name, unless another process has; whether it did."""
  try:
    with contextlib.suppress(FileExistsError):
      os.link(fresh, path)
    return fresh.stat().st_nlink == 2  # NFS may lose the answer, not the link.
  except OSError as error:
    if error.errno not in _NO_LINKS:
      raise
  # NFSv2 makes a file in two steps, look and make: there, two processes may both make it. The
  # second look leaves one of them, unless the other is slower than that look.
  try:
    made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
  except FileExistsError:
    return False
  try:
    with os.fdopen(made, 'w') as file:
      file.write(text)
  except OSError:
    path.unlink(missing_ok=True)
    raise
  return bool((found := _read(path)) and found[0].get('token') == token)


class _Sightings:
  """Locks of other machines, as they were when they were last looked at."""

  def __init__(self) -> None:
    self._last: dict[str, tuple[float, float, bool]] = {}

  def look(self, token: str, touched: float) -> tuple[bool, float]:
    """Whether an owner has touched its lock since the first look, and how long it has not, s."""
    now = time.monotonic()
    before, since, was_touched = self._last.get(token, (touched, now, False))
    if touched != before:
      since, was_touched = now, True
    self._last[token] = touched, since, was_touched
    return was_touched, now - since


def _tidy(path: pathlib.Path, token: str) -> None:
  """Removes what others left that were killed while they asked for the lock."""
  for other in path.parent.glob(f'{glob.escape(path.name)}.*'):
    found = _read(other)
    mark = other.name.removeprefix(path.name)[1:].rpartition('-')[0]
    is_gone = processes.is_gone(mark)  # Known by its name alone: it may be empty.
    if is_gone is None:  # An empty one may be written right now.
      is_gone = bool(found and found[0].get('token', token) != token and _is_gone(found[0]))
    if is_gone:
      other.unlink(missing_ok=True)


def _remove(path: pathlib.Path, owner: dict[str, Any]) -> None:
  """Removes the lock of an owner that is gone, and no other."""
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # Not on all file systems; then the check below remains.
      fcntl.flock(folder, fcntl.LOCK_EX)
    found = _read(path)
    if found and found[0].get('token') == owner.get('token'):
      path.unlink(missing_ok=True)
  finally:
    os.close(folder)


def _read(path: pathlib.Path) -> tuple[dict[str, Any], float] | None:
  """The owner and the last touch of a lock; None if there is none."""
  touched = 0.0
  try:
    # Opened, so that NFS asks the server.
    with plain_files.open_file(path, follows_links=False) as file:
      touched = os.fstat(file.fileno()).st_mtime
      text = plain_files.content(file, max_bytes=plain_files.MAX_LOCK_BYTES)
      owner = files.parse_object(text)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (UnfitFileError, ValueError):  # Nothing that this program made.
    owner = {}
  return owner, touched


def _beat(path: pathlib.Path, token: str, released: threading.Event) -> None:
  while not released.wait(BEAT_S):
    with contextlib.suppress(OSError):
      if (found := _read(path)) and found[0].get('token') == token:
        os.utime(path, follow_symlinks=False)
      elif not released.is_set():
        # It stood still for minutes, and another one works here now: two would do damage.
        text = f'error: {path} is another process now, because this one stood still; it ends'
        say(text, file=sys.stderr)
        os._exit(2)


def _own() -> dict[str, Any]:
  return {
    'host': socket.gethostname(),
    'machine': processes.machine(),
    'pid': os.getpid(),
    'started': processes.started(os.getpid()),
    'command': shlex.join(sys.orig_argv[:40]),
  }


def _is_own(owner: dict[str, Any]) -> bool:
  own = _own()
  return all(owner.get(key) == own[key] for key in ('machine', 'pid', 'started'))


def _has_owner(owner: dict[str, Any]) -> bool:
  return isinstance(owner.get('pid'), int)


def _is_gone(owner: dict[str, Any]) -> bool | None:
  """Whether the owner has ended; None where it is on another machine and nobody can know."""
  if not _has_owner(owner):
    return True  # The empty file of an earlier version, or a damaged one.
  if owner.get('machine') != processes.machine():
    return None
  if not os.path.isdir('/proc/self'):
    return not processes.answers(owner['pid'])
  return processes.started(owner['pid']) != owner.get('started')
