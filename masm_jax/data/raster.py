"""Which image formats are read, and how: a closed list, sizes with a limit, huge photos reduced.

Pillow can open some forty formats. A few of them run other programs or other people's code (EPS
calls Ghostscript): only formats that pictures come in are opened, whatever a file calls itself.
"""

import io

from PIL import Image, features

try:  # An extra: `pip install masm_jax[heif]`.
  import pillow_heif

  pillow_heif.register_heif_opener()
  HAS_HEIF = True
except ImportError:
  HAS_HEIF = False

_HAS_AVIF = bool(features.check('avif'))
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
# One with more than this is refused as a bomb: before it is reduced, it takes 400 MB of memory
# (JPEG, which is reduced while it is decoded, less). Phones make 108 megapixels.
MAX_ENCODED_PIXELS = 2**27


class TooLargeError(Exception):
  """A picture has too many pixels to be decoded; the text says how many."""


def open_image(content: bytes) -> Image.Image:
  """Opens an image of one of `FORMATS`; its pixels are read later.

  Raises:
    PIL.UnidentifiedImageError: it is none.
    TooLargeError: it has more than `MAX_ENCODED_PIXELS`.
  """
  try:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
  except Image.DecompressionBombError as error:  # Pillow's own limit is higher.
    raise TooLargeError(str(error)) from error
  width, height = image.size
  if width * height > MAX_ENCODED_PIXELS:
    raise TooLargeError(f'{width} x {height} pixels; the limit is {MAX_ENCODED_PIXELS} in all')
  return image


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


def _factor(image: Image.Image) -> int:
  """By what both sides are divided so that no more than `MAX_PIXELS` are left."""
  width, height = image.size
  factor = 1
  while -(-width // factor) * -(-height // factor) > MAX_PIXELS:
    factor += 1
  return factor
