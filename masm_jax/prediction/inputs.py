"""Which files are to be predicted: files, folders, patterns, lists on standard input, shards."""

import glob
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from masm_jax.errors import UserError
from masm_jax.preprocess.layouts.base import VIDEO_SUFFIXES
from masm_jax.preprocess.raw_video import is_picture


def list_files(
  sources: Iterable[str], *, stdin: TextIO, out: pathlib.Path | None = None
) -> list[str]:
  """The files that the sources name, each once, sorted.

  Args:
    sources: paths of files; folders, of which pictures and videos are taken, by their suffix, at
      any depth; patterns as of `glob`, with `**`; `-` for a list of files on `stdin`, one a line.
    stdin: read for `-`.
    out: a folder of which neither a folder nor a pattern takes anything: the answers' own, whose
      pictures are no inputs.

  Raises:
    UserError: a source that names nothing.
  """
  found: set[str] = set()
  own = os.path.realpath(out) if out else None
  for source in sources:
    if source == '-':
      files = [line.rstrip('\r\n') for line in stdin]
      files = [line for line in files if line]
      missing = next((path for path in files if not os.path.exists(path)), None)
      if missing is not None:
        raise UserError(f'no file {missing}, which the list on standard input names')
    elif os.path.isdir(source):
      files = list(_in_folder(source, own))
    elif os.path.exists(source):
      files = [source]
    else:
      files = [path for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
      files = [path for path in files if not _is_below(path, own)]
    if not files:
      what = 'no picture or video in the folder' if os.path.isdir(source) else 'no file'
      raise UserError(f'{what} {source}' if source != '-' else 'no file on standard input')
    found.update(files)
  return sorted(found)


def parse_shard(text: str) -> tuple[int, int]:
  """(index, count) of `I/N`, 0 <= I < N.

  >>> parse_shard('2/8')
  (2, 8)

  Raises:
    UserError: it is none.
  """
  match = re.fullmatch(r'(\d{1,9})/(\d{1,9})', text)
  index, count = map(int, match.groups()) if match else (0, 0)
  if not index < count:
    raise UserError(f'--shard {text}: give I/N with I from 0 to N - 1, such as 0/8')
  return index, count


def shard_of(files: Sequence[str], shard: tuple[int, int]) -> list[str]:
  """Every N-th file, from the I-th on; all shards together are all files."""
  index, count = shard
  return list(files[index::count])


def _is_below(path: str, folder: str | None) -> bool:
  return folder is not None and pathlib.Path(os.path.realpath(path)).is_relative_to(folder)


def _in_folder(folder: str, own: str | None) -> Iterator[str]:
  for parent, folders, names in os.walk(folder):
    if _is_below(parent, own):
      folders.clear()
      continue
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    for name in sorted(names):
      is_video = name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith('.')
      if is_video or is_picture(name):
        yield pathlib.PurePath(parent, name).as_posix()
