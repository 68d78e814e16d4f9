"""A video as the layouts describe it and the workers take it."""

import dataclasses
import os
import pathlib
from typing import Any, Literal

from masm_jax import files
from masm_jax.data import raster
from masm_jax.data.importers import names

_MAX_NAME_BYTES = 255  # Of a folder, on the common file systems.


@dataclasses.dataclass(frozen=True)
class RawVideo:
  """One video, folder of frames or image of a data set.

  Attributes:
    path: relative to the input folder, with forward slashes.
    kind: what stands there.
    dataset, split, label, method, compression: as in the manifest.
    name: unique within dataset, method and compression; may have slashes.
    source: `video_id` of the real video that a fake was made from; '' where nothing tells.
    identities: who is seen, the one whose video it is first.
    mask: forgery mask (video, folder or image), relative to the masks' folder; '' without.
  """

  path: str
  kind: Literal['video', 'frames', 'image']
  dataset: str
  split: str
  label: int
  method: str
  name: str
  compression: str = ''
  source: str = ''
  identities: tuple[str, ...] = ()
  mask: str = ''

  @property
  def video_id(self) -> str:
    """dataset/method/compression/name, which is also the folder of its crops."""
    return video_id(self.dataset, self.method, self.name, self.compression)

  @property
  def columns(self) -> dict[str, Any]:
    """What the manifest and the outcome table say of it, as text that is UTF-8."""
    return {
      'dataset': readable(self.dataset),
      'split': self.split,
      'method': readable(self.method),
      'compression': self.compression,
      'label': self.label,
      'identities': readable(';'.join(self.identities)),
    }

  def origin(self, input_folder: pathlib.Path) -> dict[str, Any]:
    """What tells whether a video is still the one that was done: its path, size and mask."""
    return {'input': self.path, 'bytes': _size(input_folder / self.path), 'mask': self.mask}


def video_id(dataset: str, method: str, name: str, compression: str = '') -> str:
  """The id of a video: its parts, made safe for a path and for a line of text."""
  parts = (dataset, method, *filter(None, (compression,)), *name.split('/'))
  return '/'.join(_safe(part) for part in parts)


def is_picture(name: str) -> bool:
  """Whether a file name ends like an image that can be read here, photos included."""
  return names.is_image(name) or (
    name.lower().endswith(raster.PHOTO_SUFFIXES) and not name.startswith('.')
  )


def readable(name: str) -> str:
  """A name that tables and terminals can hold: bytes of it that are not UTF-8 become %XX.

  >>> readable('latin1_\\udce9'), readable('half_\\ud800')
  ('latin1_%E9', 'half_%uD800')
  """
  return ''.join(map(_escaped, name))


def _escaped(character: str) -> str:
  if '\udc80' <= character <= '\udcff':  # How Python holds a byte of a file's name.
    return f'%{ord(character) - 0xDC00:02X}'
  if '\ud800' <= character <= '\udfff':  # Half of a pair, which JSON can name.
    return f'%u{ord(character):04X}'
  return character


def _size(path: pathlib.Path) -> int:
  """Bytes of a file, or of all images in a folder; -1 if it cannot be read."""
  try:
    if not path.is_dir():
      return path.stat().st_size
    with os.scandir(path) as entries:
      return sum(entry.stat().st_size for entry in entries if is_picture(entry.name))
  except OSError:
    return -1


def _safe(part: str) -> str:
  """A part of a path in which nothing is hidden, climbs, or breaks a line; others stay as is."""
  safe = ''.join(
    character
    if character.isprintable() and character not in '%\\/'
    else ''.join(f'%{byte:02X}' for byte in _bytes_of(character))
    for character in part
  )
  safe = f'%2E{safe[1:]}' if safe.startswith('.') else safe
  return files.cut_name(safe, _MAX_NAME_BYTES)  # Each %XX has made it longer.


def _bytes_of(character: str) -> bytes:
  """As a name of a file has it; half a surrogate pair, which JSON can hold, by its own number."""
  is_byte = '\udc80' <= character <= '\udcff'
  return character.encode('utf-8', 'surrogateescape' if is_byte else 'surrogatepass')
