"""Score tables: one row per evaluated frame, kept as Parquet."""

import hashlib
import json
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from numpy.typing import ArrayLike

from masm_jax import files, plain_files
from masm_jax.data import parquet
from masm_jax.data.columns import UNLABELLED
from masm_jax.errors import UserError
from masm_jax.metrics import binary as metrics
from masm_jax.metrics.score_columns import odd_column

COLUMNS = (
  'video_id',
  'path',
  'frame',
  'label',
  'score',  # Probability of fake, float64.
  'logit',  # Log-odds of fake: the fake logit minus the real one, float64.
  'method',
  'dataset',
  'split',
)
LEVELS = ('frame', 'video')
_DIGEST, _OF = b'masm_jax digest', b'masm_jax of'  # In the metadata of a score file.
SHOWN = ('auroc', 'ap', 'eer')  # In printed tables.
_OWN = ('score', 'logit', 'feature', 'thumbnail')  # An evaluation adds these; no manifest may.

_NOTHING: Mapping[str, str] = types.MappingProxyType({})

Metrics = Mapping[str, float]
SetMetrics = Mapping[str, Metrics]  # By level.


def score_table(
  manifest_table: pd.DataFrame, record_idx: ArrayLike, probs: ArrayLike, logits: ArrayLike
) -> pd.DataFrame:
  """The scores of one evaluated data set, gathered over all batches and hosts.

  Rows follow the manifest whatever the order of `record_idx`, so the number of hosts and the batch
  size leave no trace in the table. Beside `COLUMNS` every other column of the manifest is kept:
  intervals need identities, per-group metrics need any of them. A record without a score (its
  image could not be decoded) has no row.

  Args:
    manifest_table: the evaluated manifest's table, in the order that `record_idx` counts in.
    record_idx: int [N], rows of `manifest_table`, each at most once, padding removed.
    probs: [N], probabilities of fake; best made in float64 from the logits, since those of float32
      are all 1 above a log-odds of about 17, and ties change the AUROC.
    logits: [N], log-odds of fake (the fake logit minus the real one), or [N, 2] (real, fake).

  Raises:
    ValueError: if the arrays do not fit each other or the manifest, or a record comes twice.
    UserError: if a score is not finite, or the manifest has a column of that name already.
  """
  if taken := [column for column in _OWN if column in manifest_table]:
    raise UserError(f'the manifest has a column {taken[0]!r}, which scores need: rename it')
  records = np.asarray(record_idx)
  probabilities, log_odds = np.asarray(probs, np.float64), np.asarray(logits, np.float64)
  if log_odds.ndim == 2 and log_odds.shape[1] == 2:
    log_odds = log_odds[:, 1] - log_odds[:, 0]
  if not (records.ndim == 1 and records.shape == probabilities.shape == log_odds.shape):
    raise ValueError(
      f'{records.shape} records, {probabilities.shape} probabilities and {log_odds.shape} logits do'
      ' not fit'
    )
  if len(records) and not np.issubdtype(records.dtype, np.integer):
    raise ValueError(f'record indices are {records.dtype}, not integers')
  records = records.astype(np.int64)
  if ((records < 0) | (records >= len(manifest_table))).any():
    raise ValueError(f'a record index lies outside the manifest of {len(manifest_table)} rows')
  if len(np.unique(records)) != len(records):
    raise ValueError('a record was scored twice: each example counts once')
  order = np.argsort(records)
  rows = manifest_table.iloc[records[order]].reset_index(drop=True)
  rows = rows.assign(score=probabilities[order], logit=log_odds[order])
  bad = ~(np.isfinite(rows['score']) & np.isfinite(rows['logit']))
  if bad.any():
    raise UserError(
      f'{int(bad.sum())} of {len(rows)} scores are not finite, the first is of'
      f' {rows["path"][bad].iloc[0]}: the model has diverged, evaluate an earlier checkpoint'
    )
  if len(rows) < len(manifest_table):
    logging.warning(
      '%d of %d records have no score', len(manifest_table) - len(rows), len(manifest_table)
    )
  return rows[[*COLUMNS, *(column for column in rows if column not in COLUMNS)]]


def write_scores(
  path: str | os.PathLike, table: pd.DataFrame, *, of: Mapping[str, str] = _NOTHING
) -> None:
  """Writes a score table as Parquet; the file appears whole or not at all.

  Equal tables give equal bytes. The file holds a digest of the table, and of what it is of, which
  `read_scores` verifies.

  Args:
    path: the file; its folder is made.
    table: from `score_table`.
    of: what was scored and by what, such as `set`: tells this table from others of the same form.

  Raises:
    UserError: if the file cannot be written.
  """
  try:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    note = json.dumps(dict(of), sort_keys=True).encode() if of else b''
    metadata = (arrow.schema.metadata or {}) | {_DIGEST: _digest(table, note).encode()}
    metadata |= {_OF: note} if of else {}
    # A file, because Arrow takes no path that is not UTF-8.
    with files.replacing(path) as fresh, fresh.open('wb') as file:
      pq.write_table(arrow.replace_schema_metadata(metadata), file)
  except OSError as error:
    raise UserError(f'cannot write the scores to {path}: {error.strerror or error}') from error


