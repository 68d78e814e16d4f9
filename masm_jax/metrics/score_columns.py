"""What the columns of a score file hold that every reader relies on."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from masm_jax.data.columns import FAKE, REAL, UNLABELLED


def odd_column(table: pd.DataFrame) -> str:
  """The first column that holds other values than scores do; '' for none."""
  for column, is_valid in _VALID.items():
    if column not in table:  # Identities are not known of every set.
      continue
    try:
      good = is_valid(table[column])
    except (TypeError, ValueError):
      good = False
    if not good:
      return column
  return ''


def _are_features(column: pd.Series) -> bool:
  """Whether those that are there are lists of numbers, all of one length."""
  known = [value for value in column if value is not None]
  if not all(isinstance(value, np.ndarray) and value.dtype.kind == 'f' for value in known):
    return False
  return len({value.shape for value in known}) < 2


_VALID: Mapping[str, Callable[[pd.Series], bool]] = {
  **{
    name: lambda column: all(isinstance(value, str) for value in column)
    for name in ('video_id', 'path', 'method', 'dataset', 'split', 'identities')
  },
  'frame': lambda column: column.dtype.kind in 'iu',
  'label': lambda column: column.dtype.kind in 'iu' and column.isin((REAL, FAKE, UNLABELLED)).all(),
  'score': lambda column: column.dtype.kind == 'f' and column.between(0, 1).all(),
  'logit': lambda column: column.dtype.kind == 'f' and np.isfinite(column).all(),
  'feature': _are_features,
}
