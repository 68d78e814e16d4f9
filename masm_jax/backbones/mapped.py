"""Arrays of safetensors files that stay on the disk until they are read, and are never copied."""

import math
import mmap
import os

import numpy as np

from masm_jax import files, plain_files


def arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The float32 arrays of a safetensors file by name, mapped into memory, read-only.

  Its header must be sound: opening the file by the library checks all sizes, offsets and types.

  Raises:
    Many types of errors, if it is not.
  """
  with plain_files.open_file(path) as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  # The layout of safetensors: the length of a JSON header, the header, the tensors.
  begin = 8 + int.from_bytes(mapped[:8], 'little')
  found = {}
  for name, entry in files.parse_object(mapped[8:begin]).items():
    if name != '__metadata__' and entry['dtype'] == 'F32':
      shape, start = entry['shape'], begin + entry['data_offsets'][0]
      found[name] = np.frombuffer(mapped, np.float32, math.prod(shape), start).reshape(shape)
  return found
