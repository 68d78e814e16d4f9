"""Plain folders: `root/{real,fake}/...` or `root/<split>/{real,fake}/...`."""

import logging
import os
import pathlib
from typing import Any

from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError

_LABELS = {'real': REAL, 'fake': FAKE}
_SPLITS = {name: name for name in SPLITS} | {'valid': 'val', 'validation': 'val'}

_logger = logging.getLogger(__name__)


def import_folder(
  folder: str | os.PathLike,
  *,
  root: str | os.PathLike | None = None,
  split: str | None = None,
  dataset: str | None = None,
) -> Manifest:
  """Makes a manifest of all images below a folder.

  The names of the label and split folders may be in any case. A video is the folder that an image
  lies in, or the image itself where it lies directly in `real` or `fake`; `video_id` is the data
  set's name and that path. With a folder between label and video (`fake/DF/000_003/012.png`), the
  fakes' method is the first one; otherwise it is `fake`. Hidden files and files that are no images
  by their suffix are left out. Identities and source videos stay empty: a folder does not tell.

  Args:
    folder: the folder to read.
    root: where the manifest's paths start; default: `folder`.
    split: the split of all images, where the folder is not divided into train, val and test.
    dataset: the data set's name; default: the folder's.

  Raises:
    UserError: if the folder has neither layout, a split is given or missing against it, or as
      `build_manifest`.
  """
  folder = pathlib.Path(folder)
  root = folder if root is None else pathlib.Path(root)
  dataset = dataset or pathlib.Path(os.path.abspath(folder)).name
  if not folder.is_dir():
    raise UserError(f'no folder {folder}')
  rows = []
  for split_name, label, top in label_folders(folder, split):
    for path in _images(top):
      rows.append(_row(path, folder, root, top, label, split_name, dataset))
  if not rows:
    raise UserError(f'{folder}: no image in its real and fake folders')
  return build_manifest(rows, root)


def label_folders(folder: pathlib.Path, split: str | None) -> list[tuple[str, int, pathlib.Path]]:
  """The (split, label, folder) of each `real` and `fake` folder.

  Raises:
    UserError: there are none, or a split is given or missing against the layout.
  """
  flat = _children(folder, _LABELS)
  divided = _children(folder, _SPLITS)
  if bool(flat) == bool(divided):
    raise UserError(
      f'{folder}: needs either real/ and fake/, or train/, val/, test/ with those inside; it has '
      + (', '.join(sorted(entry.name for entry in folder.iterdir())[:8]) or 'nothing')
    )
  if flat:
    if split is None:
      raise UserError(f'{folder} is not divided into splits; add --split {"|".join(SPLITS)}')
    return [(split, label, path) for label, path in flat]
  if split is not None:
    raise UserError(f'{folder} is divided into splits already; leave --split out')
  return [(name, label, path) for name, top in divided for label, path in _children(top, _LABELS)]


def _children(folder: pathlib.Path, known: dict[str, Any]) -> list[tuple[Any, pathlib.Path]]:
  entries = sorted(folder.iterdir())
  return [(known[e.name.lower()], e) for e in entries if e.is_dir() and e.name.lower() in known]


def _images(top: pathlib.Path) -> list[pathlib.Path]:
  """Images below a folder, following links but never in circles."""
  found, left_out, seen = [], 0, set()
  for folder, subfolders, files in os.walk(top, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:
      subfolders.clear()
      continue
    seen.add(real)
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    for name in sorted(files):
      is_image = names.is_image(name)
      found += [pathlib.Path(folder, name)] if is_image else []
      left_out += not is_image
  if left_out:
    _logger.warning('%s: left out %d files that are no images by their name', top, left_out)
  return found


def _row(
  path: pathlib.Path,
  folder: pathlib.Path,
  root: pathlib.Path,
  top: pathlib.Path,
  label: int,
  split: str,
  dataset: str,
) -> dict[str, Any]:
  below = path.relative_to(top).parts
  video = path if len(below) == 1 else path.parent
  method = below[0] if len(below) > 2 else 'fake'
  return {
    'path': pathlib.PurePath(os.path.relpath(path, root)).as_posix(),
    'label': label,
    'dataset': dataset,
    'split': split,
    'method': 'real' if label == REAL else method,
    'video_id': f'{dataset}/{video.relative_to(folder).as_posix()}',
    'frame': 0 if len(below) == 1 else names.frame_number(path.stem),
  }
