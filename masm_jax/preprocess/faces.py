"""Face detectors: where faces are in an image, and their five landmarks."""

import dataclasses
import os
import pathlib
from typing import Protocol

import cv2
import numpy as np

from masm_jax.errors import UserError

# YuNet finds faces of about 10 to 300 pixels. Frames are shrunk to the first of these long sides;
# where it finds none there, the second keeps small faces larger, and the third shrinks huge ones.
_LONG_SIDES_PX = (640, 1280, 320)
_LEAST_SIDE_PX = 16  # No face is that small.

# Landmarks within a Haar box, as fractions of it: medians of what YuNet sees in such boxes, over 59
# frames of FaceForensics++ and DFDC videos, made symmetric. [ours]
_HAAR_LANDMARKS = ((0.32, 0.39), (0.68, 0.39), (0.50, 0.60), (0.34, 0.77), (0.66, 0.77))


@dataclasses.dataclass(frozen=True)
class Look:
  """What a face looks like; made and compared in `looks`.

  Attributes:
    gradients: float [1764], of length 1.
    colours: float [384], of length 1.
  """

  gradients: np.ndarray
  colours: np.ndarray


@dataclasses.dataclass(frozen=True)
class Face:
  """A detected face, in pixels of the image.

  Attributes:
    box: float [4]: left, top, width, height.
    landmarks: float [5, 2]: see `templates`.
    score: the detector's confidence, 0 to 1.
    look: by which its person is known again; None where nobody has looked.
  """

  box: np.ndarray
  landmarks: np.ndarray
  score: float
  look: Look | None = None

  @property
  def area(self) -> float:
    """Of the box, in square pixels."""
    return float(self.box[2] * self.box[3])


class Detector(Protocol):
  """What finds faces."""

  def detect(self, image: np.ndarray) -> list[Face]:
    """Faces in an image, uint8 RGB [H, W, 3], the largest first."""
    ...


class YuNet:
  """YuNet on a few scales of an image; see `yunet`.

  Args:
    model: its ONNX file.
    min_score: least confidence.

  Raises:
    UserError: the file is not such a model.
  """

  def __init__(self, model: str | os.PathLike, *, min_score: float):
    from masm_jax.preprocess import yunet  # It imports onnxruntime.

    try:
      self._network = yunet.Network(model, min_score=min_score)
    except ValueError as error:
      raise UserError(f'{model}: not a YuNet model: {error}') from error

  def detect(self, image: np.ndarray) -> list[Face]:
    """Faces in an image, uint8 RGB [H, W, 3], the largest first."""
    long_side = max(image.shape[:2])
    scales = dict.fromkeys(min(1.0, side / long_side) for side in _LONG_SIDES_PX)
    for scale in scales:
      faces = self._detect(image, scale)
      if faces:
        return faces
    return []

  def _detect(self, image: np.ndarray, scale: float) -> list[Face]:
    if scale < 1:
      image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    if min(height, width) < _LEAST_SIDE_PX:
      return []
    found = self._network(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)).astype(float)
    faces = [
      Face(row[:4] / scale, row[4:14].reshape(5, 2) / scale, float(row[14])) for row in found
    ]
    # A face without any extent cannot be aligned.
    return _largest_first([face for face in faces if face.area > 1 and np.ptp(face.landmarks) > 1])


class Haar:
  """OpenCV's frontal Haar cascade: boxes alone, false alarms, no tilted faces; asked for by name.

  Landmarks are set where they usually lie in such a box, so crops are upright and only roughly
  centred.
  """

  def __init__(self) -> None:
    folder = pathlib.Path(cv2.data.haarcascades)
    self._cascade = cv2.CascadeClassifier(os.fspath(folder / 'haarcascade_frontalface_default.xml'))
    if self._cascade.empty():
      raise UserError('this OpenCV has no Haar cascades: take yunet')

  def detect(self, image: np.ndarray) -> list[Face]:
    """Faces in an image, uint8 RGB [H, W, 3], the largest first; the score is always 1."""
    scale = min(1.0, _LONG_SIDES_PX[0] / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = []
    for found in self._cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5):
      box = np.asarray(found, float) / scale
      faces.append(Face(box, box[:2] + np.array(_HAAR_LANDMARKS) * box[2:], 1.0))
    return _largest_first(faces)


def make_detector(kind: str, *, model: str | os.PathLike | None, min_score: float) -> Detector:
  """The detector of that name: 'yunet' (with its model file) or 'haar'.

  Raises:
    UserError: no such detector, or its file cannot be used.
  """
  if kind == 'haar':
    return Haar()
  if kind == 'yunet' and model is not None:
    return YuNet(model, min_score=min_score)
  raise UserError(f'no detector {kind!r}; there are yunet (with a model file) and haar')


def _largest_first(faces: list[Face]) -> list[Face]:
  return sorted(faces, key=lambda face: (-face.area, *face.box))
