"""Where the landmarks of an aligned face lie, and the similarity transform that puts them there.

Landmarks are float [5, 2] throughout: x, y in pixels of the eye at the left of the image, the eye
at its right, the nose and the corners of the mouth, left one first.
"""

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Template:
  """Landmarks of an aligned crop.

  Attributes:
    points: fractions of the crop's width and height.
    margin: the margin that `points` include: how many times larger the crop is than the face's own
      square.
  """

  points: tuple[tuple[float, float], ...]
  margin: float


TEMPLATES: Mapping[str, Template] = {
  # SCLBD/DeepfakeBench, preprocessing: given with its margin of 1.3.
  'deepfakebench': Template(
    ((0.3784, 0.4704), (0.6204, 0.4691), (0.5002, 0.6081), (0.4008, 0.7498), (0.6012, 0.7487)), 1.3
  ),
  # yermandy/GenD: given for the bare face.
  'gend': Template(((0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)), 1.0),
}


def landmark_targets(template: str, size_px: float, margin: float) -> np.ndarray:
  """Where the landmarks lie in a crop of `size_px`, as float [5, 2].

  A template t without margin goes to size * (t + (margin - 1) / 2) / margin, which is the same as
  shrinking it towards the centre by the margin.
  """
  points = np.array(TEMPLATES[template].points)
  return size_px * (0.5 + (points - 0.5) * TEMPLATES[template].margin / margin)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """The least-squares similarity transform of points (rotation, one scale, shift; no mirroring).

  Args:
    source: float [N, 2].
    target: float [N, 2], where `source` should come to lie.

  Returns:
    float [2, 3], as `cv2.warpAffine` takes it.

  Raises:
    ValueError: all source points are the same.
  """
  # With points as complex numbers it is z -> a z + b, for which least squares has a closed form:
  # Umeyama's (1991) in two dimensions.
  z, w = (np.asarray(points, float) @ (1, 1j) for points in (source, target))
  centred = z - z.mean()
  spread = np.vdot(centred, centred).real
  if spread == 0:
    raise ValueError('the points coincide')
  a = np.vdot(centred, w - w.mean()) / spread
  b = w.mean() - a * z.mean()
  return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(
  image: np.ndarray, landmarks: np.ndarray, *, template: str, size_px: int | None, margin: float
) -> np.ndarray:
  """Cuts an upright face out of an image: uint8 [H, W, 3] -> [S, S, 3]; black beyond its borders.

  Bilinear, as both templates' own code does it.

  Args:
    image: uint8 [H, W, 3].
    landmarks: float [5, 2].
    template: a key of `TEMPLATES`.
    size_px: side S; None keeps the face at the scale that it has in the image.
    margin: size of the crop over the size of the face's own square.
  """
  if size_px is None:
    matrix = similarity(landmarks, landmark_targets(template, 1.0, margin))
    size_px = max(round(1 / np.hypot(matrix[0, 0], matrix[1, 0])), 1)
  matrix = similarity(landmarks, landmark_targets(template, size_px, margin))
  return cv2.warpAffine(image, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR)
