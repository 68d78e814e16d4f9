"""From a file to the pixels that a model sees: decode, augment, resize.

Images are uint8 RGB `[H, W, 3]` throughout. Nothing here keeps state or draws random numbers of its
own, so a result depends on the arguments alone, in any thread or process.

What comes in, and what becomes of it:

| input                                   | outcome                                                |
|-----------------------------------------|--------------------------------------------------------|
| JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF   | RGB; HEIF, too, where pillow-heif is installed         |
| grey, 1 x 1 pixel, any proportions      | RGB: grey in three channels; `resize` makes it square  |
| 16-bit                                  | its upper 8 bits                                       |
| RGBA, palette                           | colours as stored; transparency is dropped             |
| CMYK JPEG                               | converted to RGB                                       |
| EXIF orientation                        | turned upright                                         |
| animation                               | its first frame                                        |
| empty, truncated, corrupt, not an image | `DecodeError`                                          |
| any other format, EPS for one           | `DecodeError`: no program is started by a picture      |
| more than `MAX_PIXELS` (8192 x 8192)    | reduced to a half, a third, ... of its sides           |
| a side over 32,768 pixels, or so many   | `DecodeError`, before its pixels take memory           |
| pixels that decoding takes over 1 GiB   |                                                        |
| 32-bit values                           | `DecodeError`: their range is not known                |
| no such file                            | the manifest does not load; `DecodeError` if it went   |
| a path that leaves the root             | the manifest does not load                             |
| spaces, letters of any language         | as any other path; names that are not UTF-8 are refused|

The pipeline replaces a record with a `DecodeError` (`pipeline.train_iterator`), evaluation leaves
it out and says so, `python -m masm_jax.data check` lists it.

The augmentations run on OpenCV, not on albumentations 2.0.8, the last one under the MIT licence.
Measured on one core, 256 px, `gend`: 0.67 ms with either, so speed does not decide. Against it:
nobody keeps it up any more (its successor is AGPL); it imports torch wherever that is installed, 2
to 3 seconds in each worker; it compresses RGB as if it were BGR; and its generators sit in the
composed object, which the loader's threads would share. JPEG is decoded by Pillow, which knows all
the cases above: simplejpeg is bit-identical and takes 0.15 ms instead of 0.24, a sixteenth of an
example.
`benchmarks/input_pipeline.py` measures the whole.
"""

import os
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from masm_jax.data import raster, storage
from masm_jax.data.presets import PRESETS
from masm_jax.errors import UserError

MAX_PIXELS = raster.MAX_PIXELS  # Of what `decode` gives.

# Pillow warns of large images, at a limit above ours.
warnings.simplefilter('ignore', Image.DecompressionBombWarning)

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


def decode(path: str | os.PathLike) -> np.ndarray:
  """Reads an image file as uint8 RGB [H, W, 3], as the table above says.

  Raises:
    DecodeError: it cannot be read or used.
  """
  try:
    content = storage.read_bytes(path, max_bytes=raster.MAX_FILE_BYTES)
  except OSError as error:
    raise unreadable(os.fspath(path), error) from error
  return decode_bytes(content, os.fspath(path))


def unreadable(name: str, error: OSError) -> DecodeError:
  """The error for an image whose bytes cannot be had."""
  known = {FileNotFoundError: 'no such file', IsADirectoryError: 'not an image, but a folder'}
  return DecodeError(f'{name}: {known.get(type(error)) or error.strerror or error}')


def decode_bytes(content: bytes, name: str) -> np.ndarray:
  """Decodes an image file's content: uint8 RGB [H, W, 3].

  A file that ends early is an error, not a half-grey image; changed bits within one that still
  decodes show only in its hash (`python -m masm_jax.data check`).

  Args:
    content: the file.
    name: what errors call it.

  Raises:
    DecodeError: if it is no image, is damaged, is too large (see above), or holds 32-bit values.
  """
  try:
    with raster.open_image(content) as opened:
      image = raster.load(opened)
      if image.mode in ('I', 'F'):
        raise DecodeError(f'{name}: 32-bit pixel values; convert it to 8 or 16 bits')
      turn = _UPRIGHT.get(_orientation(opened))
      if turn is not None:
        image = image.transpose(turn)
      if image.mode.startswith('I;16'):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
      return raster.rgb(image)
  except DecodeError:
    raise
  except raster.TooLargeError as error:
    raise DecodeError(f'{name}: {error}') from error
  except UnidentifiedImageError as error:
    raise DecodeError(f'{name}: not an image') from error
  except Exception as error:  # Pillow raises a dozen types on damaged files.
    raise DecodeError(f'{name}: not an image ({" ".join(str(error).split())})') from error


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

  Args:
    image: uint8 RGB [H, W, 3]; not modified.
    preset: a key of `PRESETS`.
    rng: the record's own generator.

  Raises:
    UserError: if there is no such preset.
  """
  if preset not in PRESETS:
    raise UserError(f'no augmentation preset {preset!r}; there are {", ".join(PRESETS)}')
  for operation in PRESETS[preset]:
    image = operation(image, rng)
  return image


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_EXIF_ORIENTATION, 1)
  except Exception:  # Broken metadata around sound pixels.
    return 1