def read_scores(path: str | os.PathLike, *, of: Mapping[str, str] = _NOTHING) -> pd.DataFrame:
  """Reads a file of `write_scores`.

  Args:
    path: the file.
    of: what the table has to be of; earlier versions did not write it, and are believed.

  Returns:
    Columns `COLUMNS`, then the manifest's further ones.

  Raises:
    UserError: if the file is missing, damaged or another one, is not Parquet, or lacks a column.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'no score file {path}: an evaluation writes one per data set')
  try:
    with plain_files.open_table(path) as file:
      table, notes = parquet.read(file, str(path), as_bytes=('thumbnail',))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error
  stored = notes.get(_DIGEST)  # Earlier versions stored none.
  if stored and stored.decode('ascii', 'replace') != _digest(table, notes.get(_OF, b'')):
    raise UserError(f'{path}: its content does not match its digest: it is damaged')
  _check_of(path, notes.get(_OF, b'{}'), of)
  missing = [column for column in COLUMNS if column not in table]
  if missing:
    raise UserError(f'{path} lacks the columns {", ".join(missing)}: it is not a score file')
  if column := odd_column(table):
    raise UserError(f'{path}: column {column} holds other values than scores do: it is damaged')
  return table


def is_whole(path: pathlib.Path, *, of: Mapping[str, str] = _NOTHING) -> bool:
  """Whether there is a score table that can be read; a damaged one, or another, is set aside."""
  try:
    read_scores(path, of=of)
  except UserError:
    files.set_aside(path)
    return False
  return True


def _check_of(path: pathlib.Path, note: bytes, of: Mapping[str, str]) -> None:
  """Refuses a table that is of something else."""
  try:
    found = files.parse_object(note)
  except ValueError as error:
    raise UserError(f'{path} does not say what it is of: it is damaged') from error
  for key, value in of.items():
    if (other := found.get(key, value)) != value:
      raise UserError(
        f'{path} is of another {key} ({str(other)[:80]!a}, not {value!a}): put the right file back,'
        ' or score again'
      )


def _digest(table: pd.DataFrame, note: bytes) -> str:
  """SHA-256 of a table's columns: their names and values, as a Parquet file gives them back.

  Args:
    table: of scores.
    note: what it is of.
  """
  digest = hashlib.sha256(note)
  for name in table:
    values = table[name].to_numpy()
    if values.dtype.kind in 'iufb':
      content = f'{values.dtype}'.encode() + np.ascontiguousarray(values).tobytes()
    else:
      content = b'\0'.join(map(_bytes_of, values))
    digest.update(f'{name} {len(content)}\n'.encode() + content)
  return digest.hexdigest()


def _bytes_of(value: Any) -> bytes:
  if isinstance(value, str):
    return value.encode(errors='surrogatepass')
  if isinstance(value, bytes):
    return value
  return repr(np.asarray(value).tolist()).encode()


def labelled(table: pd.DataFrame) -> pd.DataFrame:
  """The rows of a score table that have a label: metrics are made of them alone."""
  return table[table['label'] != UNLABELLED].reset_index(drop=True)


def summarize(
  table: pd.DataFrame,
  *,
  reduce: str = 'mean',
  thresholds: Mapping[str, float] | None = None,
  name: str = '',
) -> dict[str, dict[str, float]]:
  """Metrics of the labelled rows of one data set, at frame and at video level.

  Args:
    table: a score table.
    reduce: how a video's score comes from its frames': mean, median or max.
    thresholds: by level ('frame', 'video'), from validation data; see `metrics.binary_metrics`.
    name: of the data set, for warnings.

  Returns:
    `{'frame': metrics, 'video': metrics}`, metrics as `metrics.binary_metrics` gives them.

  Raises:
    UserError: see `metrics.binary_metrics` and `metrics.video_scores`.
  """
  thresholds = thresholds or {}
  table = labelled(table)
  videos = metrics.video_scores(table, reduce)
  return {
    level: metrics.binary_metrics(
      rows['label'].to_numpy(),
      rows['score'].to_numpy(),
      threshold=thresholds.get(level),
      name=f'{name} ({level}s)' if name else f'{level}s',
    )
    for level, rows in zip(LEVELS, (table, videos), strict=True)
  }
