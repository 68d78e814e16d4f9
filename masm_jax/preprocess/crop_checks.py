"""Checks a crop: no face in it, a face too small, upside down, or mostly padding.

Such crops are cut out and flagged, and the loader leaves them out (`data.crop_flags`). Limits are
[ours].
"""

import collections
from collections.abc import Sequence

import cv2
import numpy as np

from masm_jax.data.crop_flags import NO_FACE, PADDING, TOO_SMALL, UPSIDE_DOWN
from masm_jax.preprocess import looks, tracks
from masm_jax.preprocess.faces import Detector, Face
from masm_jax.preprocess.templates import align, landmark_targets, similarity

_WORDS = {
  NO_FACE: 'no face in it',
  TOO_SMALL: 'a face too small',
  UPSIDE_DOWN: 'upside down',
  PADDING: 'mostly padding beyond the border of the picture',
}
MAX_PADDING = 0.5  # Share of a crop.
_GRID = 32  # Points to a side, by which the share is counted.
# A closer look at a kept box: its surroundings, so large that YuNet sees the face best.
_REGION, _REGION_PX = 2.5, 320
# Detection scores of upright crops are higher than those of the same crops turned round, in 87 of
# 88 faces of real videos; five crops of a video decide.
_TURNED, _TURNED_PX, _TURNED_MARGIN = 5, 160, 1.5


def closer_look(detector: Detector, image: np.ndarray, kept: Face) -> Face | None:
  """The face that a box kept from another frame shows in this one; None if it shows none.

  Args:
    detector: looks at the enlarged surroundings of the box.
    image: uint8 RGB [H, W, 3].
    kept: the face of the nearest frame.
  """
  half = _REGION * max(kept.box[2:]) / 2
  centre = kept.box[:2] + kept.box[2:] / 2
  left, top = np.maximum(np.floor(centre - half), 0).astype(int)
  right, bottom = np.maximum(np.ceil(centre + half), 0).astype(int)
  region = image[top:bottom, left:right]
  if not region.size:
    return None
  scale = _REGION_PX / max(region.shape[:2])
  size = [max(round(side * scale), 1) for side in region.shape[1::-1]]
  method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  for found in detector.detect(cv2.resize(region, size, interpolation=method)):
    box = np.concatenate([found.box[:2] / scale + (left, top), found.box[2:] / scale])
    face = Face(box, found.landmarks / scale + (left, top), found.score)
    if tracks.is_close(face, kept):
      face = Face(face.box, face.landmarks, face.score, looks.look_of(image, face))
      if kept.look is None or not looks.unlike(kept.look, face.look):
        return face
  return None


def padding_share(
  shape: Sequence[int], landmarks: np.ndarray, *, template: str, margin: float
) -> float:
  """Share of a crop that lies beyond the borders of its picture, 0 to 1.

  Args:
    shape: of the picture, [H, W, ...].
    landmarks: float [5, 2], by which the crop is aligned.
    template: a key of `templates.TEMPLATES`.
    margin: of the crop.
  """
  to_picture = similarity(landmark_targets(template, 1.0, margin), landmarks)
  places = (np.arange(_GRID) + 0.5) / _GRID
  grid = np.stack([*np.meshgrid(places, places), np.ones((_GRID, _GRID))])
  x, y = np.tensordot(to_picture, grid, 1)
  inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
  return 1 - float(inside.mean())


def turned_excess(detector: Detector, image: np.ndarray, face: Face) -> float:
  """By how much a detector is surer of a face turned round by 180 degrees than of the face itself.

  A detector finds faces that are upside down, too, and takes the chin for the forehead.

  Args:
    detector: scores the crops.
    image: uint8 RGB [H, W, 3].
    face: as it was found.

  Returns:
    -1 to 1; summed over the frames of `sample`, it is positive for somebody upside down.
  """
  crop = align(
    image, face.landmarks, template='deepfakebench', size_px=_TURNED_PX, margin=_TURNED_MARGIN
  )
  return _score(detector, np.ascontiguousarray(crop[::-1, ::-1])) - _score(detector, crop)


def sample(frames: Sequence[int]) -> list[int]:
  """The few frames of a person that tell whether it is upside down: evenly spaced."""
  count = min(len(frames), _TURNED)
  return [frames[i] for i in np.linspace(0, len(frames) - 1, count).astype(int)]


def remarks(flags: Sequence[str]) -> list[str]:
  """One line for each kind of flag: how many of a video's crops have it."""
  counts = collections.Counter(filter(None, flags))
  return [
    f'{count} of {len(flags)} crops are left out: {_WORDS[flag]}'
    for flag, count in counts.most_common()
  ]


def _score(detector: Detector, crop: np.ndarray) -> float:
  return max((face.score for face in detector.detect(crop)), default=0.0)
