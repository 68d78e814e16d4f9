"""Where the bytes of a manifest's images come from: single files, or the shards of a TFDS set."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from masm_jax.data import storage


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
    return storage.read_bytes(self.paths[record])


@dataclasses.dataclass(frozen=True)
class Shards:
  """Images in the ArrayRecord shards of a TFDS set, read without TensorFlow.

  Attributes:
    folder: the set's version folder, local.
    splits: split names.
    split: index into `splits` for each record, int8 [N].
    index: place within the split for each record, int64 [N].
    names: what messages call each image.
  """

  folder: pathlib.Path
  splits: tuple[str, ...]
  split: np.ndarray
  index: np.ndarray
  names: list[str]
  _sources: dict[int, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def __len__(self) -> int:
    return len(self.index)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_sources': {}}  # Open files stay in their process.

  def take(self, records: np.ndarray) -> 'Shards':
    """The images of some records, in their order."""
    names = [self.names[record] for record in records]
    return Shards(self.folder, self.splits, self.split[records], self.index[records], names)

  def name(self, record: int) -> str:
    """The path that the image had."""
    return self.names[record]

  def read(self, record: int) -> bytes:
    """The bytes of the file that was stored."""
    split = int(self.split[record])
    if split not in self._sources:
      self._sources[split] = self._open(self.splits[split])
    source, parse = self._sources[split]
    example = parse(source[int(self.index[record])])
    return example.features.feature['image'].bytes_list.value[0]

  def _open(self, split: str) -> tuple[Any, Callable[[bytes], Any]]:
    import tensorflow_datasets as tfds  # Slow to import, and files do without it.
    from tensorflow_datasets.proto import tf_example_pb2

    builder = tfds.builder_from_directory(self.folder)
    # Raw, because turning every column into an array takes longer than reading the record.
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split=split, deserialize_method=raw)
    return source, tf_example_pb2.Example.FromString
