"""Options of a layout, and the walk over files that all layouts share."""

import collections
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from masm_jax import files, plain_files
from masm_jax.data import raster
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.errors import UserError, first_line
from masm_jax.preprocess.raw_video import RawVideo, is_picture, readable

VIDEO_SUFFIXES = (
  '.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.ts', '.mxf',
  '.3gp', '.3g2', '.gif',
)  # fmt: skip

# Folders that data sets and their tools put between a video's kind and its name.
_TRANSPARENT = ('videos', 'frames', 'images')
_PASSED_BY = ('masks', 'mask', 'landmarks', 'models')
_SHOWN = 3
_LISTS = ('.json', '.csv', '.txt')  # What comes with a data set is no video that was missed.


@dataclasses.dataclass(frozen=True)
class Options:
  """What a user may say about a data set's folder.

  Attributes:
    dataset: its name in the manifest; '' for the layout's own.
    split: of videos that the data set's own lists do not place; '' for none.
    label: of all videos in a folder without `real` and `fake`, also UNLABELLED; None without.
    compressions: only these, where there are several; () for all.
    lists: folder of the split lists; None to look in the data set's own.
    masks: folder of the forgery masks; None for where the data set has them.
    only: name of the one file in the folder that is meant; '' for all.
    skipped: `find` adds the files that it passes by, relative to the data set's root.
  """

  dataset: str = ''
  split: str = ''
  label: int | None = None
  compressions: tuple[str, ...] = ()
  lists: pathlib.Path | None = None
  masks: pathlib.Path | None = None
  only: str = ''
  skipped: set[str] = dataclasses.field(default_factory=set, compare=False)


Layout = Callable[[pathlib.Path, Options], list[RawVideo]]


@dataclasses.dataclass(frozen=True)
class Found:
  """A video, folder of frames or image below some folder.

  Attributes:
    name: its path below that folder, without suffix and without `videos`, `frames` and `images`.
    path: relative to the data set's root.
    kind: as in `RawVideo`.
  """

  name: str
  path: str
  kind: Literal['video', 'frames', 'image']

  @property
  def stem(self) -> str:
    """The last part of the name."""
    return self.name.rpartition('/')[2]

  def video(
    self, dataset: str, split: str, label: int, method: str, *, name: str = '', **more: Any
  ) -> RawVideo:
    """The `RawVideo` of it, under its own name if there is no other; real ones have one method."""
    return RawVideo(
      path=self.path,
      kind=self.kind,
      dataset=dataset,
      split=split,
      label=label,
      method=method if label == FAKE else 'real' if label == REAL else 'unlabelled',
      name=name or self.name,
      **more,
    )


