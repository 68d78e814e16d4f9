"""DeepfakeBench's JSON files, and DF40's, which are of the same kind.

`{DATASET: {LABEL: {train|val|test: {[c23|c40|raw:] {VIDEO: {"label", "frames", "masks"?}}}}}}`, as
SCLBD/DeepfakeBench (training/dataset/abstract_dataset.py) and YZY-stack/DF40 read them.
"""

import dataclasses
import logging
import pathlib
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from masm_jax import files
from masm_jax.data import storage
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError

COMPRESSIONS = ('raw', 'c23', 'c40')

# The data sets that have a compression level, and the name that their rows get: parts of
# FaceForensics++ are files of their own, which repeat its real videos.
_COMPRESSED = {
  'FaceForensics++': 'FaceForensics++',
  'FF-DF': 'FaceForensics++',
  'FF-F2F': 'FaceForensics++',
  'FF-FS': 'FaceForensics++',
  'FF-NT': 'FaceForensics++',
  'DeepFakeDetection': 'DeepFakeDetection',
  'FaceShifter': 'FaceForensics++',
}

# Label -> (class, method).
_LABELS = {
  'FF-real': (REAL, 'real'),
  **{f'FF-{name}': (FAKE, name) for name in ('SH', 'F2F', 'DF', 'FS', 'NT', 'FH')},
  'DFDCP_FakeA': (FAKE, 'FakeA'),
  'DFDCP_FakeB': (FAKE, 'FakeB'),
  'roop_Fake': (FAKE, 'roop'),
  **{f'{name}_real': (REAL, 'real') for name in ('DFD', 'CelebDFv1', 'CelebDFv2', 'DF')},
  **{f'{name}_fake': (FAKE, 'fake') for name in ('DFD', 'CelebDFv1', 'CelebDFv2', 'DF')},
  **{f'{name}_Real': (REAL, 'real') for name in ('DFDCP', 'DFDC', 'UADFV', 'roop')},
  **{f'{name}_Fake': (FAKE, 'fake') for name in ('DFDC', 'UADFV', 'WDF', 'FFIW', 'DFR')},
  **{f'{name}_fake': (FAKE, 'fake') for name in ('WDF', 'FFIW', 'DFR')},
}
# DF40 and others: SOMETHING_real, SOMETHING_Fake; that something is the method.
_LABEL_FORM = re.compile(r'(?P<name>.+)_(?P<label>[Rr]eal|[Ff]ake)')

