"""One server for one data folder: a lock that ends with its process, however that ends."""

import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from masm_jax.errors import UserError

_NAME = 'lock'


class Lock:
  """Holds a data folder; a second server is told who has it.

  The kernel holds the lock (`flock`), so that a server that was killed leaves none behind. The file
  names its owner for people alone.
  """

  def __init__(self, folder: pathlib.Path, address: str):
    """Takes the lock.

    Args:
      folder: of the data; it exists.
      address: where the server listens, for the message of a second one.

    Raises:
      UserError: another server has it, or the file cannot be written.
    """
    try:
      self._file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
      raise UserError(f'cannot write to --data={folder}: {error.strerror}') from error
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      owner = _owner(os.pread(self._file, 4096, 0))
      os.close(self._file)
      raise UserError(
        f'--data={folder} is in use by {owner}: stop that server, or give another folder'
      ) from error
    except OSError as error:  # Some network file systems have no locks.
      os.close(self._file)
      raise UserError(
        f'cannot lock --data={folder} ({error.strerror}): give a folder on a local disk'
      ) from error
    note = {'pid': os.getpid(), 'host': socket.gethostname(), 'address': address}
    os.ftruncate(self._file, 0)
    os.pwrite(self._file, json.dumps(note).encode(), 0)

  def release(self) -> None:
    """Gives the folder back; the file stays, empty."""
    os.ftruncate(self._file, 0)
    os.close(self._file)


def _owner(text: bytes) -> str:
  try:
    note: dict[str, Any] = json.loads(text)
    return f'the server at {note["address"]} (process {note["pid"]} on {note["host"]})'
  except (ValueError, KeyError, TypeError):
    return 'another server'
