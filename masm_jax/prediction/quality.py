"""What a face is like in its frame: its size, its blur, the turn of its head.

Limits are [ours]; a face beyond one is still scored, and the answer says so.
"""

import cv2
import numpy as np

from masm_jax.prediction.answers import Quality

MIN_FACE_PX = 50.0
MAX_BLUR = 0.85
MAX_YAW_DEG = 60.0

_SIDE_PX = 128  # Blur is measured on crops of this side.
# By how much edges weigh: a Laplacian of this variance, relative to the picture's, halves the blur.
_HALF = 0.06
# How far the tip of the nose stands out before the eyes, over the distance of the eyes: about 28 mm
# to 63 mm in adults.
_NOSE = 0.45


def measure(crop: np.ndarray, landmarks: np.ndarray, face_px: float) -> Quality:
  """The quality of a face.

  Args:
    crop: the aligned face, uint8 RGB [S, S, 3].
    landmarks: float [5, 2], pixels of its frame; see `preprocess.templates`.
    face_px: square root of the area of its box.
  """
  return Quality(round(face_px, 1), round(blur(crop), 3), round(yaw_deg(landmarks), 1))


def blur(crop: np.ndarray) -> float:
  """0 for a crop full of edges, towards 1 for one without any.

  The variance of the Laplacian, a common measure of focus (Pech-Pacheco et al. 2000), relative to
  the variance of the picture, so that light and contrast do not matter.

  Args:
    crop: uint8 RGB [S, S, 3].
  """
  grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
  grey = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
  spread = float(grey.var())
  if spread < 1:
    return 1.0
  return 1 / (1 + float(cv2.Laplacian(grey, cv2.CV_32F).var()) / spread / _HALF)


def yaw_deg(landmarks: np.ndarray) -> float:
  """How far a head is turned to a side, degrees within [-90, 90]; positive to the picture's right.

  From where the nose lies between the eyes: only roughly, for noses differ.

  Args:
    landmarks: float [5, 2]: eyes, nose, corners of the mouth.
  """
  left, right, nose = (np.asarray(point, float) for point in landmarks[:3])
  across = right - left
  width = float(np.hypot(*across))
  if width < 1e-6:
    return 90.0
  offset = float((nose - (left + right) / 2) @ across) / width**2
  return float(np.degrees(np.arctan(offset / _NOSE)))
