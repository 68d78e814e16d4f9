"""Which image formats are read, and how: a closed list, sizes with a limit, huge photos reduced.

Pillow can open some forty formats. A few of them run other programs or other people's code (EPS
calls Ghostscript): only formats that pictures come in are opened, whatever a file calls itself.
"""

import io

import numpy as np
from PIL import Image, features

try:  # An extra: `pip install masm_jax[heif]`.
  import pillow_heif

  pillow_heif.register_heif_opener()
  HAS_HEIF = True
except ImportError:
  HAS_HEIF = False

_HAS_AVIF = bool(features.check('avif'))
if _HAS_AVIF:
  from PIL import AvifImagePlugin

FORMATS = (
  *('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF'),
  *(('AVIF',) if _HAS_AVIF else ()),
  *(('HEIF',) if HAS_HEIF else ()),
)
# Suffixes of photos, beside those of `importers.names`, that can be read here.
PHOTO_SUFFIXES = (
  *(('.avif',) if _HAS_AVIF else ()),
  *(('.heic', '.heif') if HAS_HEIF else ()),
)

# A picture with more pixels (8192 x 8192) is reduced as it is read: nothing needs more.
MAX_PIXELS = 2**26
# No side is longer: a row of pointers, a resize or a turn of 1 x 67,000,000 pixels costs gigabytes.
MAX_SIDE = 2**15
# What reading one picture may take beside its file, in bytes; from its header, before its pixels
# take any memory.
MAX_MEMORY_BYTES = 2**30
# The file itself: no picture within the other limits has more to say.
MAX_FILE_BYTES = 2**29

# Bytes that a decoder takes for each pixel, measured at its worst and rounded up; see
# tests/data/test_raster.py. JPEG: the coefficients of a progressive one, which cannot be reduced on
# the way (an RGB one may have 2**27 pixels: phones make 108 megapixels). WebP holds two canvases
# beside the picture, TIFF a strip of 64-bit samples, which may be all of it.
_BYTES_PER_PIXEL = {
  **{'JPEG': 8, 'PNG': 8, 'BMP': 8, 'GIF': 8},
  **{'WEBP': 20, 'TIFF': 20, 'AVIF': 20, 'HEIF': 20},
}
# More, for a fourth channel: of coefficients, or of a copy that is reduced with its transparency.
_MORE_BYTES = {('JPEG', 'CMYK'): 2, ('PNG', 'RGBA'): 2, ('PNG', 'LA'): 2, ('BMP', 'RGBA'): 2}
_STRIP_PIXELS = 2**20

if _HAS_AVIF:
  # Each thread of its decoder takes a picture of memory, and pictures are read side by side anyway.
  AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class TooLargeError(Exception):
  """A picture takes too much memory to be decoded; the text says how much it is."""


def open_image(content: bytes) -> Image.Image:
  """Opens an image of one of `FORMATS`; its pixels are read later.

  Raises:
    PIL.UnidentifiedImageError: it is none.
    TooLargeError: its file, a side of it, or the memory that its decoder needs is over the limit.
  """
  if len(content) > MAX_FILE_BYTES:
    raise TooLargeError(f'{len(content):,} bytes; the limit is {MAX_FILE_BYTES:,}')
  if size := _webp_size(content):  # Pillow makes its canvases as it opens one.
    _check_size(size, _BYTES_PER_PIXEL['WEBP'])
  try:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
  except Image.DecompressionBombError as error:  # Pillow's own limit is higher.
    raise TooLargeError(str(error)) from error
  kind = image.format or ''
  _check_size(image.size, _BYTES_PER_PIXEL[kind] + _MORE_BYTES.get((kind, image.mode), 0))
  return image


def _check_size(size: tuple[int, int], bytes_per_pixel: int) -> None:
  width, height = size
  if max(size) > MAX_SIDE:
    raise TooLargeError(f'{width} x {height} pixels; the limit of a side is {MAX_SIDE}')
  limit = MAX_MEMORY_BYTES // bytes_per_pixel
  if width * height > limit:
    raise TooLargeError(
      f'{width} x {height} pixels; the limit is {limit:,} in all, for a picture of its format'
    )


def _webp_size(content: bytes) -> tuple[int, int] | None:
  """Width and height as the header of a WebP file says; None for any other file."""
  if content[:4] != b'RIFF' or content[8:12] != b'WEBP' or len(content) < 30:
    return None
  if content[12:16] == b'VP8X':
    return tuple(1 + int.from_bytes(content[at : at + 3], 'little') for at in (24, 27))
  if content[12:16] == b'VP8L':
    bits = int.from_bytes(content[21:25], 'little')
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  return tuple(int.from_bytes(content[at : at + 2], 'little') & 0x3FFF for at in (26, 28))


def load(image: Image.Image) -> Image.Image:
  """The pixels of an opened image; with more than `MAX_PIXELS`, at a half, a third, ... its size.

  Args:
    image: of `open_image`.

  Returns:
    The image, or a smaller one.
  """
  if _factor(image) > 1:  # JPEG's decoder does what it can of it: a half, a quarter or an eighth.
    image.draft(image.mode, tuple(-(-side // _factor(image)) for side in image.size))
  image.load()
  factor = _factor(image)
  if factor == 1:
    return image
  if image.mode.startswith('I;16'):  # Pillow does not average these.
    size = [-(-side // factor) for side in image.size]
    return image.resize(size, Image.Resampling.NEAREST)
  return (image.convert('RGB') if image.mode in ('1', 'P', 'PA') else image).reduce(factor)


def rgb(image: Image.Image) -> np.ndarray:
  """An image as uint8 RGB [H, W, 3]; in strips, so that nothing of it is there three times."""
  width, height = image.size
  array = np.empty((height, width, 3), np.uint8)
  rows = max(1, _STRIP_PIXELS // width)
  if rows >= height:
    array[:] = np.asarray(image.convert('RGB'))
    return array
  for top in range(0, height, rows):
    strip = image.crop((0, top, width, min(top + rows, height)))
    array[top : top + rows] = np.asarray(strip.convert('RGB'))
  return array


def _factor(image: Image.Image) -> int:
  """By what both sides are divided so that no more than `MAX_PIXELS` are left."""
  width, height = image.size
  factor = 1
  while -(-width // factor) * -(-height // factor) > MAX_PIXELS:
    factor += 1
  return factor
