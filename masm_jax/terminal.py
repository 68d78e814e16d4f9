"""How text leaves the program: printed, or logged, so that no terminal obeys what stands in it.

Names of files, sets and videos come from strangers.
"""

import contextlib
import io
import logging
import os
import select
import signal
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

_PACKAGE = os.path.join(os.path.dirname(__file__), '')
_MAX_LENGTH = 4000  # Of a line: more is a value from a damaged file.


def terminal_line(text: str) -> str:
  """A text on one line that no terminal obeys, whatever names from elsewhere stand in it.

  >>> terminal_line('no file\\n  a\\x1b[2J')
  'no file a\\\\x1b[2J'
  """
  line = ''.join(map(_escaped, ' '.join(part.strip() for part in text.splitlines())))
  return line if len(line) <= _MAX_LENGTH else f'{line[: _MAX_LENGTH - 200]} ... {line[-190:]}'


def plain(text: str) -> str:
  """A text of lines, as a table has them, that no terminal obeys.

  >>> plain('a b\\x1b[2J')
  'a b\\\\x1b[2J'
  """
  return ''.join(
    letter if letter in '\n\t' or unicodedata.category(letter) == 'Zs' else _escaped(letter)
    for letter in text
  )


def _escaped(letter: str) -> str:
  return letter if letter.isprintable() else letter.encode('unicode_escape').decode()


def say(text: str, *, file: TextIO | None = None) -> None:
  """Prints a text at once; the one way in which this program prints, see `plain`.

  What quotes a name within a line puts the line through `terminal_line` first: a name may hold line
  breaks, too.
  """
  print(plain(text), file=file, flush=True)


@contextlib.contextmanager
def plain_logs() -> Iterator[None]:
  """Within it, no terminal obeys what is logged, and names in this program's lines break none."""
  before = logging.getLogRecordFactory()
  logging.setLogRecordFactory(_PlainRecord)
  try:
    yield
  finally:
    logging.setLogRecordFactory(before)


class _PlainRecord(logging.LogRecord):
  def getMessage(self) -> str:
    if self.pathname.startswith(_PACKAGE) and isinstance(self.args, tuple):
      self.args = tuple(
        terminal_line(str(part)) if isinstance(part, str | os.PathLike | Exception) else part
        for part in self.args
      )
    return plain(super().getMessage())


def _open_streams() -> None:
  """Standard streams where the shell closed them (`2>&-`), and any letter in any encoding.

  A file that is opened next would get the free number, and what is printed would go into it.
  """
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    try:
      os.fstat(number)
      is_closed = False
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # The lowest that is free: `number`.
      is_closed = True
    if getattr(sys, name) is None:
      # Where something else has the number already, it is not written into.
      null = number if is_closed else os.open(os.devnull, os.O_RDWR)
      mode = 'w' if number else 'r'
      setattr(sys, name, os.fdopen(null, mode, encoding='utf-8', closefd=False))
    stream = getattr(sys, name)
    if number and isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


@contextlib.contextmanager
def usable_output() -> Iterator[None]:
  """Within it, standard streams are open, and print any letter, and logs are `plain_logs`.

  It is the start of every command.

  A standard output that nobody reads ends the process quietly: `masm-jax data stats | head`.

  Raises:
    SystemExit: with 141, as a shell has it for SIGPIPE.
    OSError: of anything else, a full disk below standard output too; what is buffered for that is
      dropped.
  """
  _open_streams()
  try:
    try:
      with plain_logs():
        yield
    finally:
      if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()  # Here, not at the interpreter's end, where it cannot be caught.
  except BrokenPipeError:
    if not _is_unread(sys.stdout):
      raise
    _drop_output()
    sys.exit(128 + signal.SIGPIPE)
  except OSError:
    try:
      if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    except OSError:
      _drop_output()
    raise


def _drop_output() -> None:
  """Sends what is still buffered nowhere: the interpreter's end would fail with it once more."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread(stream: Any) -> bool:
  """Whether the other end of a pipe is closed: a socket or a worker's pipe may have broken too."""
  poll = select.poll()
  poll.register(stream.fileno(), select.POLLERR)
  return bool(poll.poll(0))
