"""A TFDS set of face crops, in ArrayRecord files, from any manifest; TensorFlow is not needed.

    python -m masm_jax.data tfds crops/manifest.parquet --output /data/tfds --name ffpp
    tfds build masm_jax/data/tfds_builder.py --data_dir /data/tfds --file_format array_record \
        --config '{"name": "ffpp", "manifest": "crops/manifest.parquet"}'

(The second is for those who have TensorFlow: tfds' own command line does not start without it.)
Both write `/data/tfds/face_crops/ffpp/1.0.0`, which is a manifest to all commands and configs here,
and a TFDS set to everybody else: `tfds.data_source('face_crops/ffpp', data_dir='/data/tfds')`.
Records stand in the order of the manifest. The images are stored as the files are, byte by byte.
"""

import dataclasses
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from absl import logging

from masm_jax import places
from masm_jax.data import storage
from masm_jax.data.columns import SPLITS
from masm_jax.data.manifest import SHARDED_NAME, Manifest, load_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.parallel import locks

_FEATURES = {'i': np.int64, 'f': np.float32, 'b': np.bool_}  # An Example holds float32 alone.


@dataclasses.dataclass
class FaceCropsConfig(tfds.core.BuilderConfig):
  """Which manifest a set is made from.

  Attributes:
    manifest: its path.
    root: where its paths start; '' is its own folder.
  """

  manifest: str = ''
  root: str = ''


class FaceCrops(tfds.core.GeneratorBasedBuilder):
  """Face crops with the columns of their manifest."""

  name = 'face_crops'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [FaceCropsConfig(name='yours', description='Name your manifest.')]

  def __init__(self, *, manifest: Manifest | None = None, **kwargs: Any):
    self._manifest = manifest
    super().__init__(**({'file_format': 'array_record'} | kwargs))

  @property
  def manifest(self) -> Manifest:
    """What the set is made from."""
    if self._manifest is None:
      config = self.builder_config
      if not isinstance(config, FaceCropsConfig) or not config.manifest:
        raise UserError('give a manifest: --config \'{"name": "NAME", "manifest": "FILE"}\'')
      self._manifest = load_manifest(config.manifest, config.root or None)
    return self._manifest

  def _info(self) -> tfds.core.DatasetInfo:
    table = self.manifest.table
    if 'image' in table:
      raise UserError("rename the manifest's column `image`: a TFDS set has the images under it")
    columns = {name: _feature(table[name]) for name in table.columns}
    features = {'image': tfds.features.Image(doc='The file, as it was.'), **columns}
    return tfds.core.DatasetInfo(
      builder=self,
      description='Face crops with labels, and who and what they come from.',
      features=tfds.features.FeaturesDict(features),
      # The order of the manifest, which also finds the records by it.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    there = set(self.manifest.table['split'])
    if '' in there:
      raise UserError('unlabelled rows without a split: a TFDS set has every row in a split')
    return {split: self._generate_examples(split) for split in SPLITS if split in there}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    manifest = self.manifest.select(split=split)
    images, columns = manifest.images, list(manifest.table.columns)
    for record, values in enumerate(manifest.table.itertuples(index=False, name=None)):
      try:
        content = images.read(record)
      except OSError as error:
        raise UserError(f'{images.name(record)}: {error.strerror or error}') from error
      yield record, {'image': content, **dict(zip(columns, values, strict=True))}

  def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
    super()._download_and_prepare(*args, **kwargs)
    # Into the folder that takes its name when all of it is there.
    write_manifest(self.manifest, pathlib.Path(self.data_dir) / SHARDED_NAME)


def build(manifest: Manifest, data_dir: storage.Path, name: str) -> storage.Path:
  """Writes a manifest and its images as the TFDS set `face_crops/NAME`.

  Args:
    manifest: what to write.
    data_dir: TFDS's folder of sets; a remote one is written through a local copy.
    name: letters, digits and underscores.

  Returns:
    The set's version folder: what to name as a manifest.

  Raises:
    UserError: the set is there already, a file cannot be read, or nothing can be written.
  """
  if not re.fullmatch(r'\w+', name, re.ASCII):
    raise UserError(f'--name {name}: letters, digits and underscores')
  if not storage.is_remote(data_dir):
    places.refuse_bytes(data_dir)  # Before anything is made there.
  own = f'{FaceCrops.name}/{name}'
  with locks.held(
    pathlib.Path(data_dir), name=f'.{FaceCrops.name}.{name}.lock',
    enabled=not storage.is_remote(data_dir),
  ):  # fmt: skip
    return _build_once(manifest, data_dir, name, storage.join(storage.as_root(data_dir), own))


def _build_once(manifest: Manifest, data_dir: storage.Path, name: str, above: str) -> storage.Path:
  """As `build`; `above` is the folder of the set's versions."""
  folder = storage.join(above, str(FaceCrops.VERSION))
  if storage.is_folder(folder):
    if _is_made_from(folder, manifest):  # By this command, killed after its last write, say.
      logging.info('%s is there already, whole, with the same content', folder)
      return folder
    raise UserError(
      f'{folder} is there already, and holds something else; delete it or choose another --name'
    )
  if not storage.is_remote(data_dir):
    _build(manifest, data_dir, name)
    return folder
  with tempfile.TemporaryDirectory() as local:
    storage.upload_folder(_build(manifest, local, name), folder, last='dataset_info.json')
  return folder


def _build(manifest: Manifest, data_dir: storage.Path, name: str) -> pathlib.Path:
  for left in pathlib.Path(data_dir, FaceCrops.name, name).glob('incomplete.*'):  # By a kill.
    shutil.rmtree(left, ignore_errors=True)
  builder = FaceCrops(manifest=manifest, data_dir=data_dir, config=FaceCropsConfig(name=name))
  try:
    builder.download_and_prepare()
  except OSError as error:
    raise UserError(f'cannot write to {data_dir}: {error.strerror or error}') from error
  except RuntimeError as error:  # As ArrayRecord says it.
    if not (full := re.search(r'No space left on device|Disk quota exceeded|Input/output error',
                              str(error))):  # fmt: skip
      raise
    raise UserError(f'cannot write to {data_dir}: {full[0]}') from error
  return pathlib.Path(builder.data_dir)


def _is_made_from(folder: storage.Path, manifest: Manifest) -> bool:
  """Whether a set holds the rows of a manifest; it has its name when all of it is there."""
  try:
    there = load_manifest(folder)
  except UserError:
    return False
  return there.sha256 == manifest.sha256


def _feature(column: pd.Series) -> Any:
  kind = _FEATURES.get(column.dtype.kind)
  return tfds.features.Text() if kind is None else tfds.features.Scalar(kind)
