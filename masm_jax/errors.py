"""The one exception that a user is meant to read, and the ways out to terminals and logs.

Names of files, sets and videos come from strangers: `say` and `plain_logs` are how text leaves, so
that no terminal obeys what stands in them.
"""

import codecs
import contextlib
import errno
import io
import logging
import os
import re
import select
import signal
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

_PACKAGE = os.path.join(os.path.dirname(__file__), '')
_MAX_LENGTH = 4000  # Of a line: more is a value from a damaged file.

# Storage that is full or fails is for the user to mend, like bad input; so is a path that nothing
# can lie at, or where the user may not go.
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_PATH_ERRORS = (
  *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM),
)

NO_FIELD = 'no such config field: '
# How ml_collections begins to say that a config file raised an error; a traceback follows.
_REFUSED_BY_FILE = re.compile(r'flag (--.+): Error whilst parsing config file')


class UserError(Exception):
  """Bad input: one line that says what is wrong and what to do about it.

  Entry points print it as `error: <message>` and exit with status 2; anything else that is raised
  is a bug and keeps its traceback.
  """


class UnfitFileError(OSError):
  """What lies at a path is no plain file, or one that is too large to be what it should be."""


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


def storage_text(error: BaseException) -> str:
  """The line for storage that is full or broken, or a path that cannot be; '' for anything else."""
  if not isinstance(error, OSError):
    return ''
  where = f': {error.filename}' if error.filename else ''
  if isinstance(error, UnfitFileError):
    return terminal_line(f'{error.strerror}{where}; remove it, or give another path')
  if error.errno in _STORAGE_ERRORS:
    return terminal_line(f'{error.strerror}{where}; mend that, and run the same command again')
  if error.errno in _PATH_ERRORS:
    return terminal_line(f'{error.strerror}{where}; give another path')
  return ''


def first_line(error: Exception) -> str:
  """What an error says, short: the reason in one of tensorstore's stands at the end of the line."""
  text = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
  if reason := re.search(r': ([^:\[\]]+) \[os_error_code=', text):
    return reason[1]
  return re.sub(r'\s*\[source locations=.*', '', text)[:300] or type(error).__name__


def flag_text(error: Exception) -> str:
  """One line for what absl or ml_collections raise of a flag, a config file or a field."""
  cause = error.__cause__ or error
  text = str(cause)
  if isinstance(cause, KeyError | AttributeError):  # Their text is a quoted text, quoted again.
    text = f'{NO_FIELD}{text.strip(chr(34) + chr(39))}'
    text = text.replace(r'\'', "'").replace(r'\n', '. ')
  if isinstance(cause, IndexError):
    text = f'{NO_FIELD}{text}: a field that holds no list takes no [number]'
  lines = [line.strip().rstrip(':') for line in text.splitlines() if line.strip()]
  if refused := _REFUSED_BY_FILE.fullmatch(lines[0]):
    return f'{refused[1]}: {lines[-1].removeprefix("ValueError: ")}'
  return '; '.join(dict.fromkeys((lines[0], lines[-1])))


def unknown_field(config: Any, name: str, words: Sequence[str]) -> str:
  """The first field of a command line that a config lacks, and what there is beside it; or ''.

  Args:
    config: the ConfigDict that its file gives; None where there is none.
    name: of the config's flag: `--NAME.FIELD=VALUE` sets a field.
    words: the command line.
  """
  for word in words:
    match = re.fullmatch(rf'--?{re.escape(name)}\.([\w.]+)(=.*)?', word, re.DOTALL)
    group, path = config, name
    for part in match[1].split('.') if match else ():
      if not hasattr(group, 'to_dict'):
        break  # No group of fields, but a value.
      if part not in group:
        return f'{path}.{part}; {path} has {", ".join(group)}'
      group, path = group[part], f'{path}.{part}'
  return ''


def refuse_ascii_names() -> None:
  """Raises a UserError where this process can open no file whose name has more than ASCII."""
  if codecs.lookup(sys.getfilesystemencoding()).name == 'ascii':
    raise UserError(
      'names of files are ASCII alone here, which data sets do not keep to: set LC_ALL=C.UTF-8, or'
      ' unset PYTHONUTF8'
    )


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
  """Within it, standard streams are open, and print any letter; the start of every command.

  A standard output that nobody reads ends the process quietly: `masm-jax data stats | head`.

  Raises:
    SystemExit: with 141, as a shell has it for SIGPIPE.
    OSError: of anything else, a full disk below standard output too; what is buffered for that is
      dropped.
  """
  _open_streams()
  try:
    try:
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
