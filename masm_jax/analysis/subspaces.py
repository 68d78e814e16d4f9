"""Angles, overlaps and spectra of subspaces before and after training, in float64 NumPy.

Subspaces are compared by their spans alone: scale, sign and order of the columns do not matter.
[ours: what is measured and how it is averaged; the paper's analyses are not known]
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

MAX_SPECTRUM_POINTS = 64


def principal_angles_deg(before: ArrayLike, after: ArrayLike) -> np.ndarray:
  """Principal angles between the column spans of two matrices, in degrees, rising.

  Args:
    before: [d, q].
    after: [d, q].

  Returns:
    float64 [q]: all 0 for the same span, all 90 for orthogonal ones. [q'] with q' < q where a
    matrix has lost rank.
  """
  angles = scipy.linalg.subspace_angles(
    np.asarray(before, np.float64), np.asarray(after, np.float64)
  )
  return np.rad2deg(angles[::-1])  # SciPy's fall.


def overlaps(bases: ArrayLike) -> np.ndarray:
  """How much of each subspace lies in each other one.

  Args:
    bases: [K, d, q], a spanning set of columns for each subspace.

  Returns:
    float64 [K, K]: entry (i, j) is `|Q_i^T Q_j|_F^2 / q` with orthonormal bases Q, the mean squared
    cosine of the principal angles: 1 for the same span, 0 for orthogonal ones.
  """
  spans = [scipy.linalg.orth(basis) for basis in np.asarray(bases, np.float64)]
  rank = np.asarray(bases).shape[-1]
  return np.array([[np.square(a.T @ b).sum() / rank for b in spans] for a in spans])


def share_within(bases: ArrayLike, span: ArrayLike) -> np.ndarray:
  """How much of each subspace lies in one given span.

  Args:
    bases: [K, d, q].
    span: [d, n], orthonormal columns.

  Returns:
    float64 [K], `|P Q_k|_F^2 / q`, in 0..1.
  """
  span = np.asarray(span, np.float64)
  found = [scipy.linalg.orth(basis) for basis in np.asarray(bases, np.float64)]
  return np.array([np.square(span.T @ basis).sum() / basis.shape[1] for basis in found])


def compare_factors(
  initial: Mapping[str, ArrayLike],
  trained: Mapping[str, ArrayLike],
  kernel: ArrayLike,
  *,
  semantic_rank: int | None = None,
) -> dict[str, Any]:
  """What became of one kernel's artifact subspaces.

  Args:
    initial: `U [K, d_in, q]`, `S [K, q]`, `V [K, q, d_out]` where training began: singular vectors
      of the kernel.
    trained: the same after it.
    kernel: the kernel that they were taken from, [d_in, d_out].
    semantic_rank: r', how many leading components are the semantic subspace; None for all others.

  Returns:
    For `U` and for `V`: `angles_deg [K, q]` between start and end, `overlap [K, K]` of the
    subspaces at the end, `semantic_share [K]`: how much of each lies in the frozen semantic
    subspace at the end (0 at the start); `S`: `before` and `after`, [K, q]; `artifact`: see
    `compare_artifacts`.
  """
  result: dict[str, Any] = {}
  row_span, column_span = _semantic_bases(initial, kernel, semantic_rank)
  for name, semantic in (('U', row_span), ('V', column_span)):
    # Columns span the subspaces on both sides.
    start, end = (_columns(factors, name) for factors in (initial, trained))
    result[name] = {
      'angles_deg': [principal_angles_deg(a, b) for a, b in zip(start, end, strict=True)],
      'overlap': overlaps(end),
      'semantic_share': share_within(end, semantic),
    }
  result['S'] = {'before': np.asarray(initial['S']), 'after': np.asarray(trained['S'])}
  result['artifact'] = compare_artifacts(initial, trained, row_span, column_span)
  return result


def compare_artifacts(
  initial: Mapping[str, ArrayLike],
  trained: Mapping[str, ArrayLike],
  row_span: np.ndarray,
  column_span: np.ndarray,
) -> dict[str, Any]:
  """What became of the artifact part `A = sum_k U_k diag(S_k) V_k` as a whole, by its energy.

  Angles say how far spans have turned, and nothing of how much of the kernel is in them: a part
  that decay has nearly deleted may turn by any angle.

  Args:
    initial: factors where training began.
    trained: factors after it.
    row_span: [d_in, r], the semantic subspace on the side of U, orthonormal.
    column_span: [d_out, r], on the side of V.

  Returns:
    `norm`: `|A|` before and after; `effective_rank`: before and after, how many dimensions it uses;
    `outside`: `{'U', 'V'}`, share of the energy at the end that lies outside the span at the start
    on that side; `semantic`: `{'U', 'V'}`, the share that lies in the semantic subspace.
  """
  parts = [
    np.einsum('kdq,kq,kqf->df', *(np.asarray(factors[name], np.float64) for name in 'USV'))
    for factors in (initial, trained)
  ]
  end, energy = parts[1], max(float(np.square(parts[1]).sum()), np.finfo(np.float64).tiny)
  share = lambda span, matrix: float(np.square(span.T @ matrix).sum() / energy)
  starts = {
    name: scipy.linalg.orth(np.concatenate(list(_columns(initial, name)), axis=1))
    for name in ('U', 'V')
  }
  return {
    'norm': [float(np.linalg.norm(part)) for part in parts],
    'effective_rank': [
      effective_rank(np.linalg.svd(part, compute_uv=False)) if part.any() else 0.0 for part in parts
    ],
    'outside': {'U': 1.0 - share(starts['U'], end), 'V': 1.0 - share(starts['V'], end.T)},
    'semantic': {'U': share(row_span, end), 'V': share(column_span, end.T)},
  }


def _columns(factors: Mapping[str, ArrayLike], name: str) -> np.ndarray:
  value = np.asarray(factors[name], np.float64)
  return value if name == 'U' else value.transpose(0, 2, 1)


def _semantic_bases(
  initial: Mapping[str, ArrayLike], kernel: ArrayLike, semantic_rank: int | None
) -> tuple[np.ndarray, np.ndarray]:
  """Orthonormal bases of the semantic subspace: [d_in, r] and [d_out, r], from W less artifacts."""
  u, s, v = (np.asarray(initial[name], np.float64) for name in ('U', 'S', 'V'))
  kernel = np.asarray(kernel, np.float64)
  semantic = kernel - np.einsum('kdq,kq,kqf->df', u, s, v)
  rank = semantic_rank or min(kernel.shape) - u.shape[0] * u.shape[2]
  left, _, right = scipy.linalg.svd(semantic, full_matrices=False)
  return left[:, :rank], right[:rank].T


def compare_spectra(before: ArrayLike, after: ArrayLike, rank: int) -> dict[str, Any]:
  """What became of one kernel as a whole, whatever trained it.

  Args:
    before: W, [d_in, d_out].
    after: W(theta), likewise.
    rank: r, how many leading singular components count as its principal subspace.

  Returns:
    `index`: which singular values are given, at most `MAX_SPECTRUM_POINTS` of them; `before`,
    `after`: those; `change`: `|s - s0| / |s0|` over all; `energy_change`: `(|W(theta)|^2 - |W|^2) /
    |W|^2`; `effective_rank`: `[before, after]`, the exponential of the entropy of `s^2 / |s|^2`;
    `principal_kept`: `{'U', 'V'}`, how much of the span of the first r singular vectors at the end
    lies in that at the start, 1 where it has not turned.
  """
  (u0, s0, v0), (u1, s1, v1) = (
    scipy.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    for matrix in (before, after)
  )
  count = min(len(s0), MAX_SPECTRUM_POINTS)
  index = np.unique(np.linspace(0, len(s0) - 1, count).round().astype(int))
  energy = np.square(s0).sum()
  return {
    'index': index,
    'before': s0[index],
    'after': s1[index],
    'change': np.linalg.norm(s1 - s0) / np.linalg.norm(s0),
    'energy_change': (np.square(s1).sum() - energy) / energy,
    'effective_rank': [effective_rank(s0), effective_rank(s1)],
    'principal_kept': {
      'U': share_within(u1[None, :, :rank], u0[:, :rank])[0],
      'V': share_within(v1[None, :rank].transpose(0, 2, 1), v0[:rank].T)[0],
    },
  }


def effective_rank(singular_values: ArrayLike) -> float:
  """`exp(-sum p log p)` with `p = s^2 / |s|^2`: n for n equal values, 1 for a single one."""
  shares = np.square(np.asarray(singular_values, np.float64))
  shares = shares[shares > 0] / shares.sum()
  return float(np.exp(-np.sum(shares * np.log(shares))))
