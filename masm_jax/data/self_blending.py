"""Self-blended images: a fake made of one real face, so that real faces are enough to train on.

A copy of the face, of slightly other colours or sharpness and slightly moved, is blended into the
original through a soft mask of the face. What gives most forgeries away, the border and the change
of statistics across it, is there; no one forger's traces are (Shiohara and Yamasaki 2022).
"""

import cv2
import numpy as np

from masm_jax.data import presets

_HULL_POINTS = 20  # Fewer landmarks (eyes, nose, mouth) do not outline a face.
_WITHOUT_FOREHEAD = 68  # Of 81 landmarks, the last 13 are the forehead's.
_NATIVE_PX = 256


def self_blended(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  is_fake: bool,
  landmarks: np.ndarray | None = None,
  options: presets.SelfBlending = presets.SELF_BLENDING,
) -> np.ndarray:
  """A self-blended fake of a real face, or the real face that belongs beside it.

  Both come from the same generator state: the original of a fake is what its face was pasted into,
  and both are then augmented alike, so that nothing but the blending tells them apart.

  Args:
    image: uint8 RGB [H, W, 3] of a real face; not modified.
    rng: the pair's own generator; two calls with the same state give a pair.
    is_fake: which of the two is wanted.
    landmarks: the face's landmarks in pixels, float [L, 2]; fewer than 20 are not used.
    options: the parameters.

  Returns:
    uint8 RGB [H, W, 3].
  """
  choices, blending, shared = rng.spawn(3)
  source = target = image
  changes_source = choices.random() < 0.5
  if is_fake or not changes_source:
    changed = image
    for operation in options.statistics:
      changed = operation(changed, choices)
    source, target = (changed, image) if changes_source else (image, changed)
  if is_fake:
    target = _blend(source, target, blending, landmarks, options)
  for operation in presets.PRESETS[presets.SBI]:
    target = operation(target, shared)
  return target


def _blend(
  source: np.ndarray,
  target: np.ndarray,
  rng: np.random.Generator,
  landmarks: np.ndarray | None,
  options: presets.SelfBlending,
) -> np.ndarray:
  height, width = target.shape[:2]
  mask = face_mask(height, width, rng, landmarks, options)
  matrix = options.placement.matrix(height, width, rng)
  source, mask = (
    cv2.warpAffine(moved, matrix, (width, height), flags=cv2.INTER_LINEAR)
    for moved in (source, mask)
  )
  mask = soften(_warp(mask, rng, options), rng, options)
  mask *= options.ratios[rng.integers(len(options.ratios))]
  blended = target + mask[..., None] * (source.astype(np.float32) - target)
  return np.rint(blended).astype(np.uint8)


def face_mask(
  height: int,
  width: int,
  rng: np.random.Generator,
  landmarks: np.ndarray | None,
  options: presets.SelfBlending,
) -> np.ndarray:
  """The face's area, float32 [H, W] of 0 and 1: the landmarks' convex hull, or an ellipse."""
  no_forehead = rng.random() < options.no_forehead_probability
  numbers = options.ellipse + options.jitter * rng.uniform(-1, 1, 4)
  mask = np.zeros((height, width), np.float32)
  if landmarks is not None and len(landmarks) >= _HULL_POINTS:
    points = landmarks[:_WITHOUT_FOREHEAD] if no_forehead else landmarks
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(points).astype(np.int32)), 1.0)
    return mask
  x, y, half_width, half_height = (numbers * (width, height, width, height)).tolist()
  axes = (max(round(half_width), 1), max(round(half_height), 1))
  cv2.ellipse(mask, (round(x), round(y)), axes, 0, 0, 360, 1.0, cv2.FILLED)
  if no_forehead:  # The brows are a third of the half height above the centre.
    mask[: max(round(y - half_height / 3), 0)] = 0
  return mask


def _warp(mask: np.ndarray, rng: np.random.Generator, options: presets.SelfBlending) -> np.ndarray:
  """Moves the pixels of a mask by smooth noise."""
  height, width = mask.shape
  scale = max(height, width) / _NATIVE_PX
  noise = rng.random((height, width, 2), np.float32) * 2 - 1
  shift = cv2.GaussianBlur(noise, (0, 0), max(options.elastic_sigma_px * scale, 0.1))
  shift *= options.elastic_px * scale
  x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
  return cv2.remap(mask, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR)


def soften(mask: np.ndarray, rng: np.random.Generator, options: presets.SelfBlending) -> np.ndarray:
  """Shrinks a mask and blurs its border, float32 [H, W] -> the same, highest value 1 (or empty)."""
  scale = max(mask.shape) / _NATIVE_PX
  erosion, blur = (
    _odd(rng.uniform(*limits) * scale) for limits in (options.erosion_px, options.blur_px)
  )
  sigma = rng.uniform(*options.blur_sigma_px) * scale
  mask = cv2.erode(mask, np.ones((erosion, erosion), np.uint8))
  mask = cv2.GaussianBlur(mask, (blur, blur), sigma)
  return mask / max(float(mask.max()), 1e-6)


def _odd(length: float) -> int:
  """The odd number nearest to a length, at least 1."""
  return 2 * round(max(length - 1, 0) / 2) + 1


def parse_landmarks(text: str) -> np.ndarray | None:
  """Landmarks of a manifest's `landmarks` column, float64 [L, 2]; None where there are none.

  The text is `x,y;x,y;...`, in pixels of the crop.

  Raises:
    ValueError: it is something else.
  """
  if not text:
    return None
  points = np.array([[float(number) for number in point.split(',')] for point in text.split(';')])
  if points.shape[1:] != (2,) or not np.isfinite(points).all():
    raise ValueError(f'landmarks are written x,y;x,y;..., not {text[:40]!r}')
  return points
