"""The one table that describes every data set: one row per face crop.

A manifest is a Parquet or CSV file. Order of rows and columns in the file does not matter: a loaded
manifest is always sorted by `path`, with `COLUMNS` first and further columns behind them by name.
Its hash is the SHA-256 of that table written as CSV (`canonical_bytes`), so it is the same for a
CSV file, a Parquet file and any order of rows, and it is the checksum of the CSV form itself.
"""

import concurrent.futures
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from masm_jax.data.columns import canonical_table
from masm_jax.errors import UserError

_EXIF_ORIENTATION = 274


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A validated table of N face crops.

  Attributes:
    table: N rows sorted by `path`, columns `COLUMNS` and then any further ones; index 0..N-1.
    root: the folder that `path` is relative to.
    sha256: hash of `canonical_bytes(table)`; it does not depend on `root`.
  """

  table: pd.DataFrame
  root: pathlib.Path
  sha256: str

  def __len__(self) -> int:
    return len(self.table)

  @property
  def labels(self) -> np.ndarray:
    """Labels as int32 [N]: 0 real, 1 fake."""
    return self.table['label'].to_numpy(np.int32)

  @property
  def paths(self) -> list[str]:
    """The N files as `root/path`, in record order."""
    root = os.fspath(self.root)
    return [os.path.join(root, path) for path in self.table['path']]

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
    return _manifest(self.table[keep].reset_index(drop=True), self.root)


def load_manifest(path: str | os.PathLike, root: str | os.PathLike | None = None) -> Manifest:
  """Reads and validates a manifest.

  Needed are the columns `REQUIRED`; others get their neutral value. Links below `root` may point
  anywhere, but `path` itself must not leave it.

  Args:
    path: a `.csv` or `.parquet` file.
    root: the folder that the `path` column is relative to; default: the manifest's own.

  Raises:
    UserError: if the file is missing, unreadable or empty, or has missing columns, unknown labels
      or splits, missing files, duplicate paths, paths that leave the root, or videos with two
      labels. The line names the first offending rows, counted from 1 without the header.
  """
  path = pathlib.Path(path)
  root = path.parent if root is None else pathlib.Path(root)
  if not path.is_file():
    raise UserError(f'no manifest at {path}; make one with `python -m masm_jax.data import`')
  if not root.is_dir():
    raise UserError(f'{path}: its root {root} is not a folder')
  if path.suffix not in ('.csv', '.parquet'):
    raise UserError(f'{path}: a manifest is a .csv or .parquet file')
  raw = _read_csv(path) if path.suffix == '.csv' else _read_parquet(path)
  return _manifest(canonical_table(raw, root, str(path)), root)


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
  root = pathlib.Path(root)
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
    files = [os.path.join(root, table.at[i, 'path']) for i in todo]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
      facts = list(pool.map(_file_facts, files, chunksize=64))
    for column, values in zip(('sha256', 'width', 'height'), zip(*facts, strict=True), strict=True):
      table.loc[todo, column] = list(values)
  return _manifest(table, root)


def write_manifest(manifest: Manifest, path: str | os.PathLike) -> None:
  """Writes a manifest as Parquet or CSV, by the name's ending.

  The same manifest gives the same bytes, and the file appears whole or not at all.

  Raises:
    UserError: if the name has another ending, or its folder cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix == '.csv':
    content = canonical_bytes(manifest.table)
  elif path.suffix == '.parquet':
    # Without pandas' own metadata, whose version would change the bytes.
    table = pa.Table.from_pandas(manifest.table, preserve_index=False)
    sink = io.BytesIO()
    pa.parquet.write_table(table.replace_schema_metadata(None), sink, compression='zstd')
    content = sink.getvalue()
  else:
    raise UserError(f'{path}: a manifest is a .csv or .parquet file')
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror}') from error
  finally:
    partial.unlink(missing_ok=True)


def canonical_bytes(table: pd.DataFrame) -> bytes:
  """A manifest's table as UTF-8 CSV: what its hash is taken of."""
  return table.to_csv(index=False, lineterminator='\n').encode()


def _manifest(table: pd.DataFrame, root: pathlib.Path) -> Manifest:
  return Manifest(table, root, hashlib.sha256(canonical_bytes(table)).hexdigest())


def _read_csv(path: pathlib.Path) -> pd.DataFrame:
  # As text alone: type inference would turn the video '000' into 0 and the method 'NA' into NaN.
  try:
    with open(path, encoding='utf-8-sig', newline='') as file:
      header, *lines = list(csv.reader(file, strict=True)) or [[]]
  except (csv.Error, UnicodeDecodeError) as error:
    raise UserError(f'{path}: not a CSV file in UTF-8: {error}') from error
  lines = [line for line in lines if line]
  for number, line in enumerate(lines, 1):
    if len(line) != len(header):
      raise UserError(f'{path}: row {number} has {len(line)} fields, its header {len(header)}')
  if len(set(header)) != len(header):
    raise UserError(f'{path}: a column stands twice in the header {",".join(header)}')
  columns = zip(*lines, strict=True) if lines else [[]] * len(header)
  return pd.DataFrame(
    {name: np.array(values, object) for name, values in zip(header, columns, strict=True)}
  )


def _read_parquet(path: pathlib.Path) -> pd.DataFrame:
  try:
    return pa.parquet.read_table(path).to_pandas()
  except (pa.ArrowException, OSError) as error:
    first_line = str(error).partition('\n')[0]
    raise UserError(f'{path}: not a Parquet file that can be read: {first_line}') from error


def _file_facts(path: str) -> tuple[str, int, int]:
  """SHA-256, width and height of an image file; size 0 x 0 where it is not an image."""
  content = pathlib.Path(path).read_bytes()
  try:
    with Image.open(io.BytesIO(content)) as image:
      width, height = image.size
      if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:  # Rotated by 90 degrees.
        width, height = height, width
  except Exception:  # Pillow raises many types on broken files; none of them is an error here.
    width = height = 0
  return hashlib.sha256(content).hexdigest(), width, height
