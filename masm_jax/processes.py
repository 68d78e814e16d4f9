"""Which process something belongs to, in the name of a file, and whether that one still runs."""

import functools
import os
import pathlib
import re
import socket
import zlib

_MARK = re.compile('([0-9a-f]{8})-([0-9]{1,9})-([0-9]*)')


def mark(pid: int = 0) -> str:
  """A process in the name of a file: machine, number, start.

  Args:
    pid: of a process of this machine; 0 for this one.
  """
  pid = pid or os.getpid()
  return f'{zlib.crc32(machine().encode()):08x}-{pid}-{started(pid)}'


def is_gone(text: str) -> bool | None:
  """Whether the process of a mark has ended; None where nobody here can know.

  >>> is_gone(mark()), is_gone(mark(2**22 + 1)), is_gone('00000000-1-1'), is_gone('txt')
  (False, True, None, None)

  Args:
    text: a mark of this machine or of another one, or something else.
  """
  found = _MARK.fullmatch(text)
  if not found or found[1] != mark().partition('-')[0]:
    return None
  pid, start = int(found[2]), found[3]
  return started(pid) != start if start else not answers(pid)


@functools.cache
def machine() -> str:
  """What tells machines apart, and containers on one machine: process numbers are valid within."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return f'{socket.gethostname()} {os.uname().sysname}'


def started(pid: int) -> str:
  """When a process started, in the system's own unit; '' if it is gone or ended."""
  try:
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return ''
  return '' if fields[0] in 'ZX' else fields[19]


def answers(pid: int) -> bool:
  """Whether there is a process of this number, ended or not."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True
