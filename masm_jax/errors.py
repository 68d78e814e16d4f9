"""The exceptions that a user is meant to read, and what others say in one line."""

import codecs
import errno
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from masm_jax.terminal import terminal_line

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


def memory_text(error: BaseException) -> str:
  """The line for memory that does not suffice, with the place that asked for it; '' for others."""
  if not isinstance(error, MemoryError):
    return ''
  frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
  own = [frame for frame in frames if frame.f_globals.get('__name__', '').startswith('masm_jax.')]
  where = f', asked for by {own[-1].f_globals["__name__"]}' if own else ''
  what = f' ({first_line(error)})' if str(error) else ''
  return terminal_line(
    f'this takes more memory than the machine gives{where}{what}: use smaller inputs, or a machine'
    ' with more'
  )


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


def refuse_other_names() -> None:
  """Raises a UserError where this process takes names of files for something else than UTF-8.

  Names would be other ones in a manifest than on the disk, or none at all.
  """
  encoding = sys.getfilesystemencoding()
  if codecs.lookup(encoding).name != 'utf-8':
    raise UserError(
      f'names of files are taken for {encoding} here, and those of data sets are UTF-8: set'
      ' PYTHONUTF8=1'
    )
