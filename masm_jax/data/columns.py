"""The columns of a manifest, and what every row has to satisfy.

`masm_jax.data.manifest` reads and writes the files; this module turns whatever table stood in them
into the one canonical form, or says which rows are wrong.
"""

import posixpath
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from masm_jax.data import storage
from masm_jax.errors import UserError

REAL, FAKE, UNLABELLED = 0, 1, -1
SPLITS = ('train', 'val', 'test')

_TEXT = (
  'path',
  'dataset',
  'split',
  'method',
  'compression',
  'video_id',
  'source_video_id',
  'identities',
  'sha256',
)
_INTEGER = ('label', 'frame', 'width', 'height')

COLUMNS = (
  'path',  # Relative to the manifest's root, with forward slashes; unique.
  'label',  # 0 real, 1 fake, -1 unlabelled: to be scored, and nothing else.
  'dataset',
  'split',  # train | val | test; unlabelled rows may have none.
  'method',  # 'real', or the manipulation: 'DF', 'F2F', ...
  'compression',  # raw | c23 | c40 | empty.
  'video_id',  # Unique over data sets: dataset/method/video.
  'frame',
  'source_video_id',  # The real video that a fake was made from; a real's own id.
  'identities',  # Ids joined by ';'.
  'width',  # Pixels as displayed; 0 where unknown or unreadable.
  'height',
  'sha256',  # Of the file's bytes; empty where unknown.
)
REQUIRED = ('path', 'label', 'dataset', 'split', 'video_id')

_SHOWN_ROWS = 3
_LABELS = 'unknown label, must be 0 (real), 1 (fake) or -1 (unlabelled)'


def canonical_table(
  raw: pd.DataFrame, root: storage.Path, name: str, *, check_files: bool = True
) -> pd.DataFrame:
  """The canonical table of `raw`: checked, typed, completed, sorted by path."""
  if not len(raw):
    raise UserError(f'{name}: the manifest is empty')
  missing = [column for column in REQUIRED if column not in raw]
  if missing:
    raise UserError(f'{name}: missing column {", ".join(missing)}; needed: {", ".join(REQUIRED)}')

  def refuse(bad: np.ndarray, what: str, column: str) -> None:
    rows = np.flatnonzero(bad)
    if not len(rows):
      return
    shown = []
    for i in rows[:_SHOWN_ROWS]:
      value = '' if column == 'path' else f', {column}={raw[column].iloc[i]}'
      shown.append(f'row {i + 1} ({raw["path"].iloc[i]}{value})')
    more = f' and {len(rows) - _SHOWN_ROWS} more' if len(rows) > _SHOWN_ROWS else ''
    line = f'{name}: {what}: {", ".join(shown)}{more}'
    raise UserError(' '.join(line.encode(errors='backslashreplace').decode().split()))

  def refuse_surrogates(columns: dict[str, np.ndarray], column: str) -> None:
    values = columns[column]
    if values.dtype == object:  # One by one: all together they would be in memory twice.
      refuse(np.array([not _is_utf8(value) for value in values]), f'{column} is not UTF-8', column)

  size = len(raw)
  table: dict[str, Any] = {}
  for column in _TEXT:
    table[column] = _text(raw[column]) if column in raw else np.full(size, '', object)
  for column in _INTEGER:
    table[column] = _integers(raw, column, refuse)

  refuse(~np.isin(table['label'], (REAL, FAKE, UNLABELLED)), _LABELS, 'label')
  needs_none = (table['label'] == UNLABELLED) & (table['split'] == '')
  refuse(
    ~(np.isin(table['split'], SPLITS) | needs_none),
    f'unknown split, must be one of {", ".join(SPLITS)}',
    'split',
  )
  refuse(table['video_id'] == '', 'empty video_id', 'video_id')
  unusable = np.array([not _is_plain(path) for path in table['path']])
  refuse(unusable, 'path is empty, not UTF-8 or has a line break', 'path')
  for column in _TEXT:  # Before any of them goes through pandas, which keeps text as UTF-8.
    refuse_surrogates(table, column)
  table['path'] = np.array([posixpath.normpath(path) for path in table['path']], object)
  leaves = [path.startswith('/') or path.split('/')[0] == '..' for path in table['path']]
  refuse(np.array(leaves), f'path leaves the root {root}', 'path')
  refuse(pd.Series(table['path']).duplicated(keep=False).to_numpy(), 'duplicate path', 'path')
  by_video = pd.Series(table['label']).groupby(pd.Series(table['video_id']))
  refuse((by_video.transform('nunique') > 1).to_numpy(), 'video_id with two labels', 'video_id')
  if check_files:
    refuse(_absent(root, table['path']), f'missing file below {root}', 'path')

  is_real = table['label'] == REAL
  unnamed = table['method'] == ''
  names = np.select([is_real, table['label'] == FAKE], ['real', 'fake'], 'unlabelled')
  table['method'] = np.where(unnamed, names, table['method'])
  own = is_real & (table['source_video_id'] == '')
  table['source_video_id'] = np.where(own, table['video_id'], table['source_video_id'])

  extras = sorted(column for column in raw.columns if column not in COLUMNS)
  columns = {column: table[column] for column in COLUMNS}
  columns |= {column: _extra(raw[column]).to_numpy() for column in extras}
  for column in extras:
    refuse_surrogates(columns, column)

  order = sorted(range(size), key=table['path'].__getitem__)
  return pd.DataFrame({column: values[order] for column, values in columns.items()})


