"""FaceForensics++ with DeepFakeDetection (DFD), and DeeperForensics, made of its videos."""

import pathlib
from collections.abc import Mapping

from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers import names
from masm_jax.errors import UserError
from masm_jax.preprocess.layouts import base
from masm_jax.preprocess.layouts.base import Found, Options
from masm_jax.preprocess.raw_video import RawVideo, video_id

COMPRESSIONS = ('raw', 'c23', 'c40')
METHODS: Mapping[str, str] = {  # Folder -> what the manifest calls it.
  'Deepfakes': 'DF',
  'Face2Face': 'F2F',
  'FaceSwap': 'FS',
  'NeuralTextures': 'NT',
  'FaceShifter': 'FSh',
}
DATASET, DFD = 'FaceForensics++', 'DeepFakeDetection'
_LISTS = 'https://github.com/ondyari/FaceForensics/tree/master/dataset/splits'
_ORIGINALS = 'original_sequences/youtube'


def faceforensics(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`original_sequences/{youtube,actors}`, `manipulated_sequences/METHOD`, each with raw, c23, c40.

  The official lists train.json, val.json and test.json (pairs of numbers) lie in the data set's
  folder, in its `splits`, or where --lists says. They place the YouTube videos and what was made of
  them; DeepFakeDetection has no official split.

  Raises:
    UserError: not this layout, or videos without a split.
  """
  videos = _dfd(root, options, options.dataset or DFD)
  groups = [(_ORIGINALS, REAL, 'real')]
  for folder in base.subfolders(root, 'manipulated_sequences'):
    if folder != DFD:
      groups.append((f'manipulated_sequences/{folder}', FAKE, METHODS.get(folder, folder)))
  found = [
    (item, group, label, method, compression)
    for group, label, method in groups
    for item, compression in _compressions(root, group, options)
  ]
  if not found and not videos:
    raise UserError(
      f'{root}: no videos in {_ORIGINALS}/{{{",".join(COMPRESSIONS)}}} or '
      f'manipulated_sequences/METHOD/{{{",".join(COMPRESSIONS)}}}, as FaceForensics++ has them'
    )
  splits = pair_splits(options.lists or root) if found else {}
  dataset = options.dataset or DATASET
  for item, group, label, method, compression in found:
    split = splits.get(item.stem) or base.need_split(
      options.split,
      item.path,
      'the official split lists do not name it'
      if splits
      else f'there is no train.json, val.json, test.json in {options.lists or root} (--lists); '
      f'they are at {_LISTS}',
    )
    target = names.target_video(item.stem) if label == FAKE else ''
    videos.append(
      item.video(
        dataset,
        split,
        label,
        method,
        compression=compression,
        source=video_id(dataset, 'real', target, compression) if target else '',
        identities=tuple(names.identities(item.stem)),
        mask=_mask(root, group, item.name, options) if label == FAKE else '',
      )
    )
  return videos


def dfd(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """DeepFakeDetection alone: in FaceForensics++'s folders, or as two folders `DFD_*` of videos.

  Raises:
    UserError: not this layout, or no --split: there is no official one.
  """
  videos = _dfd(root, options, options.dataset or DFD)
  if not videos:
    raise UserError(
      f'{root}: no videos in original_sequences/actors and manipulated_sequences/{DFD}, nor in '
      'DFD_original* and DFD_manipulated*'
    )
  return videos


def deeperforensics(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`manipulated_videos/VARIANT/TARGET_ACTOR.mp4`, `lists/splits/{train,val,test}.txt`.

  Its real videos are the YouTube originals of FaceForensics++ in c23, found where they lie below
  the same folder as `original_sequences/youtube`. Its `source_videos` lent the faces; by its own
  documentation they are not the real part, and they are left out.

  Raises:
    UserError: not this layout, or videos without a split.
  """
  dataset = options.dataset or 'DeeperForensics-1.0'
  splits = _name_lists(options.lists or root / 'lists' / 'splits')
  targets = {name.split('_')[0]: split for name, split in splits.items()}
  originals = [pair for pair in _compressions(root, _ORIGINALS, options) if pair[1] == 'c23']
  videos = []

  def add(item: Found, split: str | None, label: int, method: str, source: str) -> None:
    why = 'lists/splits does not name it' if splits else f'no list in {root}/lists/splits (--lists)'
    split = split or base.need_split(options.split, item.path, why)
    people = tuple(item.stem.split('_'))
    videos.append(
      item.video(dataset, split, label, method, name=item.stem, source=source, identities=people)
    )

  own = {item.stem for item, _ in originals}
  for variant in base.subfolders(root, 'manipulated_videos'):
    for item in base.find(root, f'manipulated_videos/{variant}', options):
      target = item.stem.split('_')[0]
      source = video_id(dataset, 'real', target)
      if target not in own:
        source = video_id(DATASET, 'real', target, 'c23')
      add(item, splits.get(item.stem), FAKE, variant, source)
  if not videos:
    raise UserError(f'{root}: no videos in manipulated_videos/VARIANT, as DeeperForensics has them')
  for item, _ in originals:
    if item.stem in targets or options.split:  # The others are nobody's target.
      add(item, targets.get(item.stem), REAL, 'real', '')
  return videos


def pair_splits(folder: pathlib.Path) -> dict[str, str]:
  """Split by video name, from the official lists of pairs: '000', '000_003' and '003_000'.

  Raises:
    UserError: a list that is not one of pairs.
  """
  splits: dict[str, str] = {}
  for split in SPLITS:
    paths = [folder / f'{split}.json', folder / 'splits' / f'{split}.json']
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
      continue
    try:
      pairs = [(str(a), str(b)) for a, b in base.read_json(path)]
    except (ValueError, TypeError) as error:
      raise UserError(f'{path}: not a list of pairs of video numbers') from error
    for a, b in pairs:
      splits |= dict.fromkeys((a, b, f'{a}_{b}', f'{b}_{a}'), split)
  return splits


def _dfd(root: pathlib.Path, options: Options, dataset: str) -> list[RawVideo]:
  videos = []
  for label, method, groups in (
    (REAL, 'real', ('original_sequences/actors', 'DFD_original*')),
    (FAKE, 'DFD', (f'manipulated_sequences/{DFD}', 'DFD_manipulated*')),
  ):
    tops = [path.relative_to(root).as_posix() for path in sorted(root.glob(groups[1]))]
    found = [(*pair, groups[0]) for pair in _compressions(root, groups[0], options)]
    found += [(item, '', top) for top in tops for item in base.find(root, top, options)]
    for item, compression, group in found:
      who, _, scene = item.stem.partition('__')
      people = tuple(who.split('_'))
      # Fake `01_02__talking__YVGY8LOK`: actor 01's video of that scene with the face of 02.
      original = f'{people[0]}__{scene.rpartition("__")[0]}' if label == FAKE and scene else ''
      split = base.need_split(options.split, item.path, 'DeepFakeDetection has no official split')
      videos.append(
        item.video(
          dataset,
          split,
          label,
          method,
          name=item.stem,
          compression=compression,
          source=video_id(dataset, 'real', original, compression) if original else '',
          identities=people if all(part.isdigit() for part in people) else (),
          mask=_mask(root, group, item.name, options) if label == FAKE else '',
        )
      )
  return videos


def _compressions(root: pathlib.Path, group: str, options: Options) -> list[tuple[Found, str]]:
  return [
    (item, compression)
    for compression in options.compressions or COMPRESSIONS
    for item in base.find(root, f'{group}/{compression}', options)
  ]


def _mask(root: pathlib.Path, group: str, name: str, options: Options) -> str:
  """One mask serves all compressions."""
  folder = f'{group}/masks'
  for candidate in (f'{folder}/videos/{name}.mp4', f'{folder}/images/{name}', f'{folder}/{name}'):
    if ((options.masks or root) / candidate).exists():
      return candidate
  return ''


def _name_lists(folder: pathlib.Path) -> dict[str, str]:
  paths = {split: folder / f'{split}.txt' for split in SPLITS}
  return {
    pathlib.PurePosixPath(base.inside(line.strip(), path)).stem: split
    for split, path in paths.items()
    if path.is_file()
    for line in base.read_list(path).splitlines()
    if line.strip()
  }
