"""Abstention: the band of scores in which a detector calls nothing, and what is left outside it.

A score below the band is called real, one at its upper end or above is called fake, and one within
it is undecided: `low <= score < high`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from masm_jax.metrics import binary, risk_coverage


def threshold_at_fnr(labels: ArrayLike, scores: ArrayLike, fnr: float) -> float:
  """The greatest threshold that misses at most a share `fnr` of the fakes.

  >>> threshold_at_fnr([1, 1, 1, 1, 0], [0.1, 0.2, 0.3, 0.4, 0.9], 0.25)
  0.2

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake; one below the threshold is called real.
    fnr: within [0, 1).

  Returns:
    The threshold; nan without fakes.

  Raises:
    UserError: as `binary.binary_metrics`.
  """
  labels, scores = binary.checked(labels, scores)
  fakes = np.sort(scores[labels == 1])
  return float(fakes[int(fnr * len(fakes))]) if len(fakes) else math.nan


def abstention_band(
  labels: ArrayLike, scores: ArrayLike, *, fpr: float = 0.01, fnr: float = 0.01
) -> tuple[float, float]:
  """The band between two thresholds of the validation set [ours].

  >>> abstention_band([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
  (0.3, 0.6000000000000001)

  From `high` on at most a share `fpr` of the real examples is called fake, below `low` at most a
  share `fnr` of the fakes is called real. Where one threshold keeps both rates (few errors, or
  perfectly separated classes: `low >= high`), nothing has to be left undecided: the band is empty,
  and both ends are the validation's EER threshold, or the nearest one that keeps both rates.

  Args:
    labels: [N], of the validation set, 0 real and 1 fake.
    scores: [N], its probabilities of fake.
    fpr: the false positive rate at the upper end, within [0, 1).
    fnr: the false negative rate at the lower end, within [0, 1).

  Returns:
    (low, high), `low <= high`; (nan, nan) where a class is missing: there is no band then, and no
    decision that validation stands for.

  Raises:
    UserError: as `binary.binary_metrics`.
  """
  high = binary.threshold_at_fpr(labels, scores, fpr)
  low = threshold_at_fnr(labels, scores, fnr)
  if math.isnan(high) or math.isnan(low):
    return math.nan, math.nan
  if low >= high:
    low = high = min(max(binary.equal_error_rate(labels, scores)[1], high), low)
  return low, high


def risk_curve(labels: ArrayLike, scores: ArrayLike, threshold: float) -> list[dict[str, float]]:
  """The selective-risk curve: the share of errors when only the most confident are decided.

  >>> curve = risk_curve([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], 0.5)
  >>> [curve[i]['risk'] for i in (9, 19)]  # Of half of them, of all.
  [0.0, 0.25]

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.
    threshold: of validation: confidence is a score's distance from it, see `risk_coverage`.

  Returns:
    `risk_coverage.CURVE_POINTS` points `coverage` and `risk`, by rising coverage; none for an empty
    set, or without a threshold.

  Raises:
    UserError: as `binary.binary_metrics`.
  """
  labels, scores = binary.checked(labels, scores)
  if not len(labels) or math.isnan(threshold):
    return []
  everything = np.zeros(len(labels), np.int64)
  return risk_coverage.Ranked.of(
    labels, scores, everything, threshold, risk_coverage.NO_BAND
  ).curve()
