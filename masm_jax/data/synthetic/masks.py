"""Which pixels each forgery of the built-in set changed: exact masks, drawn anew from the seed."""

import pathlib
from collections.abc import Collection, Iterator

import numpy as np

from masm_jax import files, plain_files
from masm_jax.data.synthetic.dataset import MARKER_NAME, plan_videos
from masm_jax.data.synthetic.videos import forged_areas
from masm_jax.errors import UserError

_MOST = 2**20
_NUMBERS = ('seed', 'size_px', 'num_identities', 'videos_per_identity', 'frames_per_video')


def has_masks(root: pathlib.Path) -> bool:
  """Whether a folder holds the built-in set, whose masks are known."""
  return (root / MARKER_NAME).is_file()


def forgery_masks(root: pathlib.Path, paths: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
  """The masks of some fakes of a set that `materialize` drew.

  Args:
    root: folder of the set.
    paths: of the fakes, as in its manifest.

  Yields:
    `(path, bool [S, S])`: where the forgery changed what the camera had captured, before grain and
    JPEG were put on the whole picture.

  Raises:
    UserError: the folder's marker cannot be read.
  """
  try:
    marker = files.parse_object(plain_files.read_bytes(root / MARKER_NAME))
    numbers = {name: int(marker[name]) for name in _NUMBERS}
    strength = float(marker.get('strength', 1.0))  # Older sets do not say.
    if max(numbers.values()) > _MOST:  # What is planned is kept in memory.
      raise ValueError('numbers that nobody drew')
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{root / MARKER_NAME} is no marker of the built-in set') from error
  size_px, frames = numbers.pop('size_px'), numbers.pop('frames_per_video')
  wanted = {path.rpartition('/')[0] for path in paths}
  for plan in plan_videos(**numbers):
    forgeries = [two for two in plan.forgeries if plan.video_id(*two) in wanted]
    if forgeries:
      for path, mask in forged_areas(plan, forgeries, numbers['seed'], size_px, frames, strength):
        if path in paths:
          yield path, mask
