"""The one table that describes every data set: one row per face crop.

A manifest is a Parquet or CSV file. Order of rows and columns in the file does not matter: a loaded
manifest is always sorted by `path`, with `COLUMNS` first and further columns behind them by name.
Its hash is the SHA-256 of that table written as CSV (`canonical_bytes`), so it is the same for a
CSV file, a Parquet file and any order of rows, and it is the checksum of the CSV form itself.

In the place of a file, the version folder of a TFDS set (`masm_jax.data.tfds_builder`) is a
manifest too: the images then lie in its shards. All paths may be URLs (`masm_jax.data.storage`).
"""

import concurrent.futures
import dataclasses
import errno
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from masm_jax.data import csv_files, parquet, raster, storage
from masm_jax.data.columns import FAKE, SPLITS, canonical_table
from masm_jax.data.images import Files, Images
from masm_jax.data.shards import INFO_NAME, Shards, find_shards, own_file
from masm_jax.errors import UserError

SHARDED_NAME = 'manifest.parquet'  # Within a TFDS set's folder.
_ROOT = b'masm_jax.root'  # Of a Parquet file's metadata: where its paths start.
_EXIF_ORIENTATION = 274


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A validated table of N face crops.

  Attributes:
    table: N rows sorted by `path`, columns `COLUMNS` and then any further ones; index 0..N-1.
    root: the folder that `path` is relative to; text for a URL.
    sha256: hash of `canonical_bytes(table)`; it does not depend on `root`.
    shards: where the images are, if they are no files below `root`.
  """

  table: pd.DataFrame
  root: pathlib.Path | str
  sha256: str
  shards: Shards | None = None

  def __len__(self) -> int:
    return len(self.table)

  @property
  def labels(self) -> np.ndarray:
    """Labels as int32 [N]: 0 real, 1 fake, -1 unlabelled."""
    return self.table['label'].to_numpy(np.int32)

  @property
  def method_ids(self) -> np.ndarray:
    """Which forgery made each record, as int32 [N]: 0 real or unlabelled, 1, 2, ... the methods of
    the fakes by name."""
    is_fake = self.labels == FAKE
    ids = np.zeros(len(self), np.int32)
    ids[is_fake] = 1 + np.unique(self.table['method'][is_fake], return_inverse=True)[1]
    return ids

  @property
  def paths(self) -> list[str]:
    """The N files as `root/path`, in record order; names alone where the images are in shards."""
    return [storage.join(self.root, path) for path in self.table['path']]

  @property
  def images(self) -> Images:
    """The N encoded images, in record order."""
    return self.shards or Files(self.paths)

  @property
  def video_ids(self) -> np.ndarray:
    """The video that each record belongs to, as object [N] of str."""
    return self.table['video_id'].to_numpy(object)

  def select(self, **columns: Any) -> 'Manifest':
    """Rows where every named column equals its value, or is in its list of values.

    The result may be empty; record indices count its own rows.

    Raises:
      UserError: if there is no such column.
    """
    keep = np.ones(len(self.table), bool)
    for name, wanted in columns.items():
      if name not in self.table:
        known = ', '.join(self.table.columns)
        raise UserError(f'no column {name!r} in the manifest; it has {known}')
      values = [wanted] if isinstance(wanted, str) or np.isscalar(wanted) else list(wanted)
      keep &= self.table[name].isin(values).to_numpy()
    return self.take(keep)

  def take(self, keep: np.ndarray) -> 'Manifest':
    """The rows where `keep`, bool [N], says so."""
    shards = self.shards and self.shards.take(np.flatnonzero(keep))
    return _manifest(self.table[keep].reset_index(drop=True), self.root, shards)


def load_manifest(
  path: str | os.PathLike, root: str | os.PathLike | None = None, *, check_files: bool = True
) -> Manifest:
  """Reads and validates a manifest.

  Needed are the columns `REQUIRED`; others get their neutral value. Links below `root` may point
  anywhere, but `path` itself must not leave it.

  Args:
    path: a `.csv` or `.parquet` file, or the version folder of a TFDS set.
    root: the folder that the `path` column is relative to; default: the one that the manifest
      names (`write_manifest`), or its own.
    check_files: whether a file that is not there is an error.

  Raises:
    UserError: if the file is missing, unreadable or empty, or has missing columns, unknown labels
      or splits, missing files, duplicate paths, paths that leave the root, or videos with two
      labels. The line names the first offending rows, counted from 1 without the header.
  """
  if not storage.is_remote(path):
    path = pathlib.Path(path)
  is_table = storage.suffix(path) in _READERS
  if not is_table and storage.is_file(storage.join(path, INFO_NAME)):
    return _load_sharded(path, check_files=check_files)
  if not storage.is_file(path):
    raise no_manifest(path)
  table, named_root = _read(path)
  root = storage.as_root(root) if root is not None else _resolved(named_root, path)
  if check_files and not storage.is_folder(root):
    raise UserError(f'{path}: its root {root} is not a folder')
  return _manifest(canonical_table(table, root, str(path), check_files=check_files), root)


def _load_sharded(folder: str | os.PathLike, *, check_files: bool) -> Manifest:
  """The manifest of a TFDS set: its table, and its shards for the images."""
  here = storage.local_folder(folder)
  path = here / SHARDED_NAME
  if not path.is_file():
    raise UserError(f'{folder}: a TFDS set without {SHARDED_NAME}; make it with our own builder')
  path = own_file(here, SHARDED_NAME)
  table = canonical_table(_read(path)[0], here, str(path), check_files=False)
  # Each split's records stand in the order of the table: `tfds_builder` writes them so.
  split = np.array([SPLITS.index(name) for name in table['split']], np.int8)
  index = np.zeros(len(table), np.int64)
  rows = {name: int((split == i).sum()) for i, name in enumerate(SPLITS)}
  for i, count in enumerate(rows.values()):
    index[split == i] = np.arange(count)
  files = find_shards(here, rows, check_files=check_files)
  names = [storage.join(folder, path) for path in table['path']]
  root = storage.as_root(folder)
  return _manifest(table, root, Shards(files, split, index, names))


def no_manifest(path: str | os.PathLike) -> UserError:
  """The error to raise where a manifest should be and is not."""
  return UserError(
    f'no manifest at {path}; make one with `python -m masm_jax.data import` (from crops) or '
    '`python -m masm_jax.preprocess` (from videos)'
  )


def build_manifest(
  rows: pd.DataFrame | Iterable[Mapping[str, Any]], root: str | os.PathLike
) -> Manifest:
  """Validates rows like `load_manifest` does, and fills in what can be read off the files.

  Args:
    rows: one mapping per crop with at least the keys `REQUIRED`; further keys become columns.
      `width`, `height` and `sha256` are read from the file where they are not given; a file that
      is not an image gets size 0 x 0, which `python -m masm_jax.data check` reports.
    root: the folder that `path` is relative to.

  Raises:
    UserError: as `load_manifest`.
  """
  root = storage.as_root(root)
  if isinstance(rows, pd.DataFrame):
    raw = rows
  else:
    rows = list(rows)
    # As objects: pandas' own text type has no room for file names that are not UTF-8, which
    # deserve the error below rather than its.
    names = list(dict.fromkeys(name for row in rows for name in row))
    raw = pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, dtype=object)
  table = canonical_table(raw, root, 'rows')
  todo = np.flatnonzero((table['sha256'] == '') | (table['width'] <= 0) | (table['height'] <= 0))
  if len(todo):
    files = [storage.join(root, table.at[i, 'path']) for i in todo]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
      facts = list(pool.map(_file_facts, files, chunksize=64))
    for column, values in zip(('sha256', 'width', 'height'), zip(*facts, strict=True), strict=True):
      table.loc[todo, column] = list(values)
  return _manifest(table, root)


def write_manifest(manifest: Manifest, path: str | os.PathLike) -> None:
  """Writes a manifest as Parquet or CSV, by the name's ending.

  The same manifest gives the same bytes, and the file appears whole or not at all. A Parquet file
  remembers the root where that is not its own folder; a CSV file has no place for it.

  Raises:
    UserError: if the name has another ending, or its folder cannot be written.
  """
  if storage.suffix(path) == '.csv':
    content = canonical_bytes(manifest.table)
  elif storage.suffix(path) == '.parquet':
    # Without pandas' own metadata, whose version would change the bytes.
    table = pa.Table.from_pandas(manifest.table, preserve_index=False)
    sink, root = io.BytesIO(), _root_to_store(manifest.root, storage.parent(path))
    table = table.replace_schema_metadata({_ROOT: root.encode()} if root else None)
    pa.parquet.write_table(table, sink, compression='zstd')
    content = sink.getvalue()
  else:
    raise UserError(f'{path}: a manifest is a .csv or .parquet file')
  storage.write_bytes(path, content)


def canonical_bytes(table: pd.DataFrame) -> bytes:
  """A manifest's table as UTF-8 CSV: what its hash is taken of."""
  return csv_files.content(table)


