"""Perturbed faces: the levels of DeeperForensics-1.0 and of GenD, applied to uint8 RGB pixels.

A perturbation is applied to the crop as it was stored, before it is resized for the model; those of
DeeperForensics also suit full frames (`evaluation.clips`), where `VC`, the compression of a whole
video, is at home.

The operations follow DeeperForensics-1.0 (Jiang et al. 2020, arXiv 2001.03024) and its published
code, with these departures. [ours] Values are rounded and clipped; the published code cuts them off
and lets saturation wrap around at 0 and 255. The published count of grey blocks,
`floor(min(H, W) / 256) * p`, is zero below 256 pixels; here there are p blocks to every 256 x 256
pixels, rounded, at least one. `PX` is named for what it does; the original calls it "JPEG".

The GenD grid (yermandy/GenD, its robustness experiment) compresses, blurs, shrinks, and adds noise.
[ours] Its blur there has probability zero, and quality 100 and a shrink to 224 of 224 pixels do
nothing: here each level does something. Blur is always applied, quality 100 is a real JPEG of that
quality, and on crops under 256 pixels, the side of GenD's own, the shrink keeps its share of the
side. The level of no noise and of no blur is the unperturbed image, which every curve starts from.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from masm_jax.errors import UserError

_BLOCK_PX = 8
_REFERENCE_PX = 256
_GREY = 128
# One unit of a full-range YCrCb channel in units of the studio range (16..235, 16..240), in which
# the published code adds its noise.
_STUDIO_SWING = np.array([219, 224, 224], np.float32) / 255

Operation = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Perturbation:
  """One operation with its levels, from mild to severe.

  Attributes:
    title: what it is, for people.
    unit: what the parameter is, for people.
    parameters: of levels 1, 2, ...
    apply: `(image uint8 RGB [H, W, 3], parameter, rng) -> uint8 RGB`; None where the operation
      needs the whole video.
    suits_frames: whether it is also meant for the full frames of a video.
  """

  title: str
  unit: str
  parameters: tuple[Any, ...]
  apply: Operation | None
  suits_frames: bool = True


def saturation(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
  """`CS`: scales Cb and Cr about their centre (BT.601); 0 leaves grey. uint8 [H, W, 3] -> same."""
  del rng
  ycrcb = _ycrcb(image)
  ycrcb[..., 1:] = 0.5 + (ycrcb[..., 1:] - 0.5) * np.float32(factor)
  return _rgb(ycrcb)


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
  """`CC`: multiplies every value, which also darkens. uint8 [H, W, 3] -> same."""
  del rng
  return cv2.LUT(image, _uint8(np.arange(_REFERENCE_PX) * factor))


def block_wise(image: np.ndarray, per_area: int, rng: np.random.Generator) -> np.ndarray:
  """`BW`: grey squares of 8 pixels at uniform places, `per_area` to every 256 x 256 pixels."""
  height, width = image.shape[:2]
  if min(height, width) < _BLOCK_PX:
    raise UserError(f'BW needs images of at least {_BLOCK_PX} pixels, not {width} x {height}')
  count = max(1, round(per_area * height * width / _REFERENCE_PX**2))
  image = image.copy()
  rows = rng.integers(0, height - _BLOCK_PX, count, endpoint=True)
  columns = rng.integers(0, width - _BLOCK_PX, count, endpoint=True)
  for row, column in zip(rows, columns, strict=True):
    image[row : row + _BLOCK_PX, column : column + _BLOCK_PX] = _GREY
  return image


def colour_noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
  """`GNC`: white Gaussian noise of this variance on each studio-range YCbCr channel in [0, 1]."""
  noise = rng.standard_normal(image.shape, np.float32) * np.float32(np.sqrt(variance))
  return _rgb(_ycrcb(image) + noise / _STUDIO_SWING)


def blur(image: np.ndarray, kernel_px: int, rng: np.random.Generator) -> np.ndarray:
  """`GB`: Gaussian blur over `kernel_px` x `kernel_px` with a sigma of a sixth of it."""
  del rng
  return cv2.GaussianBlur(image, (kernel_px, kernel_px), kernel_px / 6)


def pixelate(image: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
  """`PX`: shrinks by `factor` and enlarges again, both bilinear without smoothing."""
  del rng
  height, width = image.shape[:2]
  small = cv2.resize(image, (max(1, width // factor), max(1, height // factor)))
  return cv2.resize(small, (width, height))


def jpeg(image: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
  """`gend_jpeg`: JPEG of this quality with 4:2:0 chroma (libjpeg, by OpenCV)."""
  del rng
  _, code = cv2.imencode(
    '.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality)
  )
  return cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def gend_blur(image: np.ndarray, kernel: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
  """`gend_blur`: Gaussian blur of (kernel in pixels, sigma)."""
  del rng
  size_px, sigma = kernel
  return cv2.GaussianBlur(image, (size_px, size_px), sigma)


def shrink(image: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
  """`gend_resize`: shrinks the shorter side to `size_px`: uint8 [H, W, 3] -> [h, w, 3].

  Pixels are averaged over their area. A shorter side below 256 pixels is shrunk to its share of
  `size_px / 256`, so that every level takes something away. The result stays small: it is what the
  model's own resize starts from.
  """
  del rng
  height, width = image.shape[:2]
  scale = size_px / max(_REFERENCE_PX, min(height, width))
  small = (max(1, round(width * scale)), max(1, round(height * scale)))
  return cv2.resize(image, small, interpolation=cv2.INTER_AREA)


def gend_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
  """`gend_noise`: white Gaussian noise of this deviation on each RGB channel in [0, 1]."""
  noise = rng.standard_normal(image.shape, np.float32) * np.float32(255 * sigma)
  return _uint8(image + noise)


CATALOGUE: Mapping[str, Perturbation] = {
  # DeeperForensics-1.0, levels 1 to 5.
  'CS': Perturbation('colour saturation', 'factor', (0.4, 0.3, 0.2, 0.1, 0.0), saturation),
  'CC': Perturbation('colour contrast', 'factor', (0.85, 0.725, 0.6, 0.475, 0.35), contrast),
  'BW': Perturbation('block-wise', 'blocks per 256 x 256 px', (16, 32, 48, 64, 80), block_wise),
  'GNC': Perturbation(
    'Gaussian noise in colour', 'variance', (0.001, 0.002, 0.005, 0.01, 0.05), colour_noise
  ),
  'GB': Perturbation('Gaussian blur', 'kernel, px', (7, 9, 13, 17, 21), blur),
  'PX': Perturbation('pixelation', 'factor', (2, 3, 4, 5, 6), pixelate),
  'VC': Perturbation('video compression', 'H.264 crf', (30, 32, 35, 38, 40), None),
  # GenD's grid, on crops.
  'gend_jpeg': Perturbation(
    'JPEG (GenD)', 'quality', (100, 80, 60, 40, 20, 10), jpeg, suits_frames=False
  ),
  'gend_blur': Perturbation(
    'blur (GenD)',
    'kernel px, sigma px',
    ((5, 0.5), (7, 1.0), (11, 1.5), (13, 2.0), (19, 3.0)),
    gend_blur,
    suits_frames=False,
  ),
  'gend_resize': Perturbation(
    'resize (GenD)', 'shorter side, px', (224, 112, 64), shrink, suits_frames=False
  ),
  'gend_noise': Perturbation(
    'noise (GenD)', 'sigma', (0.01, 0.03, 0.05, 0.1, 0.2), gend_noise, suits_frames=False
  ),
}
# Of crops: {key: {level: parameter}}. `VC` is not among them: it needs the whole video.
PERTURBATIONS: Mapping[str, Mapping[int, Any]] = {
  key: dict(enumerate(value.parameters, start=1))
  for key, value in CATALOGUE.items()
  if value.apply is not None
}
VIDEO_KEYS = tuple(key for key, value in CATALOGUE.items() if value.suits_frames)
# Curves over copies of whole videos: what results call them -> key. `CS` there is of crops.
WHOLE_VIDEO: Mapping[str, str] = {
  key if CATALOGUE[key].apply is None else f'video_{key}': key for key in VIDEO_KEYS
}


def parameter(key: str, level: int) -> Any:
  """The parameter of a level; level 1 is the mildest.

  Raises:
    UserError: no such perturbation or level.
  """
  if key not in CATALOGUE:
    raise UserError(f'no perturbation {key!r}; there are {", ".join(CATALOGUE)}')
  parameters = CATALOGUE[key].parameters
  if not 1 <= level <= len(parameters):
    raise UserError(f'{key} has levels 1 to {len(parameters)}, not {level}')
  return parameters[level - 1]


def perturb(image: np.ndarray, key: str, level: int, rng: np.random.Generator) -> np.ndarray:
  """Applies one level of one perturbation to an image.

  Args:
    image: uint8 RGB [H, W, 3], the crop before it is resized (or a full frame); not modified.
    key: a key of `PERTURBATIONS`.
    level: 1 for the mildest.
    rng: from `make_rng`.

  Returns:
    uint8 RGB [H, W, 3]; smaller for `gend_resize`.

  Raises:
    UserError: no such perturbation or level, or one that needs whole videos.
  """
  value = parameter(key, level)
  operation = CATALOGUE[key].apply
  if operation is None:
    raise UserError(
      f'{key} needs whole videos: make a perturbed copy of them with `python -m'
      ' masm_jax.perturb_videos`, and its crops with `python -m masm_jax.preprocess`'
    )
  return operation(image, value, rng)


def make_rng(seed: int, video_id: str, frame: int, key: str, level: int) -> np.random.Generator:
  """The random numbers of one perturbed frame: a function of these five values and nothing else.

  They are the same on every machine, in any order of frames. Frames of one video that have the same
  number (a manifest that does not know them has 0 everywhere) share them.
  """
  name = json.dumps([int(seed), str(video_id), int(frame), key, int(level)]).encode()
  return np.random.default_rng(np.frombuffer(hashlib.sha256(name).digest(), np.uint32))


def _ycrcb(image: np.ndarray) -> np.ndarray:
  """uint8 RGB -> full-range BT.601 Y, Cr, Cb in [0, 1], float32, chroma centred at 0.5."""
  return cv2.cvtColor(np.float32(image) / np.float32(255), cv2.COLOR_RGB2YCrCb)


def _rgb(ycrcb: np.ndarray) -> np.ndarray:
  return _uint8(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB) * 255)


def _uint8(values: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(values), 0, 255).astype(np.uint8)
