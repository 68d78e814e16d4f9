"""What the arrays of a checkpoint claim to be, held to their shapes before any of them is read."""

import pathlib

import numpy as np
import tensorstore

from masm_jax import files, places

_MAX_NOTE_BYTES = 2**16
_MAX_VALUE_BYTES = 16  # Of a complex number.


def check(folder: pathlib.Path) -> None:
  """Refuses arrays whose parts claim to be larger than the arrays: each part is decoded whole.

  The shapes themselves are held by Orbax to those that are asked for.

  Args:
    folder: of the state, as Orbax writes it: Zarr 2 in OCDBT.

  Raises:
    ValueError: it is another format, or damaged.
  """
  if not (folder / 'manifest.ocdbt').is_file():
    raise ValueError('it holds no manifest.ocdbt: it is damaged')
  spec = {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{places.real_folder(folder)}/'}}
  store = tensorstore.KvStore.open(spec).result()
  notes = {}
  for key in store.list().result():
    name = key.rpartition(b'/')[2]
    if name == b'zarr.json':
      raise ValueError('its arrays are Zarr 3, which this program does not write')
    if name == b'.zarray':
      notes[key] = store.read(key)
  for key, read in notes.items():
    content = read.result().value
    if len(content) > _MAX_NOTE_BYTES or not _is_sound(content):
      raise ValueError(f'{ascii(key.decode(errors="replace"))[1:-1][:100]}: parts of an odd size')


def _is_sound(content: bytes) -> bool:
  """Whether parts are no larger than their array, of plain numbers."""
  try:
    note = files.parse_object(content)
    size = np.dtype(str(note['dtype'])).itemsize
    # An array without values has parts all the same.
    fits = [part <= max(side, 1) for side, part in zip(note['shape'], note['chunks'], strict=True)]
    packed_by = note['compressor']['id']  # Tensorstore bounds what this one unpacks to.
  except (KeyError, TypeError, ValueError):
    return False
  is_plain = packed_by == 'zstd' and note.get('filters') is None
  return all(fits) and size <= _MAX_VALUE_BYTES and is_plain
