"""Forges the face of a captured frame by mechanisms that real manipulations have.

A forger works on what the camera has captured, as in reality: its result then passes through the
same delivery (grain, JPEG) as an untouched frame, so that only the forging sets the two apart.
Strengths are constant over a video: they are drawn from `video_rng`, noise from `frame_rng`.
Every mechanism but `regenerate` leaves all pixels outside the inner face bit-equal.

`strength` scales what each mechanism leaves behind: at 1 the traces are faint, as a good forger's;
above it they are coarser and easier to find. The random draws are the same at every strength.
"""

import dataclasses

import cv2
import numpy as np

from masm_jax.errors import UserError

TRAINING_METHODS = ('swap', 'upsample', 'reenact', 'texture')
HELD_OUT_METHODS = ('checkerboard', 'poisson', 'regenerate')
METHODS = TRAINING_METHODS + HELD_OUT_METHODS
DONOR_METHODS = ('swap', 'poisson')


@dataclasses.dataclass(frozen=True)
class Shot:
  """A captured frame and what the renderer knows about it."""

  image: np.ndarray  # float32 [H, W, 3] sRGB 0..255, after the camera, before delivery
  inner: np.ndarray  # float32 [H, W], 1 inside the inner face
  landmarks: np.ndarray  # float32 [5, 2] x, y: eyes, nose tip, mouth corners


def forge(
  method: str,
  shot: Shot,
  donor: Shot | None,
  video_rng: np.random.Generator,
  frame_rng: np.random.Generator,
  strength: float = 1.0,
) -> np.ndarray:
  """Forges one frame.

  Args:
    method: One of `METHODS`.
    shot: The frame to forge.
    donor: Another identity in the same pose; needed by `DONOR_METHODS`, ignored by the others.
    video_rng: Source of what stays the same over a video; give every frame an equal copy.
    frame_rng: Source of noise.
    strength: Scale of the traces; `poisson` has none that could be scaled.

  Returns:
    float32 [H, W, 3], 0..255.

  Raises:
    UserError: an unknown method, or a donor is missing.
  """
  if method not in METHODS:
    raise UserError(f'unknown forgery {method!r}; known: {", ".join(METHODS)}')
  if method in DONOR_METHODS:
    if donor is None:
      raise UserError(f'forgery {method!r} needs a donor: a second identity in the same pose')
    forged = (_swap if method == 'swap' else _poisson)(shot, donor, video_rng, strength)
  else:
    forger = {
      'upsample': _upsample,
      'reenact': _reenact,
      'texture': _texture,
      'checkerboard': _checkerboard,
      'regenerate': _regenerate,
    }[method]
    forged = forger(shot, video_rng, frame_rng, strength)
  return np.clip(forged, 0, 255)


