"""DFDC and its preview (DFDCP): their metadata files say what each video is."""

import csv
import io
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.errors import UserError
from masm_jax.preprocess.layouts import base
from masm_jax.preprocess.layouts.base import Options
from masm_jax.preprocess.raw_video import RawVideo, video_id

_METADATA = ('metadata.json', 'metadata.csv', 'labels.csv')
_LABELS = {'real': REAL, '0': REAL, 'fake': FAKE, '1': FAKE}
_PREVIEW = re.compile(r'(?P<person>\d+)_(?P<scene>[A-Z])(_.*)?')
_PREVIEW_FAKE = re.compile(r'(?P<face>\d+)_(?P<person>\d+)_(?P<scene>[A-Z])(_.*)?')

_logger = logging.getLogger(__name__)


def dfdc(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """Folders of videos, each with a metadata.json, metadata.csv or labels.csv.

  The split is taken from the folders' names (`dfdc_train_part_0`, `test`), or from what the
  metadata say, or from --split. Videos that the metadata do not name are left out with a warning;
  another one counts those that they name and that are not there.

  Raises:
    UserError: no metadata, or videos without a split.
  """
  dataset = options.dataset or 'DFDC'
  tables = sorted(
    path for name in _METADATA for path in root.rglob(name) if not _is_hidden(path, root)
  )
  if not tables:
    raise UserError(f'{root}: no {", ".join(_METADATA)} in it, as DFDC has them')
  videos: dict[str, RawVideo] = {}
  unnamed: list[str] = []
  named: set[str] = set()
  for folder in sorted({path.parent for path in tables}):
    rows: dict[str, Mapping[str, Any]] = {}
    for path in tables:
      if path.parent == folder:
        rows |= _rows(path)
    named |= rows.keys()
    top = folder.relative_to(root).as_posix()
    for item in base.find(root, top, options):
      row = rows.get(item.stem)
      if row is None:
        unnamed.append(item.path)
        continue
      label = _label(row, item.path)
      original = str(row.get('original') or '').removesuffix('.mp4')
      split = _split(item.path, row)
      videos[item.path] = item.video(
        dataset,
        split or base.need_split(options.split, item.path, 'nothing says which split it is'),
        label,
        'fake',
        name=item.stem,
        source=video_id(dataset, 'real', original) if label == FAKE and original else '',
      )
  # A folder's metadata may also lie further up, with those of other folders.
  if unnamed := sorted(set(unnamed) - videos.keys()):
    _logger.warning('%d videos stand in no metadata: %s, ...', len(unnamed), unnamed[0])
  there = {pathlib.PurePosixPath(path).stem for path in videos}
  base.warn_missing(_logger, 'its metadata', sorted(named - there), len(named))
  if not videos:
    raise UserError(f'{root}: none of the videos that its metadata name is there')
  return list(videos.values())


def dfdc_preview(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`original_videos`, `method_A`, `method_B`, and the dataset.json that lists them.

  Raises:
    UserError: no dataset.json, or it lists none of the videos.
  """
  dataset = options.dataset or 'DFDCP'
  path = root / 'dataset.json'
  listed = {
    str(pathlib.PurePosixPath(base.inside(name, path)).with_suffix('')): row
    for name, row in _json_rows(path).items()
  }
  videos = []
  for top in base.subfolders(root, '.'):
    for item in base.find(root, top, options):
      row = listed.get(f'{top}/{item.name}')
      if row is None:
        continue
      label = _label(row, item.path)
      split = str(row.get('set') or row.get('split') or '')
      people = [str(row.get(key) or '') for key in ('target_id', 'swapped_id')]
      if split not in SPLITS:
        split = base.need_split(options.split, item.path, f'{path} does not say its set')
      videos.append(
        item.video(
          dataset,
          split,
          label,
          top,
          source=_preview_source(dataset, item.name, listed) if label == FAKE else '',
          identities=tuple(dict.fromkeys(filter(None, people))),
        )
      )
  there = {str(pathlib.PurePosixPath(video.path).with_suffix('')) for video in videos}
  base.warn_missing(_logger, path.name, sorted(listed.keys() - there), len(listed))
  if not videos:
    raise UserError(f'{path}: names none of the videos in {root}')
  return videos


def _preview_source(dataset: str, name: str, listed: Mapping[str, Any]) -> str:
  """`1260311/1260311_C/1255229_1260311_C_001` was made of `original_videos/1260311/1260311_C`."""
  match = _PREVIEW_FAKE.fullmatch(name.rpartition('/')[2])
  if not match:
    return ''
  person, scene = match['person'], match['scene']
  originals = sorted(key for key in listed if key.startswith(f'original_videos/{person}/'))
  stems = {key: key.rpartition('/')[2] for key in originals}
  exact = [key for key, stem in stems.items() if stem == f'{person}_{scene}']
  same = [key for key, stem in stems.items() if (m := _PREVIEW.fullmatch(stem)) and m[2] == scene]
  # Where the scene was cut into several clips, nothing tells which of them it was.
  found = exact or (same if len(same) == 1 else [])
  return video_id(dataset, 'real', found[0].partition('/')[2]) if found else ''


def _rows(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """Rows by the video's name without suffix."""
  if path.suffix == '.json':
    rows = _json_rows(path)
  else:
    try:
      table = list(csv.DictReader(io.StringIO(base.read_list(path), newline='')))
    except csv.Error as error:
      raise UserError(f'{path}: not a CSV file: {error}') from error
    keys = [key for key in ('filename', 'videoname', 'video') if table and key in table[0]]
    if table and not keys:
      raise UserError(f'{path}: no column filename or videoname')
    rows = {row[keys[0]]: row for row in table}
  return {pathlib.PurePosixPath(base.inside(name, path)).stem: row for name, row in rows.items()}


def _json_rows(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  rows = base.read_json(path)
  if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
    raise UserError(f'{path}: not an object with one object per video')
  return rows


def _label(row: Mapping[str, Any], path: str) -> int:
  value = str(row.get('label', row.get('is_fake', ''))).lower()
  if value not in _LABELS:
    raise UserError(f'{path}: its label is {value!r}, not REAL or FAKE')
  return _LABELS[value]


def _split(path: str, row: Mapping[str, Any]) -> str:
  words = set(re.split(r'[^a-z]+', path.lower().rpartition('/')[0]))
  said = [split for split in SPLITS if split in words or (split == 'val' and 'validation' in words)]
  if len(said) == 1:
    return said[0]
  stated = str(row.get('split') or '').lower()
  return stated if stated in SPLITS else ''


def _is_hidden(path: pathlib.Path, root: pathlib.Path) -> bool:
  return any(part.startswith('.') for part in path.relative_to(root).parts)
