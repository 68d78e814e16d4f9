"""GenD's lists: text files with one crop per line, `.../<dataset>/<source>/<video>/<frame>.png`.

The layout and the rule for labels are those of github.com/yermandy/GenD.
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from masm_jax.data import storage
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError

_DEPTH = 4  # dataset, source, video, frame.


def split_of_list(path: str | os.PathLike) -> str:
  """The split that a list's file name speaks of: `FF_train.txt` -> 'train'.

  Raises:
    UserError: if it speaks of none, or of several.
  """
  words = set(re.split(r'[^a-z]+', pathlib.Path(path).stem.lower()))
  words |= {'val'} if words & {'valid', 'validation'} else set()
  found = [split for split in SPLITS if split in words]
  if len(found) != 1:
    raise UserError(f'{path}: its name does not say which split it is; add --split')
  return found[0]


def import_gend_lists(
  lists: Mapping[str, Sequence[str | os.PathLike]], root: str | os.PathLike
) -> Manifest:
  """Makes a manifest from GenD lists.

  A crop is real if 'real' stands in the third-from-last part of its path, in whatever case:
  `FF/real/000/012.png`, `CDFv2/Celeb-real/id0_0000/015.png`. The method of a fake is that part.
  `video_id` is dataset/source/video. Identities and the source video come from the video's name,
  as FaceForensics++ and Celeb-DF form it; other names leave them empty. A source video is looked up
  among the real ones of the same data set in these lists; otherwise it is named as it would stand
  in the source folder `real` (or `Celeb-real`).

  Args:
    lists: for each split, its text files. Empty lines and lines that start with # are skipped.
    root: the folder that relative lines start from, and below which absolute ones must lie.

  Raises:
    UserError: if a list cannot be read, a line has too few parts, or as `build_manifest`.
  """
  root = storage.as_root(root)
  rows = [
    _row(line, split, root, f'{path}:{number}')
    for split, paths in lists.items()
    for path in paths
    for number, line in _lines(path)
  ]
  if not rows:
    raise UserError(f'no image in {", ".join(str(p) for paths in lists.values() for p in paths)}')
  reals = {
    (row['dataset'], row['video_id'].rpartition('/')[2]): row['video_id']
    for row in rows
    if row['label'] == REAL
  }
  for row in rows:
    video = row['video_id'].rpartition('/')[2]
    target = names.target_video(video) if row['label'] == FAKE else ''
    if target:
      usual = 'Celeb-real' if target.startswith('id') else 'real'
      row['source_video_id'] = reals.get(
        (row['dataset'], target), f'{row["dataset"]}/{usual}/{target}'
      )
  return build_manifest(rows, root)


def _lines(path: str | os.PathLike) -> list[tuple[int, str]]:
  try:
    text = storage.read_bytes(path).decode('utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    reason = 'not UTF-8 text'
    if isinstance(error, OSError):
      reason = error.strerror or str(error)
    raise UserError(f'cannot read the list {path}: {reason}') from error
  numbered = enumerate((line.strip() for line in text.splitlines()), 1)
  return [(number, line) for number, line in numbered if line and not line.startswith('#')]


def _row(line: str, split: str, root: storage.Path, place: str) -> dict[str, Any]:
  line = line.replace('\\', '/')
  # Parts above the root count too: with the root at `FF`, lines begin at `real/000/...`.
  absolute = storage.absolute(line if storage.is_remote(line) else storage.join(root, line))
  path = storage.relative(absolute, root)
  if path.split('/')[0] == '..':
    raise UserError(f'{place}: {line} leaves the root {root}; choose another with --root')
  parts = absolute.rpartition('://')[2].strip('/').split('/')
  if len(parts) < _DEPTH:
    raise UserError(f'{place}: {line} is not .../dataset/source/video/frame')
  dataset, source, video, name = parts[-_DEPTH:]
  is_real = 'real' in source.lower()
  return {
    'path': path,
    'label': REAL if is_real else FAKE,
    'dataset': dataset,
    'split': split,
    'method': 'real' if is_real else source,
    'video_id': f'{dataset}/{source}/{video}',
    'frame': names.frame_number(pathlib.PurePosixPath(name).stem),
    'identities': ';'.join(names.identities(video)),
  }