def find(root: pathlib.Path, top: str, options: Options) -> list[Found]:
  """Everything below `root/top`, sorted; links are followed, but never in circles.

  A folder with images in it is a video's frames; images that lie directly in `top` stand for
  themselves. Of a video and its extracted frames the video is taken. Hidden files and folders,
  masks and landmarks are passed by; files that are neither videos, images nor lists are noted in
  `options.skipped`.
  """
  found: dict[str, Found] = {}
  start, seen = root / top, set()
  for folder, subfolders, contents in os.walk(start, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:
      subfolders.clear()
      continue
    seen.add(real)
    subfolders[:] = sorted(s for s in subfolders if s[0] != '.' and s.lower() not in _PASSED_BY)
    below = pathlib.PurePath(folder).relative_to(start).parts
    prefix = [part for part in below if part.lower() not in _TRANSPARENT]
    here = pathlib.PurePath(folder).relative_to(root)
    shown = sorted(name for name in contents if name[0] != '.')
    videos = [name for name in shown if name.lower().endswith(VIDEO_SUFFIXES)]
    images = [name for name in shown if is_picture(name)]
    skipped = set(contents).difference(videos, images)
    options.skipped.update(
      (here / name).as_posix() for name in skipped if not name.lower().endswith(_LISTS)
    )
    stems = [os.path.splitext(name)[0] for name in videos]
    for name, stem in zip(videos, stems, strict=True):
      # Two containers of the same name are two videos.
      unique = name if stems.count(stem) > 1 else stem
      item = Found('/'.join((*prefix, unique)), (here / name).as_posix(), 'video')
      found[item.name] = item
    if prefix and images:
      found.setdefault('/'.join(prefix), Found('/'.join(prefix), here.as_posix(), 'frames'))
    elif images:
      stems = [os.path.splitext(name)[0] for name in images]
      for name, stem in zip(images, stems, strict=True):
        unique = name if stems.count(stem) > 1 else stem
        item = Found(unique, (here / name).as_posix(), 'image')
        if found.setdefault(unique, item) is not item:
          options.skipped.add(item.path)
  return sorted(found.values(), key=lambda item: item.name)


def single(name: str) -> Found:
  """The one file that a user names: a video, unless it is named like an image."""
  kind = 'image' if is_picture(name) else 'video'
  return Found(os.path.splitext(name)[0] or name, name, kind)


def folders(root: pathlib.Path, *wanted: str) -> list[str]:
  """Which of these folders there are below root, as they are spelt there (any case)."""
  there = []
  for path in wanted:
    folder: pathlib.Path | None = root
    for part in path.split('/'):
      folder = folder and _child(folder, part)
    there += [folder.relative_to(root).as_posix()] if folder else []
  return there


def subfolders(root: pathlib.Path, top: str) -> list[str]:
  """Names of the visible folders in `root/top`, sorted; none if it is no folder."""
  try:
    return sorted(p.name for p in (root / top).iterdir() if p.is_dir() and p.name[0] != '.')
  except OSError:
    return []


def read_list(path: pathlib.Path) -> str:
  """A list that comes with a data set, as text.

  Raises:
    UserError: it cannot be read.
  """
  try:
    return plain_files.read_bytes(path).decode('utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else 'not UTF-8 text'
    raise UserError(f'cannot read {path}: {reason}') from error


def read_json(path: pathlib.Path) -> Any:
  """A list that comes with a data set, as JSON.

  Raises:
    UserError: it cannot be read.
  """
  text = read_list(path)
  try:
    return files.parse_json(text)
  except ValueError as error:  # Numbers of 5,000 digits, too, are a ValueError.
    raise UserError(f'{path}: not JSON that can be read: {first_line(error)}') from error


def inside(path: str | None, source: pathlib.Path) -> str:
  """A path that a list gives, normalised.

  Raises:
    UserError: it leaves the data set's folder, or is none: a short row of a table has no path.
  """
  if path is None or '\0' in path or os.path.normpath(path) == '.':
    raise UserError(f'{source}: {path!r} is no path of a video')
  normal = os.path.normpath(path.replace('\\', '/'))
  if os.path.isabs(normal) or normal.split('/')[0] == '..':
    raise UserError(f'{source}: {path} leaves the data set')
  return normal


def need_split(split: str, example: str, why: str) -> str:
  """The split of a video that no list places.

  Raises:
    UserError: the user has not said one.
  """
  if not split:
    raise UserError(f'{example}: {why}; add --split {"|".join(SPLITS)} for such videos')
  return split


def skipped_text(skipped: Collection[str], before: str = '') -> str:
  """One line on files that were passed by, by suffix, the most frequent first; '' without any.

  Args:
    skipped: their paths.
    before: what the line begins with.
  """
  counts: collections.Counter[str] = collections.Counter()
  for path in skipped:
    name = path.rpartition('/')[2]
    suffix = os.path.splitext(name)[1].lower()
    counts['hidden' if name.startswith('.') else suffix or 'without a suffix'] += 1
  if not counts:
    return ''
  parts = [f'{n} {kind}' for kind, n in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]
  more = ''
  if not raster.HAS_HEIF and counts.keys() & {'.heic', '.heif'}:
    more = ' (pip install pillow-heif reads HEIC)'
  return readable(f'{before}skipped {len(skipped)} files: {", ".join(parts)}{more}')


def warn_missing(logger: logging.Logger, source: str, missing: Sequence[str], total: int) -> None:
  """Says in one line which of the videos that a list names are not there, if any are not."""
  if missing:
    shown = ', '.join(missing[:_SHOWN]) + (', ...' if len(missing) > _SHOWN else '')
    logger.warning(
      '%d of the %d videos that %s names are not there: %s', len(missing), total, source, shown
    )


def _child(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  if (folder / name).is_dir():
    return folder / name
  try:
    matches = [p for p in folder.iterdir() if p.name.lower() == name.lower() and p.is_dir()]
  except OSError:
    return None
  return min(matches, default=None)