_DF40_DOMAIN = re.compile(r'(?P<method>.+)_(?P<domain>ff|cdf)')

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read the files.

  Attributes:
    labels: classes of labels that are not known, {LABEL: 0 or 1}.
    compressions: levels to take; all by default.
    splits: splits to take.
    strip: what is cut off the paths, if they begin with it.
    skip_missing: leave frames out that are not there, instead of an error.
    is_df40: the files are DF40's: no compression level, METHOD or METHOD_ff or METHOD_cdf.
  """

  labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
  compressions: Sequence[str] = COMPRESSIONS
  splits: Sequence[str] = SPLITS
  strip: str = ''
  skip_missing: bool = False
  is_df40: bool = False


def import_deepfakebench(
  files: Sequence[storage.Path], root: storage.Path, options: Options | None = None
) -> Manifest:
  """Makes a manifest from JSON files.

  A frame's path may have backslashes and start with whatever leads to DeepfakeBench's `rgb` folder;
  it is looked for below `root` as it stands, without everything up to `rgb/`, and below `root/rgb`.
  `video_id` is dataset/method/[compression/]video, so that the same name under four manipulations
  gives four videos. The same rows in several files (the real ones of FF-DF and FF-F2F) count once.
  Masks that are there become the column `mask`.

  Args:
    files: one or more JSON files, each named after its data set.
    root: the folder that the images lie below.
    options: how to read them.

  Raises:
    UserError: a file is not of this form; a label is not known; frames are missing, leave the root,
      or stand in two splits; or as `build_manifest`.
  """
  options = options or Options()
  root = storage.as_root(root)
  if not storage.is_folder(root):
    raise UserError(f'no folder {root}: give the folder that the images lie below as --root')
  find = _Finder(root, options.strip)
  rows: dict[str, dict[str, Any]] = {}
  missing, num_frames, empty = [], 0, []
  for file in files:
    for video in _videos(file, options):
      empty += [] if video.frames else [video.place]
      masks = {posixpath.splitext(posixpath.basename(_slashes(m)))[0]: m for m in video.masks}
      for frame in video.frames:
        num_frames += 1
        path = find(frame, video.place)
        if path is None:
          missing.append((frame, video.place))
          continue
        stem = posixpath.splitext(posixpath.basename(path))[0]
        mask = find(masks[stem], video.place) if stem in masks else None
        _add(rows, video.row | {'path': path, 'frame': names.frame_number(stem), 'mask': mask})
  if missing and not options.skip_missing:
    (frame, place), tried = missing[0], ', '.join(find.candidates(missing[0][0]))
    raise UserError(
      f'{len(missing)} of {num_frames} frames are not below {root}, first {frame} ({place}); looked'
      f' for {tried}; give another --root, cut what is too much with --strip, or leave them out'
      ' with --skip-missing'
    )
  if missing:
    _logger.warning('left out %d of %d frames that are not there', len(missing), num_frames)
  if empty:
    _logger.warning('left out %d videos without frames, first %s', len(empty), empty[0])
  if not rows:
    raise UserError(f'no frame in {", ".join(map(str, files))}, of the splits and levels asked for')
  if not any(row['mask'] for row in rows.values()):
    for row in rows.values():
      del row['mask']
  return build_manifest(rows.values(), root)


@dataclasses.dataclass(frozen=True)
class _Video:
  place: str  # For messages.
  row: dict[str, Any]  # What all of its frames have in common.
  frames: list[str]
  masks: list[str]


def _videos(file: storage.Path, options: Options) -> Iterator[_Video]:
  (key, by_label), stem = _top(file), pathlib.PurePosixPath(file).stem
  # DeepfakeBench names a file of FF++ that is to be read at c40 after that.
  if key not in (stem, stem.removesuffix('_c40')):
    raise UserError(f'{file}: its top key {key!r} is not the name of the file')
  dataset, df40_method = _COMPRESSED.get(key, key), ''
  if options.is_df40:
    match = _DF40_DOMAIN.fullmatch(key)
    df40_method, dataset = (match['method'], f'DF40-{match["domain"]}') if match else (key, 'DF40')
  levels = COMPRESSIONS if key in _COMPRESSED and not options.is_df40 else ()
  for label, by_split in _items(by_label, f'{file}: {key}'):
    label_class, method = _classify(label, options.labels, str(file))
    if df40_method and label_class == FAKE:
      method = df40_method
    for split, content in _items(by_split, f'{file}: {key}/{label}'):
      place = f'{file}: {key}/{label}/{split}'
      if split not in SPLITS:
        raise UserError(f'{place}: the splits are {", ".join(SPLITS)}')
      if split not in options.splits:
        continue
      by_level = list(_items(content, place)) if levels else [('', content)]
      for level, videos in by_level:
        if levels and level not in levels:
          raise UserError(f'{place}/{level}: {key} has a level raw, c23 or c40 above its videos')
        if level and level not in options.compressions:
          continue
        for name, info in _items(videos, f'{place}/{level}' if level else place):
          inner = '/'.join(filter(None, (place, level, name)))
          yield _video(inner, info, name, (label, label_class, method), dataset, split, level)


def _video(
  place: str,
  info: Any,
  name: str,
  labels: tuple[str, int, str],
  dataset: str,
  split: str,
  level: str,
) -> _Video:
  label, label_class, method = labels
  if not isinstance(info, dict) or not _is_texts(info.get('frames')):
    raise UserError(f'{place}: a video is an object with "label" and "frames", a list of paths')
  if info.get('label', label) != label:
    raise UserError(f'{place}: its label is {info["label"]!r}, but it stands under {label}')
  if not _is_texts(info.get('masks', [])):
    raise UserError(f'{place}: "masks" is a list of paths')
  target = names.target_video(name) if label_class == FAKE else name
  prefix = [dataset, 'real', *([level] if level else [])]
  row = {
    'label': label_class,
    'dataset': dataset,
    'split': split,
    'method': method,
    'compression': level,
    'video_id': '/'.join([dataset, method, *prefix[2:], name]),
    'source_video_id': '/'.join([*prefix, target]) if target else '',
    'identities': ';'.join(names.identities(name)),
  }
  return _Video(place, row, info['frames'], info.get('masks', []))


def _top(file: storage.Path) -> tuple[str, Any]:
  try:
    content = files.parse_json(storage.read_bytes(file))
  except OSError as error:
    raise UserError(f'cannot read {file}: {error.strerror or error}') from error
  except ValueError as error:
    raise UserError(f'{file}: not a JSON file: {error}') from error
  if not isinstance(content, dict) or len(content) != 1:
    raise UserError(f'{file}: holds one object with one key, the name of the data set')
  return next(iter(content.items()))


def _items(level: Any, place: str) -> Iterator[tuple[str, Any]]:
  if not isinstance(level, dict):
    raise UserError(f'{place}: an object is expected here, not {type(level).__name__}')
  return iter(level.items())


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _classify(label: str, mapped: Mapping[str, int], file: str) -> tuple[int, str]:
  """The class and the method that a label stands for."""
  match = _LABEL_FORM.fullmatch(label)
  if label in mapped:
    method = _LABELS.get(label, (0, label))[1]
    return mapped[label], 'real' if mapped[label] == REAL else method
  if label in _LABELS:
    return _LABELS[label]
  if match:
    is_real = match['label'].lower() == 'real'
    return (REAL, 'real') if is_real else (FAKE, match['name'])
  raise UserError(
    f'{file}: unknown label {label!r}; known are {", ".join(_LABELS)}, *_Real, *_real, *_Fake, '
    f'*_fake; say what it is with --label {label}=real or --label {label}=fake'
  )


def _add(rows: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
  other = rows.setdefault(row['path'], row)
  if other == row:
    return
  if other['split'] != row['split']:
    raise UserError(
      f'{row["path"]} stands in {other["split"]} and in {row["split"]}: where a data set has no '
      'split of its own, DeepfakeBench repeats one; choose with --splits, such as --splits test'
    )
  raise UserError(
    f'{row["path"]} stands in two places, as {other["video_id"]} and as {row["video_id"]}'
  )


def _slashes(path: str) -> str:
  return posixpath.normpath(path.replace('\\', '/'))


class _Finder:
  """Finds the file below the root that a path in a JSON means."""

  def __init__(self, root: storage.Path, strip: str):
    self._root = root
    self._strip = _slashes(strip).rstrip('/') + '/' if strip else ''
    self._files: dict[str, set[str]] = {}

  def candidates(self, text: str) -> list[str]:
    """Paths relative to the root, in the order in which they are tried."""
    path = _slashes(text).removeprefix(self._strip)
    root = _slashes(str(self._root)).rstrip('/') + '/'
    path = path.removeprefix(root) if path.startswith('/') else path
    parts = path.split('/')
    inner = '/'.join(parts[parts.index('rgb') + 1 :]) if 'rgb' in parts else path.lstrip('/')
    return [one for one in dict.fromkeys((path, inner, f'rgb/{inner}')) if not one.startswith('/')]

  def __call__(self, text: str, place: str) -> str | None:
    """The path relative to the root, or None if there is no such file."""
    candidates = self.candidates(text)
    if any(path.split('/')[0] == '..' for path in candidates):
      raise UserError(f'{place}: {text} leaves the root {self._root}')
    return next((path for path in candidates if self._is_file(path)), None)

  def _is_file(self, path: str) -> bool:
    folder, name = posixpath.split(path)
    if folder not in self._files:
      self._files[folder] = storage.file_names(storage.join(self._root, folder))
    return name in self._files[folder]
