"""Layouts that say by folders what is real: plain ones, UADFV, WildDeepfake, FFIW."""

import pathlib
import re

from masm_jax.data.columns import FAKE, REAL, SPLITS, UNLABELLED
from masm_jax.data.importers.folder import label_folders
from masm_jax.errors import UserError
from masm_jax.preprocess.layouts import base
from masm_jax.preprocess.layouts.base import Options
from masm_jax.preprocess.raw_video import RawVideo, video_id


def folder(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`{real,fake}/...` or `{train,val,test}/{real,fake}/...`; with --label anything at all.

  A folder between `fake` and the video is the method: `fake/DF/000_003.mp4`. What is unlabelled
  needs no split.

  Raises:
    UserError: neither layout, or no split, or two of them.
  """
  dataset = options.dataset or pathlib.Path(root).resolve().name
  if options.label is None:
    tops = _labelled(root, options.split)
  elif options.label == UNLABELLED:
    tops = [(options.split, UNLABELLED, '.')]
  else:
    tops = [
      (base.need_split(options.split, str(root), '--label names no split'), options.label, '.')
    ]
  videos = []
  for split, label, top in tops:
    for item in [base.single(options.only)] if options.only else base.find(root, top, options):
      method, _, rest = item.name.partition('/')
      has_method = label == FAKE and bool(rest)
      name = rest if has_method else item.name
      videos.append(
        item.video(
          dataset,
          split,
          label,
          method if has_method else 'fake',
          name=f'{split}/{name}' if split and not options.split else name,
          mask=_mirrored_mask(item, options),
        )
      )
  if not videos:
    skipped = base.skipped_text(options.skipped, '; ')
    raise UserError(f'{root}: no video and no image in it{skipped}')
  return videos


def _labelled(root: pathlib.Path, split: str) -> list[tuple[str, int, str]]:
  try:
    return label_folders(root, split or None)
  except UserError as error:
    if 'needs either' not in str(error):
      raise
    raise UserError(f'{error}; for data without labels, add --label unknown') from error


def uadfv(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`real/0000.mp4` and `fake/0000_fake.mp4`; there is no official split.

  Raises:
    UserError: not this layout, or no --split.
  """
  dataset = options.dataset or 'UADFV'
  videos = []
  for top, label in (('real', REAL), ('fake', FAKE)):
    for there in base.folders(root, top):
      for item in base.find(root, there, options):
        split = base.need_split(options.split, item.path, 'UADFV has no official split')
        number = item.stem.removesuffix('_fake')
        source = video_id(dataset, 'real', number) if label == FAKE else ''
        mask = _mirrored_mask(item, options)
        videos.append(item.video(dataset, split, label, 'fake', source=source, mask=mask))
  if not videos:
    raise UserError(f'{root}: no videos in real and fake, as UADFV has them')
  return videos


def wilddeepfake(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`{real,fake}_{train,test}/NUMBER/{real,fake}/VIDEO/FRAME.png`, with the archives unpacked.

  Raises:
    UserError: not this layout, or the archives are still packed.
  """
  dataset = options.dataset or 'WildDeepfake'
  videos, packed = [], False
  for top in base.folders(root, 'real_train', 'real_test', 'fake_train', 'fake_test'):
    kind, _, split = pathlib.PurePosixPath(top).name.lower().partition('_')
    label = REAL if kind == 'real' else FAKE
    packed |= any((root / top).glob('*.tar*'))
    for item in base.find(root, top, options):
      videos.append(item.video(dataset, split, label, 'fake', name=f'{split}/{item.name}'))
  if not videos:
    raise UserError(
      f'{root}: '
      + (
        'the archives in it are packed; unpack each where it lies'
        if packed
        else 'no frames in {real,fake}_{train,test}, as WildDeepfake has them'
      )
    )
  return videos


def ffiw(root: pathlib.Path, options: Options) -> list[RawVideo]:
  """`{source,target}/{train,val,test}/VIDEO`, masks in `target_mask/...`; source is real.

  Several people are seen in most videos, and one of them is forged: the masks tell whom. Which real
  video a fake was made from is not in the names.

  Raises:
    UserError: not this layout.
  """
  dataset = options.dataset or 'FFIW'
  videos = []
  for side, label in (('source', REAL), ('target', FAKE)):
    for split in SPLITS:
      for top in base.folders(root, f'{side}/{split}'):
        for item in base.find(root, top, options):
          mask = ''
          if label == FAKE:
            mask = re.sub(r'^target/', 'target_mask/', item.path, flags=re.IGNORECASE)
            mask = mask if ((options.masks or root) / mask).exists() else ''
          name = f'{split}/{item.name}'
          videos.append(item.video(dataset, split, label, 'fake', name=name, mask=mask))
  if not videos:
    raise UserError(
      f'{root}: no videos in {{source,target}}/{{{",".join(SPLITS)}}}, as FFIW has them'
    )
  return videos


def _mirrored_mask(item: base.Found, options: Options) -> str:
  """With --masks, the mask of `a/b.mp4` is what is called `a/b`, whatever its suffix."""
  if options.masks is None:
    return ''
  wanted = options.masks / item.path
  if wanted.is_dir() or wanted.is_file():
    return item.path
  stem = pathlib.PurePosixPath(item.path).stem
  try:
    found = sorted(path for path in wanted.parent.iterdir() if path.stem == stem)
  except OSError:
    return ''
  return found[0].relative_to(options.masks).as_posix() if found else ''
