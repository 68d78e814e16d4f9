"""DFDC's metadata: JSON or CSV tables of videos with REAL or FAKE and the original of each fake."""

import csv
import io
import logging
import os
import pathlib
import posixpath
from collections.abc import Sequence
from typing import Any

from masm_jax import files
from masm_jax.data import storage
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError

_CLASSES = {'REAL': REAL, 'FAKE': FAKE, '0': REAL, '1': FAKE}
_NAME_COLUMNS = ('videoname', 'filename')

_logger = logging.getLogger(__name__)


def import_dfdc(
  files: Sequence[str | os.PathLike],
  root: str | os.PathLike,
  *,
  split: str | None = None,
  dataset: str = 'DFDC',
) -> Manifest:
  """Makes a manifest of face crops from DFDC's `metadata.json` or `.csv`.

  JSON: `{"aagfh.mp4": {"label": "FAKE", "split": "train", "original": "vudst.mp4"}}`; CSV:
  columns `videoname` (or `filename`), `label`, `original`. The crops of a video are the images in
  the one folder below `root` that has its name without `.mp4`. A video that has no such folder
  (nobody's face was found in it) is left out, and counted. DFDC names no people: identities stay
  empty, and what ties a fake to others is the video that it was made from.

  Args:
    files: the metadata, one file or more.
    root: the folder that the crops lie below.
    split: the split of all videos; needed where the metadata do not say.
    dataset: the data set's name.

  Raises:
    UserError: metadata that cannot be read, no crops at all, or as `build_manifest`.
  """
  root = storage.as_root(root)
  if not storage.is_folder(root):
    raise UserError(f'no folder {root}')
  folders = _image_folders(root)
  rows, without = [], []
  for file in files:
    for number, (video, facts) in enumerate(_read(file), 1):
      place = f'{file}: entry {number} ({video})'
      label = _CLASSES.get(str(facts.get('label', '')).upper())
      if label is None:
        raise UserError(f'{place}: label {facts.get("label")!r} is neither REAL nor FAKE')
      video_split = split or facts.get('split')
      if video_split not in SPLITS:
        raise UserError(f'{place}: no split in the metadata; add --split {"|".join(SPLITS)}')
      stem, original = _stem(video), _stem(str(facts.get('original') or ''))
      found = folders.get(stem, [])
      if len(found) > 1:
        raise UserError(f'{place}: two folders have its name, {found[0][0]} and {found[1][0]}')
      if not found:
        without.append(video)
        continue
      source = stem if label == REAL else original
      method = 'real' if label == REAL else 'fake'
      folder, images = found[0]
      for name in images:
        rows.append(
          {
            'path': posixpath.join(folder, name),
            'label': label,
            'dataset': dataset,
            'split': video_split,
            'method': method,
            'video_id': f'{dataset}/{method}/{stem}',
            'source_video_id': f'{dataset}/real/{source}' if source else '',
            'frame': names.frame_number(_stem(name)),
          }
        )
  if not rows:
    raise UserError(
      f'none of the {len(without)} videos has a folder of crops below {root}, such as '
      f'{_stem(without[0]) if without else "VIDEO"}/000.png; make crops of the videos first with '
      '`python -m masm_jax.preprocess --layout dfdc`'
    )
  if without:
    _logger.warning('left out %d videos without crops, first %s', len(without), without[0])
  return build_manifest(rows, root)


def _read(file: str | os.PathLike) -> list[tuple[str, dict[str, Any]]]:
  """(video, its facts), in the file's order."""
  try:
    text = storage.read_bytes(file).decode('utf-8-sig')
    if storage.suffix(file) == '.json':
      content = files.parse_json(text)
      if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f'{file}: metadata are an object of videos, each with a label')
      return list(content.items())
    table = csv.DictReader(io.StringIO(text, newline=''), strict=True)
    lines = list(table)
  except OSError as error:
    raise UserError(f'cannot read {file}: {error.strerror or error}') from error
  except (ValueError, csv.Error) as error:
    raise UserError(f'{file}: neither JSON nor CSV in UTF-8: {error}') from error
  column = next((name for name in _NAME_COLUMNS if name in (table.fieldnames or [])), None)
  if column is None or 'label' not in table.fieldnames:
    found = ', '.join(table.fieldnames or ['none'])
    raise UserError(f'{file}: needs the columns videoname and label, and has {found}')
  return [(line[column] or '', line) for line in lines]


def _stem(video: str) -> str:
  return pathlib.PurePosixPath(video.replace('\\', '/')).stem


def _image_folders(root: storage.Path) -> dict[str, list[tuple[str, list[str]]]]:
  """Folders that hold images, by name: their paths from the root, and the images in each."""
  found: dict[str, list[tuple[str, list[str]]]] = {}
  for below, there in storage.walk(root):
    images = [name for name in there if names.is_image(name)]
    if below and images:
      found.setdefault(posixpath.basename(below), []).append((below, images))
  return found
