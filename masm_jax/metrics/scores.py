"""Score tables: one row per evaluated frame, kept as Parquet, and the tables printed from them."""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
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
from masm_jax.metrics import catalogue, text_tables
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
_DIGEST = b'masm_jax digest'  # In the metadata of a score file.
SHOWN = ('auroc', 'ap', 'eer')  # In printed tables.
_OWN = ('score', 'logit', 'feature', 'thumbnail')  # An evaluation adds these; no manifest may.

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


def write_scores(path: str | os.PathLike, table: pd.DataFrame) -> None:
  """Writes a score table as Parquet; the file appears whole or not at all.

  Equal tables give equal bytes. The file holds a digest of the table, which `read_scores` verifies.

  Args:
    path: the file; its folder is made.
    table: from `score_table`.

  Raises:
    UserError: if the file cannot be written.
  """
  try:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = (arrow.schema.metadata or {}) | {_DIGEST: _digest(table).encode()}
    with files.replacing(path) as fresh:
      pq.write_table(arrow.replace_schema_metadata(metadata), fresh)
  except OSError as error:
    raise UserError(f'cannot write the scores to {path}: {error.strerror or error}') from error


def read_scores(path: str | os.PathLike) -> pd.DataFrame:
  """Reads a file of `write_scores`.

  Returns:
    Columns `COLUMNS`, then the manifest's further ones.

  Raises:
    UserError: if the file is missing or damaged, is not Parquet, or lacks a column.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'no score file {path}: an evaluation writes one per data set')
  try:
    content = plain_files.read_bytes(path, max_bytes=plain_files.MAX_TABLE_BYTES)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error
  table, notes = parquet.read(content, str(path), as_bytes=('thumbnail',))
  stored = notes.get(_DIGEST)  # Earlier versions stored none.
  if stored and stored.decode('ascii', 'replace') != _digest(table):
    raise UserError(f'{path}: its content does not match its digest: it is damaged')
  missing = [column for column in COLUMNS if column not in table]
  if missing:
    raise UserError(f'{path} lacks the columns {", ".join(missing)}: it is not a score file')
  if column := odd_column(table):
    raise UserError(f'{path}: column {column} holds other values than scores do: it is damaged')
  return table


def is_whole(path: pathlib.Path) -> bool:
  """Whether there is a score table that can be read; a damaged one is set aside."""
  try:
    read_scores(path)
  except UserError:
    files.set_aside(path)
    return False
  return True


def _digest(table: pd.DataFrame) -> str:
  """SHA-256 of a table's columns: their names and values, as a Parquet file gives them back."""
  digest = hashlib.sha256()
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


def format_table(results: Mapping[str, SetMetrics]) -> str:
  """The printed table of one run: a row per data set, frame and video level side by side.

  Args:
    results: `{data set: {'frame': metrics, 'video': metrics}}`, from `summarize` or read back from
      JSON (where nan is the string 'nan').

  Returns:
    Aligned plain text that ends without a line break; the same results give the same text.
  """
  columns = (*((catalogue.metric(key).short, key) for key in SHOWN), ('n', 'num'))
  header = ['data set']
  for _ in LEVELS:
    header += [title for title, _ in columns]
  rows = [
    [name, *(_cell(levels.get(level, {}), key) for level in LEVELS for _, key in columns)]
    for name, levels in results.items()
  ]
  half = len(columns)
  lines = text_tables.align([header, *rows], group=half)
  widths = text_tables.column_widths([header, *rows])
  spans = [sum(widths[1 + i * half : 1 + (i + 1) * half]) + 2 * (half - 1) for i in range(2)]
  groups = [
    ' ' * widths[0],
    *(f' {level} '.center(span, '-') for level, span in zip(LEVELS, spans, strict=True)),
  ]
  return '\n'.join(['   '.join(groups), *lines])


def format_intervals(results: Mapping[str, Any], metrics_shown: Sequence[str] = SHOWN) -> str:
  """The printed table of an evaluation: per data set and level, metrics with their intervals.

  Args:
    results: `sets` of an evaluation's `results.json`.
    metrics_shown: names of its metrics.

  Returns:
    Aligned plain text that ends without a line break.
  """
  header = ['data set', 'level', *(catalogue.metric(key).short for key in metrics_shown), 'n']
  rows = [
    [
      name,
      level,
      *(format_interval(levels[level]['metrics'][metric]) for metric in metrics_shown),
      str(levels[level]['num']),
    ]
    for name, levels in results.items()
    for level in LEVELS
  ]
  return '\n'.join(text_tables.align([header, *rows]))


def format_calibration(results: Mapping[str, Any], names: Sequence[str]) -> str:
  """The printed table of what a temperature changes: per data set and level, before and after.

  Args:
    results: `sets` of an evaluation's `results.json`, made with a temperature.
    names: of the metrics.

  Returns:
    Aligned plain text that ends without a line break.
  """
  header = ['data set', 'level', *(catalogue.metric(key).short for key in names)]
  rows = [
    [
      name,
      level,
      *(
        ' -> '.join(f'{float(part["metrics"][metric]["value"]):.3f}' for part in (before, after))
        for metric in names
      ),
    ]
    for name, levels in results.items()
    for level, before, after in ((k, levels[k], levels[k]['calibrated']) for k in LEVELS)
  ]
  return '\n'.join(text_tables.align([header, *rows]))


def format_interval(entry: Metrics) -> str:
  """`0.912 [0.884, 0.937]` from `{value, low, high}`, also where nan is text."""
  value, low, high = (float(entry[key]) for key in ('value', 'low', 'high'))
  return f'{value:.3f} [{low:.3f}, {high:.3f}]' if low == low else f'{value:.3f}'


def format_comparison(
  results: Mapping[str, Mapping[str, SetMetrics]], metric: str = 'auroc', level: str = 'video'
) -> str:
  """Several methods on the same data sets: a row per method, a column per data set.

  Args:
    results: `{method: {data set: {'frame': metrics, 'video': metrics}}}`.
    metric: a key of `metrics.binary_metrics`.
    level: 'frame' or 'video'.

  Returns:
    Aligned plain text under a line that names metric and level. Columns come in the order in which
    the data sets are first met; `-` stands where a method has no metric for a set.
  """
  names = list(dict.fromkeys(name for sets in results.values() for name in sets))
  header = ['method', *names]
  rows = [
    [method, *(_cell(sets.get(name, {}).get(level, {}), metric) for name in names)]
    for method, sets in results.items()
  ]
  title = f'{catalogue.metric(metric).short}, {level} level'
  return '\n'.join([title, *text_tables.align([header, *rows])])


def _cell(values: Metrics, key: str) -> str:
  if key not in values:
    return '-'
  # float() also takes the strings that stand for nan and inf in JSON.
  return str(values[key]) if key.startswith('num') else f'{float(values[key]):.4f}'
