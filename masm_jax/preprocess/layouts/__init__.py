"""How data sets lie on disk: for each layout, which videos there are and what is known of them."""

import collections
import pathlib
from collections.abc import Mapping

from masm_jax.errors import UserError
from masm_jax.preprocess.layouts import celebdf, dfdc, faceforensics, folders
from masm_jax.preprocess.layouts.base import Layout, Options
from masm_jax.preprocess.raw_video import RawVideo

LAYOUTS: Mapping[str, Layout] = {
  'ffpp': faceforensics.faceforensics,
  'dfd': faceforensics.dfd,
  'deeperforensics': faceforensics.deeperforensics,
  'celebdf_v1': celebdf.celebdf_v1,
  'celebdf_v2': celebdf.celebdf_v2,
  'celebdf_pp': celebdf.celebdf_pp,
  'dfdc': dfdc.dfdc,
  'dfdcp': dfdc.dfdc_preview,
  'uadfv': folders.uadfv,
  'wilddeepfake': folders.wilddeepfake,
  'ffiw': folders.ffiw,
  'folder': folders.folder,
}


def list_videos(root: pathlib.Path, layout: str, options: Options) -> list[RawVideo]:
  """The videos of a data set, sorted by `video_id`.

  Raises:
    UserError: no such folder or layout, what the layout itself refuses, or two videos with one id.
  """
  if layout not in LAYOUTS:
    raise UserError(f'no layout {layout!r}; there are {", ".join(LAYOUTS)}')
  if not root.is_dir():
    raise UserError(f'no folder {root}')
  if options.only and layout != 'folder':
    raise UserError(f'{root / options.only} is one file: use --layout folder')
  for folder in (options.lists, options.masks):
    if folder is not None and not folder.is_dir():
      raise UserError(f'no folder {folder}')
  videos = sorted(LAYOUTS[layout](root, options), key=lambda video: video.video_id)
  counts = collections.Counter(video.video_id for video in videos)
  for name, count in counts.items():
    if count > 1:
      paths = [video.path for video in videos if video.video_id == name]
      raise UserError(f'{root}: {paths[0]} and {paths[1]} would both be {name}; rename one')
  return videos
