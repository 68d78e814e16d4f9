"""From a file to the pixels that a model sees: decode, augment, resize.

Images are uint8 RGB `[H, W, 3]` throughout. Nothing here keeps state or draws random numbers of its
own, so a result depends on the arguments alone, in any thread or process.

The augmentations are written with OpenCV rather than taken from albumentations, which imports torch
where it is installed, compresses RGB as if it were BGR (the luma weights of red and blue trade
places), and keeps its random state in shared objects, which threads would take from each other.
"""

import dataclasses
import os
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from masm_jax.errors import UserError

MAX_PIXELS = 2**26  # 8192 x 8192: whatever is larger is no face crop and would fill the memory.

_EXIF_ORIENTATION = 274
_UPRIGHT = {  # What undoes each EXIF orientation.
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class DecodeError(UserError):
  """A file is not an image that can be used; the line names it."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Parameters of one preset; the operations run in this order.

  Attributes:
    hflip_probability: mirror left and right.
    rotation_deg: rotate about the centre by up to this angle, either way.
    shift: move by up to this fraction of width and height, either way; black comes in.
    scale: zoom by a factor between these two.
    blur_probability: Gaussian blur with a kernel of `blur_kernel_px` and a sigma between
      `blur_sigma_px`.
    brightness: multiply by a factor up to this far from 1.
    contrast: blend with the mean grey, by a factor up to this far from 1.
    jpeg_quality: compress with an integer quality between these two, both included (OpenCV's 4:2:0
      chroma); None leaves it out.
  """

  hflip_probability: float = 0.0
  rotation_deg: float = 0.0
  shift: float = 0.0
  scale: tuple[float, float] = (1.0, 1.0)
  blur_probability: float = 0.0
  blur_kernel_px: int = 7
  blur_sigma_px: tuple[float, float] = (0.1, 2.0)
  brightness: float = 0.0
  contrast: float = 0.0
  jpeg_quality: tuple[int, int] | None = None


PRESETS: Mapping[str, Augmentation] = {
  'none': Augmentation(),
  # GenD (yermandy/GenD), training transforms.
  'gend': Augmentation(
    hflip_probability=0.5,
    rotation_deg=10.0,
    shift=0.1,
    scale=(0.9, 1.1),
    blur_probability=0.1,
    blur_kernel_px=7,
    blur_sigma_px=(0.1, 2.0),
    brightness=0.1,
    contrast=0.1,
    jpeg_quality=(40, 100),
  ),
}


def decode(path: str | os.PathLike) -> np.ndarray:
  """Reads an image file as uint8 RGB [H, W, 3].

  Grey becomes three equal channels, 16-bit is cut to its upper 8 bits, transparency is dropped
  without blending, palettes and CMYK are converted, EXIF rotation is applied, and of an animation
  the first frame is taken. A file that ends early is an error, not a half-grey image; changed bits
  within one that still decodes show only in its hash (`python -m masm_jax.data check`).

  Raises:
    DecodeError: if the file is missing, is no image, is damaged, has more than `MAX_PIXELS`, or
      holds 32-bit values, whose range is not known.
  """
  path = os.fspath(path)
  try:
    with Image.open(path) as image:
      width, height = image.size
      if width * height > MAX_PIXELS:
        raise DecodeError(f'{path}: {width} x {height} pixels; the limit is {MAX_PIXELS} in all')
      image.load()
      if image.mode in ('I', 'F'):
        raise DecodeError(f'{path}: 32-bit pixel values; convert it to 8 or 16 bits')
      turn = _UPRIGHT.get(_orientation(image))
      if turn is not None:
        image = image.transpose(turn)
      if image.mode.startswith('I;16'):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
      return np.array(image.convert('RGB'))
  except DecodeError:
    raise
  except Exception as error:  # Pillow raises a dozen types on damaged files.
    known = {FileNotFoundError: 'no such file', UnidentifiedImageError: 'not an image'}
    reason = known.get(type(error)) or f'not an image ({" ".join(str(error).split())})'
    raise DecodeError(f'{path}: {reason}') from error


def resize(image: np.ndarray, size_px: int) -> np.ndarray:
  """Scales an image to a square: uint8 [H, W, 3] -> [size_px, size_px, 3].

  Area averaging where it shrinks, bicubic where it grows. Face crops are square; anything else is
  stretched, not cut.
  """
  height, width = image.shape[:2]
  if (height, width) == (size_px, size_px):
    return image
  method = cv2.INTER_AREA if size_px < max(height, width) else cv2.INTER_CUBIC
  return cv2.resize(image, (size_px, size_px), interpolation=method)


def augment(image: np.ndarray, preset: str, rng: np.random.Generator) -> np.ndarray:
  """Augments one image by a named preset: uint8 RGB [H, W, 3] -> the same shape.

  Every call draws the same count of numbers from `rng`, whatever operations they choose.

  Args:
    image: uint8 RGB [H, W, 3]; not modified.
    preset: a key of `PRESETS`.
    rng: the record's own generator.

  Raises:
    UserError: if there is no such preset.
  """
  if preset not in PRESETS:
    raise UserError(f'no augmentation preset {preset!r}; there are {", ".join(PRESETS)}')
  options = PRESETS[preset]
  if options == PRESETS['none']:
    return image
  flip, angle, shift_x, shift_y, zoom, blur, sigma, light, contrast, quality = rng.random(10)

  if flip < options.hflip_probability:
    image = cv2.flip(image, 1)
  image = _affine(
    image,
    angle_deg=options.rotation_deg * (2 * angle - 1),
    shift=(options.shift * (2 * shift_x - 1), options.shift * (2 * shift_y - 1)),
    scale=_between(options.scale, zoom),
  )
  if blur < options.blur_probability:
    kernel = (options.blur_kernel_px, options.blur_kernel_px)
    image = cv2.GaussianBlur(image, kernel, _between(options.blur_sigma_px, sigma))
  image = _colour_jitter(
    image,
    brightness=1 + options.brightness * (2 * light - 1),
    contrast=1 + options.contrast * (2 * contrast - 1),
  )
  if options.jpeg_quality is not None:
    low, high = options.jpeg_quality
    image = _jpeg(image, low + int(quality * (high - low + 1)))
  return image


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_EXIF_ORIENTATION, 1)
  except Exception:  # Broken metadata around sound pixels.
    return 1


def _between(limits: tuple[float, float], fraction: float) -> float:
  return limits[0] + (limits[1] - limits[0]) * fraction


def _affine(
  image: np.ndarray, angle_deg: float, shift: tuple[float, float], scale: float
) -> np.ndarray:
  """Rotates and scales about the centre, then shifts by a fraction of the size; bilinear."""
  height, width = image.shape[:2]
  matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, scale)
  matrix[:, 2] += (shift[0] * width, shift[1] * height)
  return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


def _colour_jitter(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
  """Scales the values, then their distance from the mean grey; brightness always comes first."""
  values = np.arange(256) * brightness
  image = cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))
  mean_grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
  values = mean_grey + contrast * (np.arange(256) - mean_grey)
  return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  """Compresses and decompresses; OpenCV's codec counts channels from blue."""
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  _, code = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
  return cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
