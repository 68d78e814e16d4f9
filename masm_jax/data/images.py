"""Reads the encoded images of a manifest: single files, or the shards of a TFDS set
(`shards`)."""

import dataclasses
from typing import Protocol

from masm_jax.data import raster, storage


class Images(Protocol):
  """N encoded images by record index; travels to worker processes."""

  def __len__(self) -> int:
    """N."""
    ...

  def name(self, record: int) -> str:
    """What messages call an image."""
    ...

  def read(self, record: int) -> bytes:
    """The encoded image.

    Raises:
      OSError: it cannot be read.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Files:
  """Images that are files of their own, local or remote."""

  paths: list[str]

  def __len__(self) -> int:
    return len(self.paths)

  def name(self, record: int) -> str:
    """The path of an image."""
    return self.paths[record]

  def read(self, record: int) -> bytes:
    """The bytes of a file."""
    return storage.read_bytes(self.paths[record], max_bytes=raster.MAX_FILE_BYTES)
