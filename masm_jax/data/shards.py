"""Reads TFDS sets as data: ArrayRecord shards without a builder, which could run code.

`tfds.builder_from_directory` imports whatever module `features.json` names, so that a set from a
stranger would run his program. Here nothing that stands in a set chooses code: `features.json` is
not read, `dataset_info.json` is parsed as JSON, of which only the set's name and the lengths of the
shards are used, and a record is a `tf.train.Example` with the file's bytes under `image`. TFDS and
TensorFlow are not imported.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from masm_jax import files, places
from masm_jax.data import storage
from masm_jax.errors import UserError, first_line

INFO_NAME = 'dataset_info.json'  # Of a set's version folder; nothing else has one.

_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'  # TFDS's own names, and ours.
_MAX_INFO_BYTES = 2**24  # A million shards.
_THREADS = 16  # That open shards, which on a network takes a while each.
_REMAKE = 'make the set anew with `python -m masm_jax.data tfds`'

# Of a `tf.train.Example`, `features.feature[NAME].bytes_list.value`; other fields are passed over.
_EXAMPLE = """
name: "example.proto" package: "m" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: ".m.BytesList" }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".m.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".m.Features.FeatureEntry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: ".m.Features" }
}
"""

# What array_record raises on damaged or missing files, and on records that are not there.
_SHARD_ERRORS = (RuntimeError, ValueError, IndexError, OSError)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A whole ArrayRecord file; the attributes are those that `array_record` asks for.

  Attributes:
    filename: its path.
    examples_in_shard: how many records it has.
  """

  filename: str
  examples_in_shard: int

  @property
  def skip(self) -> int:
    """The first record that is read."""
    return 0

  @property
  def take(self) -> int:
    """How many are read: all."""
    return self.examples_in_shard


@dataclasses.dataclass(frozen=True)
class Shards:
  """Images in the shards of a TFDS set; see `images.Images`.

  Attributes:
    files: the shards of each split, in their order.
    split: index into `files` for each record, int8 [N].
    index: place within the split for each record, int64 [N].
    names: what messages call each image.
  """

  files: tuple[tuple[Shard, ...], ...]
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
    return Shards(self.files, self.split[records], self.index[records], names)

  def name(self, record: int) -> str:
    """The path that the image had."""
    return self.names[record]

  def read(self, record: int) -> bytes:
    """The bytes of the file that was stored.

    Raises:
      OSError: the record is damaged, or holds no image.
    """
    split = int(self.split[record])
    try:
      if split not in self._sources:
        self._sources[split] = _open(self.files[split])
      # Raw, because turning every column into an array takes longer than reading the record.
      example = _example_class().FromString(self._sources[split][int(self.index[record])])
    except (*_SHARD_ERRORS, message.DecodeError) as error:
      raise OSError(f'its record cannot be read: {first_line(error)}') from error
    feature = example.features.feature
    images = feature['image'].bytes_list.value if 'image' in feature else ()
    if len(images) != 1:
      raise OSError(f'its record holds {len(images)} images, not one')
    return images[0]


def find_shards(
  folder: pathlib.Path, rows: Mapping[str, int], *, check_files: bool = True
) -> tuple[tuple[Shard, ...], ...]:
  """The shards of some splits of a TFDS set.

  Args:
    folder: the set's version folder, local.
    rows: split -> how many records it has to have.
    check_files: whether every shard is opened, and its records are counted.

  Returns:
    For each of `rows`, the split's shards in their order.

  Raises:
    UserError: `dataset_info.json` is damaged or describes another kind of set or other numbers of
      records; a shard is missing, leads out of the folder, cannot be opened, or has another number
      of records.
  """
  places.refuse_bytes(folder)
  name, lengths = _read_info(folder)
  found = []
  for split, count in rows.items():
    here = lengths.get(split, ())
    if sum(here) != count:
      raise UserError(
        f'{folder}: its manifest has {count} rows of split {split}, {INFO_NAME} {sum(here)}: '
        f'{_REMAKE}'
      )
    digits = max(5, len(str(len(here))))
    files = [
      f'{name}-{split}.array_record-{i:0{digits}}-of-{len(here):0{digits}}'
      for i in range(len(here))
    ]
    found.append(
      tuple(
        Shard(str(own_file(folder, file)), length)
        for file, length in zip(files, here, strict=True)
        if length
      )
    )
  if check_files:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(_check_length, [shard for shards in found for shard in shards]))
  return tuple(found)


