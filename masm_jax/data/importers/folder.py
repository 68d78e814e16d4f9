"""Plain folders: `root/{real,fake}/...` or `root/<split>/{real,fake}/...`."""

import logging
import posixpath
from collections.abc import Iterable
from typing import Any

from masm_jax.data import storage
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError

_LABELS = {'real': REAL, 'fake': FAKE}
_SPLITS = {name: name for name in SPLITS} | {'valid': 'val', 'validation': 'val'}

_logger = logging.getLogger(__name__)


def import_folder(
  folder: storage.Path,
  *,
  root: storage.Path | None = None,
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
  folder = storage.as_root(folder)
  root = folder if root is None else storage.as_root(root)
  dataset = dataset or posixpath.basename(storage.absolute(folder))
  if not storage.is_folder(folder):
    raise UserError(f'no folder {folder}')
  start = storage.relative(folder, root)
  rows = [
    _row(path, start, top, label, split_name, dataset)
    for split_name, label, top in label_folders(folder, split)
    for path in _images(folder, top)
  ]
  if not rows:
    raise UserError(f'{folder}: no image in its real and fake folders')
  return build_manifest(rows, root)


def label_folders(folder: storage.Path, split: str | None) -> list[tuple[str, int, str]]:
  """The (split, label, path from `folder`) of each `real` and `fake` folder.

  Raises:
    UserError: there are none, or a split is given or missing against the layout.
  """
  inside = storage.folder_names(folder)
  flat = _known(inside, _LABELS)
  divided = _known(inside, _SPLITS)
  if bool(flat) == bool(divided):
    raise UserError(
      f'{folder}: needs either real/ and fake/, or train/, val/, test/ with those inside; it has '
      + (', '.join(sorted(inside | storage.file_names(folder))[:8]) or 'nothing')
    )
  if flat:
    if split is None:
      raise UserError(f'{folder} is not divided into splits; add --split {"|".join(SPLITS)}')
    return [(split, label, path) for label, path in flat]
  if split is not None:
    raise UserError(f'{folder} is divided into splits already; leave --split out')
  return [
    (split_name, label, f'{top}/{name}')
    for split_name, top in divided
    for label, name in _known(storage.folder_names(storage.join(folder, top)), _LABELS)
  ]


def is_undivided(folder: storage.Path) -> bool:
  """Whether `real` and `fake` lie directly in a folder, so that it tells no splits."""
  inside = storage.folder_names(folder)
  return bool(_known(inside, _LABELS)) and not _known(inside, _SPLITS)


def _known(folders: Iterable[str], known: dict[str, Any]) -> list[tuple[Any, str]]:
  return [(known[name.lower()], name) for name in sorted(folders) if name.lower() in known]


def _images(folder: storage.Path, top: str) -> list[str]:
  """Images below `folder/top`, as paths from there."""
  found, left_out = [], 0
  for below, files in storage.walk(storage.join(folder, top)):
    images = [name for name in files if names.is_image(name)]
    found += [posixpath.join(below, name) for name in images]
    left_out += len(files) - len(images)
  if left_out:
    place = storage.join(folder, top)
    _logger.warning('%s: left out %d files that are no images by their name', place, left_out)
  return found


def _row(path: str, start: str, top: str, label: int, split: str, dataset: str) -> dict[str, Any]:
  folders, name = posixpath.split(path)
  method = folders.split('/')[0] if '/' in folders else 'fake'
  video = posixpath.join(top, folders or name)
  return {
    'path': posixpath.normpath(posixpath.join(start, top, path)),
    'label': label,
    'dataset': dataset,
    'split': split,
    'method': 'real' if label == REAL else method,
    'video_id': f'{dataset}/{video}',
    'frame': names.frame_number(posixpath.splitext(name)[0]) if folders else 0,
  }
