"""Celeb-DF v1, v2 and ++: celebrities' interviews and what was made of them."""

import logging
import pathlib
import re

from masm_jax.data.columns import FAKE, REAL
from masm_jax.data.importers import names
from masm_jax.errors import UserError
from masm_jax.preprocess.layouts import base
from masm_jax.preprocess.layouts.base import Options
from masm_jax.preprocess.raw_video import RawVideo, video_id

_TEST_LIST = 'List_of_testing_videos.txt'
_FOLDERS = (('Celeb-real', REAL), ('YouTube-real', REAL), ('Celeb-synthesis', FAKE))
# Talking faces of Celeb-DF++ are driven by speech: `id0_0000_test_0001` shows id0 alone.
_TALKING = re.compile(r'(?P<target>id\d+)_(?P<number>\d+)_.+')

_logger = logging.getLogger(__name__)


def celebdf_v1(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """Celeb-DF v1; see `_celebdf`."""
  return _celebdf(root, options, 'Celeb-DF-v1')


def celebdf_v2(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """Celeb-DF v2; see `_celebdf`."""
  return _celebdf(root, options, 'Celeb-DF-v2')


def celebdf_pp(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """Celeb-DF++, with `Celeb-synthesis/SCENARIO/METHOD`; see `_celebdf`."""
  return _celebdf(root, options, 'Celeb-DF++')


def _celebdf(root: pathlib.Path, options: Options, dataset: str) -> list[RawVideo]:
  """`Celeb-real`, `YouTube-real`, `Celeb-synthesis`; those on the test list are test, others train.

  Raises:
    UserError: not this layout, or there is no test list and no --split.
  """
  dataset = options.dataset or dataset
  list_path = (options.lists or root) / _TEST_LIST
  listed = _read_test_list(list_path) if list_path.is_file() else None
  videos, seen = [], set()
  for folder, label in _FOLDERS:
    for top in base.folders(root, folder):
      for item in base.find(root, top, options):
        key = f'{folder}/{item.name}'.lower()
        if listed is None:
          why = f'no {_TEST_LIST} in {list_path.parent} (--lists)'
          split = base.need_split(options.split, item.path, why)
        else:
          split = 'test' if key in listed else 'train'
          if listed.get(key, label) != label:
            raise UserError(f'{list_path}: {key} has the other label than its folder')
          seen.add(key)
        videos.append(_video(item, folder, label, split, dataset))
  if not videos:
    raise UserError(
      f'{root}: no videos in {", ".join(name for name, _ in _FOLDERS)}, as Celeb-DF has them'
    )
  if listed is not None and not seen & listed.keys():
    raise UserError(f'{list_path}: names none of the {len(videos)} videos in {root}')
  missing = sorted((listed or {}).keys() - seen)
  base.warn_missing(_logger, str(list_path), missing, len(listed or {}))
  return videos


def _video(item: base.Found, folder: str, label: int, split: str, dataset: str) -> RawVideo:
  people = names.identities(item.stem)
  target = names.target_video(item.stem) if label == FAKE else ''
  if label == FAKE and not people and (match := _TALKING.fullmatch(item.stem)):
    people, target = [match['target']], f'{match["target"]}_{match["number"]}'
  parts = item.name.split('/')
  return item.video(
    dataset,
    split,
    label,
    parts[-2] if len(parts) > 1 else folder,
    name=f'{folder}/{item.name}' if label == REAL else item.stem,
    source=video_id(dataset, 'real', f'Celeb-real/{target}') if target else '',
    identities=tuple(people),
  )


def _read_test_list(path: pathlib.Path) -> dict[str, int]:
  """Label by folder/name, in lower case; a line is `1 YouTube-real/00170.mp4`, where 1 is real."""
  listed = {}
  for number, line in enumerate(base.read_list(path).splitlines(), 1):
    if not line.strip():
      continue
    mark, _, video = line.strip().partition(' ')
    if mark not in ('0', '1') or not video:
      raise UserError(f'{path}:{number}: {line.strip()} is not `LABEL FOLDER/VIDEO`')
    name = pathlib.PurePosixPath(base.inside(video.strip(), path)).with_suffix('')
    key = '/'.join(part for part in name.parts if part != 'videos').lower()
    listed[key] = REAL if mark == '1' else FAKE
  return listed