def own_file(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The path of a set's file, which has to be there and not outside the folder.

  Raises:
    UserError: it is missing, no plain file, or a link that leads out of the folder.
  """
  path = folder / name
  if os.path.dirname(os.path.realpath(path)) != os.path.realpath(folder):
    raise UserError(f'{path} is a link that leads out of its set: put the file itself there')
  if not os.path.isfile(path):  # False too for a name that is too long; pathlib's raises.
    raise UserError(f'{path}: no such file; {_REMAKE}, or copy all of it')
  return path


def _read_info(folder: pathlib.Path) -> tuple[str, dict[str, tuple[int, ...]]]:
  """The set's name, and the lengths of the shards of each split."""
  path = own_file(folder, INFO_NAME)
  try:
    if path.stat().st_size > _MAX_INFO_BYTES:
      raise UserError(f'{path}: more than {_MAX_INFO_BYTES} bytes; {_REMAKE}')
    info = files.parse_object(storage.read_bytes(path))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error
  except ValueError as error:
    raise UserError(f'{path}: no JSON that can be read: {error}; {_REMAKE}') from error

  def refuse(what: str) -> UserError:
    return UserError(f'{path}: {what}; {_REMAKE}')

  if not isinstance(info.get('splits'), list):
    raise refuse('it lists no splits')
  if info.get('fileFormat') != 'array_record':
    raise refuse('the files of the set are not in the format array_record')
  name = info.get('name')
  if not isinstance(name, str) or not re.fullmatch(r'\w+', name, re.ASCII):
    raise refuse('the name of the set is not of letters, digits and underscores')
  lengths: dict[str, tuple[int, ...]] = {}
  for split in info['splits']:
    if not isinstance(split, dict) or not isinstance(split.get('name'), str):
      raise refuse('a split has no name')
    if split['name'] in lengths:
      raise refuse('a split stands there twice')
    if split.get('filepathTemplate', _TEMPLATE) not in ('', _TEMPLATE):
      raise refuse(f'its files are named otherwise than {_TEMPLATE}')
    texts = split.get('shardLengths', [])
    if not isinstance(texts, list) or not all(_is_count(text) for text in texts):
      raise refuse('the length of a shard is not a whole number')
    lengths[split['name']] = tuple(map(int, texts))
  return name, lengths


def _is_count(value: Any) -> bool:
  """Whether a value is a count as protobuf writes it into JSON: text, where it has 64 bits."""
  if isinstance(value, str):
    return bool(re.fullmatch(r'\d{1,15}', value, re.ASCII))
  return type(value) is int and 0 <= value < 10**15


def _check_length(shard: Shard) -> None:
  from array_record.python import array_record_module  # Files do without it.

  try:
    reader = array_record_module.ArrayRecordReader(
      shard.filename, options='readahead_buffer_size:0,max_parallelism:0'
    )
    try:
      found = reader.num_records()
    finally:
      reader.close()
  except _SHARD_ERRORS as error:
    raise UserError(
      f'{shard.filename}: a damaged shard ({first_line(error)}); copy it again, or {_REMAKE}'
    ) from error
  if found != shard.examples_in_shard:
    raise UserError(
      f'{shard.filename} has {found} records, by {INFO_NAME} {shard.examples_in_shard}: copy it'
      f' again, or {_REMAKE}'
    )


def _open(files: tuple[Shard, ...]) -> Any:
  from array_record.python import array_record_data_source

  return array_record_data_source.ArrayRecordDataSource(files)


@functools.cache
def _example_class() -> type[message.Message]:
  """`tf.train.Example`, as far as it is read.

  TFDS has the generated class, but importing it imports TFDS, and with it modules that anybody may
  have put into the working folder.
  """
  file = text_format.Parse(_EXAMPLE, descriptor_pb2.FileDescriptorProto())
  # A pool of its own: the common one may hold TensorFlow's or TFDS's.
  pool = descriptor_pool.DescriptorPool()
  pool.AddSerializedFile(file.SerializeToString())
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('m.Example'))