def _manifest(
  table: pd.DataFrame, root: pathlib.Path | str, shards: Shards | None = None
) -> Manifest:
  return Manifest(table, root, csv_files.sha256(table), shards)


def _root_to_store(root: storage.Path, folder: storage.Path) -> str:
  """What a manifest in `folder` says of its root: '' for the folder itself, or the way there."""
  if storage.is_remote(root):
    return '' if os.fspath(root) == os.fspath(folder) else storage.absolute(root)
  if storage.is_remote(folder):  # Whoever reads it there has no such folder.
    return ''
  below = storage.relative(root, folder)
  return '' if below == '.' else below  # Relative: both may be moved together.


def _resolved(named: str, path: storage.Path) -> pathlib.Path | str:
  """The folder that a manifest names as its root, '' standing for its own.

  Raises:
    UserError: it is on machines that a manifest may not send us to.
  """
  folder = storage.parent(path)
  if not named:
    return folder
  if storage.is_remote(named):
    if not named.startswith(('gs://', 's3://')) or '::' in named:
      raise UserError(f'{path} names {named!r} as its root: give --root, a folder that you trust')
    return storage.as_root(named)
  return storage.as_root(storage.join(folder, named))


def _read(path: storage.Path) -> tuple[pd.DataFrame, str]:
  """The table of a file as it is, and the root that it names, '' for none.

  Raises:
    UserError: it cannot be read.
  """
  if storage.suffix(path) not in _READERS:
    raise UserError(f'{path}: a manifest is a .csv or .parquet file')
  try:
    with storage.open_table(path) as file:
      return _READERS[storage.suffix(path)](file, str(path))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error