def _text(values: pd.Series) -> np.ndarray:
  # A list, which Parquet can hold, is text too: asked of it, `isna` answers for each item.
  unknown = values.isna()
  texts = (str(_as_list(value)) for value in values)
  return np.array(['' if no else text for no, text in zip(unknown, texts, strict=True)], object)


def _as_list(value: Any) -> Any:
  """A list of Python's own in the place of an array, in which others may lie.

  NumPy's text of an array within a list has eight digits of a number, and dots in the place of
  what is long: texts of different values would be the same.
  """
  if not isinstance(value, np.ndarray):
    return value
  return [_as_list(item) for item in value] if value.dtype == object else value.tolist()


def _integers(
  raw: pd.DataFrame, column: str, refuse: Callable[[np.ndarray, str, str], None]
) -> np.ndarray:
  if column not in raw:
    return np.zeros(len(raw), np.int64)
  blank = raw[column].isna().to_numpy() | (_text(raw[column]) == '')
  numbers = pd.to_numeric(raw[column].where(~blank, 0), errors='coerce').to_numpy(float)
  what = f'{column} is not a whole number'
  if column == 'label':
    what = _LABELS
  whole = (np.floor(numbers) == numbers) & (np.abs(numbers) < 2**53)
  refuse(~whole | (blank if column == 'label' else False), what, column)
  return numbers.astype(np.int64)


def _extra(values: pd.Series) -> pd.Series:
  """A further column with the type that its text stands for, the same from CSV and Parquet.

  Text becomes numbers only where writing them again gives back that very text, so that ids such as
  '007' stay as they are; an empty field among fractions is NaN.
  """
  values = values.infer_objects()
  if pd.api.types.is_bool_dtype(values):
    return values
  is_known = pd.api.types.is_integer_dtype(values) and not values.isna().any()
  if is_known and values.max() < 2**63:  # Larger ones are text, as they are from CSV.
    return values.astype(np.int64)
  if pd.api.types.is_float_dtype(values):
    return values.astype(np.float64)
  text = _text(values)
  if set(text) <= {'True', 'False'}:
    return pd.Series(text == 'True')
  try:
    integers = np.array([int(value) for value in text], np.int64)
    if [str(value) for value in integers] == list(text):
      return pd.Series(integers)
  except (ValueError, OverflowError):
    pass
  try:
    fractions = [float(value or 'nan') for value in text]
    if any(text) and ['' if np.isnan(f) else str(f) for f in fractions] == list(text):
      return pd.Series(fractions)
  except ValueError:
    pass
  return pd.Series(text, dtype=object)


def _is_plain(path: str) -> bool:
  """Whether a path can stand in a manifest: UTF-8 text on one line, and not empty."""
  return bool(path) and _is_utf8(path) and not any(character in path for character in '\0\n\r')


def _is_utf8(text: str) -> bool:
  """Whether a text can be written as UTF-8: JSON can hold half a surrogate pair."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _absent(root: storage.Path, paths: Sequence[str]) -> np.ndarray:
  """Which paths are no files below root, as bool [N]; lists each folder once: no stat per file."""
  files: dict[str, set[str]] = {}
  absent = np.zeros(len(paths), bool)
  for i, path in enumerate(paths):
    folder, name = posixpath.split(path)
    if folder not in files:
      files[folder] = storage.file_names(storage.join(root, folder))
    absent[i] = name not in files[folder]
  return absent
