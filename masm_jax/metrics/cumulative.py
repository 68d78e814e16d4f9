"""Sums over ranked examples of draws: how much weight lies up to each group of equals.

`ends` is, throughout, int64 [M]: the last example of each group whose inner order means nothing;
None where every example is a group of its own.
"""

import numpy as np


def ends_of(values: np.ndarray) -> np.ndarray | None:
  """The ends of the groups of equal values, which are sorted [N]."""
  ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
  return ends if len(ends) < len(values) else None


def whole_type(clusters: np.ndarray) -> type[np.signedinteger]:
  """What holds twice the weight of all examples in any draw; int32 is the faster one.

  Args:
    clusters: int64 [N], the cluster of each example, 0 .. C - 1; a draw takes C of them.
  """
  sizes = np.bincount(clusters)
  return np.int32 if 2 * len(sizes) * int(sizes.max()) < 2**31 else np.int64


def sums(values: np.ndarray, ends: np.ndarray | None) -> np.ndarray:
  """[B, N] -> [B, M + 1]: nothing, then the sum up to each end; of the type of the values."""
  result = np.zeros((len(values), values.shape[1] + 1), values.dtype)
  np.cumsum(values, axis=1, dtype=values.dtype, out=result[:, 1:])
  return result if ends is None else result.take(np.append(0, ends + 1), axis=1)