def _read_csv(file: BinaryIO, name: str) -> tuple[pd.DataFrame, str]:
  return csv_files.read(file, name, max_columns=parquet.MAX_COLUMNS), ''


def _read_parquet(file: BinaryIO, name: str) -> tuple[pd.DataFrame, str]:
  table, notes = parquet.read(file, name)
  try:
    return table, notes.get(_ROOT, b'').decode()
  except UnicodeDecodeError as error:
    raise UserError(f'{name}: the root that it names is not UTF-8: give --root') from error


_READERS = {'.csv': _read_csv, '.parquet': _read_parquet}


def _file_facts(path: str) -> tuple[str, int, int]:
  """SHA-256, width and height of an image file; size 0 x 0 where it is not an image.

  Of a file that is too large for one, not even the hash.
  """
  try:
    content = storage.read_bytes(path, max_bytes=raster.MAX_FILE_BYTES)
  except OSError as error:
    if error.errno == errno.EFBIG:
      return '', 0, 0
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error
  try:
    with raster.open_image(content) as image:
      width, height = image.size
      if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:  # Rotated by 90 degrees.
        width, height = height, width
  except Exception:  # Pillow raises many types on broken files; none of them is an error here.
    width = height = 0
  return hashlib.sha256(content).hexdigest(), width, height