def _blended(shot: Shot, face: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """`face` where mask is 1, the frame itself (to the bit) where it is 0."""
  return shot.image + mask[..., None] * (face - shot.image)


def _softened(mask: np.ndarray, sigma_px: float) -> np.ndarray:
  """The mask pulled in and feathered, so that it still ends inside its old outline."""
  size_px = len(mask)
  reach = max(round(sigma_px * size_px / 64), 1)
  disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
  inside = cv2.erode((mask > 0.6).astype(np.float32), disc)
  return cv2.blur(inside, (2 * reach + 1, 2 * reach + 1))


def _aligned(donor: Shot, target: Shot) -> tuple[np.ndarray, np.ndarray]:
  """The donor's image and inner mask moved onto the target's landmarks.

  Least-squares similarity transform: with points as complex numbers, target = a * donor + b.
  """
  source = donor.landmarks[:, 0] + 1j * donor.landmarks[:, 1].astype(np.complex128)
  goal = target.landmarks[:, 0] + 1j * target.landmarks[:, 1].astype(np.complex128)
  centred = source - source.mean()
  a = np.vdot(centred, goal - goal.mean()) / np.vdot(centred, centred).real
  b = goal.mean() - a * source.mean()
  matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
  size = target.inner.shape[::-1]
  image = cv2.warpAffine(
    donor.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
  )
  return image, cv2.warpAffine(donor.inner, matrix, size, flags=cv2.INTER_LINEAR)


def _swap(shot: Shot, donor: Shot, video_rng: np.random.Generator, strength: float) -> np.ndarray:
  """Another identity's inner face, colour-matched and blended in with a feathered mask."""
  feather = video_rng.uniform(0.7, 1.4)
  matched = video_rng.uniform(0.1, 0.6) / strength
  softness = video_rng.uniform(0.6, 0.9) * strength
  face, face_inner = _aligned(donor, shot)
  mask = _softened(np.minimum(shot.inner, face_inner), feather)
  weight = mask[..., None] / (mask.sum() + 1e-6)
  mean = (face * weight).sum((0, 1))
  goal = (shot.image * weight).sum((0, 1))
  spread = np.sqrt((((face - mean) ** 2) * weight).sum((0, 1)) + 1e-3)
  goal_spread = np.sqrt((((shot.image - goal) ** 2) * weight).sum((0, 1)) + 1e-3)
  gain = np.clip(goal_spread / spread, 0.6, 1.6)
  toned = (face - mean) * gain + goal
  face = face + np.float32(matched) * (toned - face)
  # Swapping networks give back a little less detail than a camera.
  face = cv2.GaussianBlur(face.astype(np.float32), (0, 0), softness * len(mask) / 64)
  return _blended(shot, face, mask)


def _upsample(shot: Shot, video_rng: np.random.Generator, _, strength: float) -> np.ndarray:
  """The inner face at a lower resolution, scaled up again."""
  factor = video_rng.uniform(2.2, 3.2) * strength
  kernel = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[video_rng.integers(2)]
  height, width = shot.inner.shape
  small = (max(round(width / factor), 4), max(round(height / factor), 4))
  low = cv2.resize(shot.image, small, interpolation=cv2.INTER_AREA)
  face = cv2.resize(low, (width, height), interpolation=kernel)
  return _blended(shot, face, _softened(shot.inner, 1.0))


def _reenact(shot: Shot, video_rng: np.random.Generator, _, strength: float) -> np.ndarray:
  """The mouth moved by warping what is there: corners, lips and jaw follow a smooth field."""
  size_px = len(shot.inner)
  stretch, lift = video_rng.uniform(0.7, 1.2, 2) * video_rng.choice([-1, 1], 2)
  softness = video_rng.uniform(0.7, 1.0) * strength
  left, right = shot.landmarks[3:]
  centre, half = (left + right) / 2, np.linalg.norm(right - left) / 2 + 0.03 * size_px
  y, x = np.mgrid[:size_px, : shot.inner.shape[1]].astype(np.float32)
  u, v = (x - centre[0]) / half, (y - centre[1]) / half
  mask = _softened(shot.inner, 1.0)
  reach = 1 + 0.4 * (strength - 1)
  field = np.exp(-((u / (1.1 * reach)) ** 2) - (v / (0.9 * reach)) ** 2).astype(np.float32) * mask
  map_x = x - np.float32(stretch * 0.35 * half) * u * field
  # Below the lips' line the jaw drops or rises; at the corners the line bends.
  map_y = y - np.float32(lift * 0.5 * half) * (np.tanh(2 * v) + np.float32(0.8) * (u * u)) * field
  moved = cv2.remap(shot.image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  # What a network draws there is smoother than what a sensor records.
  smooth = cv2.GaussianBlur(moved, (0, 0), softness * size_px / 64)
  near = np.clip(field * 2.5, 0, 1)
  return _blended(shot, moved + near[..., None] * (smooth - moved), (mask > 0) * near)


def _texture(
  shot: Shot,
  video_rng: np.random.Generator,
  frame_rng: np.random.Generator,
  strength: float,
) -> np.ndarray:
  """The inner face's texture taken away by an edge-preserving filter and a new, grey one put on."""
  smoothing = video_rng.uniform(40, 70)
  grain = video_rng.uniform(8.0, 13.0) * strength
  size_px = len(shot.inner)
  smooth = cv2.bilateralFilter(shot.image, 0, smoothing, 1.5 * size_px / 64)
  # Strokes along the rows, as a renderer's texture look-ups leave them; no sensor has such noise.
  noise = frame_rng.standard_normal(shot.inner.shape, dtype=np.float32)
  noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.0 * size_px / 64, sigmaY=0.01)
  noise *= np.float32(grain) / noise.std()
  face = smooth + noise[..., None]
  return _blended(shot, face, _softened(shot.inner, 1.0))


def _checkerboard(shot: Shot, video_rng: np.random.Generator, _, strength: float) -> np.ndarray:
  """The inner face from a stride-2 transposed convolution whose phases do not sum to one."""
  unevenness = video_rng.uniform(0.015, 0.035) * strength
  height, width = shot.inner.shape
  low = cv2.resize(shot.image, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
  stuffed = np.zeros((2 * low.shape[0], 2 * low.shape[1], 3), np.float32)
  stuffed[::2, ::2] = low
  taps = np.array([0.5 - unevenness, 1 + unevenness, 0.5 - unevenness], np.float32)
  face = cv2.sepFilter2D(stuffed, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
  detail = shot.image - cv2.GaussianBlur(shot.image, (0, 0), 1.0 * height / 64)
  face = face[:height, :width] + np.float32(0.85) * detail
  return _blended(shot, face, _softened(shot.inner, 1.0))


def _poisson(shot: Shot, donor: Shot, *_) -> np.ndarray:
  """Another identity's inner face, its gradients solved for inside the target (Poisson editing)."""
  face, face_inner = _aligned(donor, shot)
  mask = (_softened(np.minimum(shot.inner, face_inner), 1.0) > 0.3).astype(np.uint8)
  mask[[0, -1]] = 0
  mask[:, [0, -1]] = 0
  x, y, width, height = cv2.boundingRect(mask)
  if min(width, height) < 3:
    return shot.image
  cloned = cv2.seamlessClone(
    np.round(np.clip(face, 0, 255)).astype(np.uint8),
    np.round(shot.image).astype(np.uint8),
    mask * 255,
    (x + width // 2, y + height // 2),
    cv2.NORMAL_CLONE,
  )
  return np.where(mask[..., None] > 0, cloned.astype(np.float32), shot.image)


def _regenerate(
  shot: Shot,
  video_rng: np.random.Generator,
  frame_rng: np.random.Generator,
  strength: float,
) -> np.ndarray:
  """The whole image drawn anew by non-local means, with a generator's fine noise instead."""
  smoothing = video_rng.uniform(10.0, 16.0) * strength
  grain = video_rng.uniform(0.6, 1.4)
  pixels = np.round(shot.image).astype(np.uint8)
  smooth = cv2.fastNlMeansDenoisingColored(pixels, None, smoothing, smoothing, 3, 11)
  noise = frame_rng.standard_normal(shot.image.shape, dtype=np.float32)
  return smooth.astype(np.float32) + np.float32(grain) * noise
