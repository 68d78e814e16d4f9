"""Whether probabilities mean what they say: reliability bins, ECE, temperature.

Bins are of equal mass: the examples in order of their score, cut into bins of `N / num_bins` each.
Where a cut falls within an example, or within a group of examples with one score (whose order means
nothing), each bin gets its share of the group's mean. The metrics therefore do not depend on the
order of the examples, and repeating every example changes nothing.
"""

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike

from masm_jax.errors import UserError

NUM_BINS = 15
_LOG_TEMPERATURE = (-5.0, 5.0)  # Natural logarithm: from 0.007 to 148.


def reliability_bins(
  labels: ArrayLike, scores: ArrayLike, num_bins: int = NUM_BINS
) -> list[dict[str, float]]:
  """The points of a reliability diagram.

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.
    num_bins: bins of equal mass.

  Returns:
    Per bin, by rising score: `mean_score`, `fake_share` and `weight`, the examples in it (not a
    whole number where N is not divisible). Empty for an empty set.
  """
  labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
  if not len(labels):
    return []
  values, group = np.unique(scores, return_inverse=True)
  mass = np.concatenate([[0.0], np.cumsum(np.bincount(group, minlength=len(values)))])
  fakes = np.concatenate([[0.0], np.cumsum(np.bincount(group, labels, len(values)))])
  totals = np.concatenate([[0.0], np.cumsum(np.bincount(group, scores, len(values)))])
  cuts = np.arange(num_bins + 1) * len(labels) / num_bins
  weight = len(labels) / num_bins
  share = np.diff(np.interp(cuts, mass, fakes)) / weight
  mean = np.diff(np.interp(cuts, mass, totals)) / weight
  return [
    {'mean_score': float(m), 'fake_share': float(s), 'weight': weight}
    for m, s in zip(mean, share, strict=True)
  ]


def expected_calibration_error(
  labels: ArrayLike, scores: ArrayLike, num_bins: int = NUM_BINS
) -> float:
  """Mean over equal-mass bins of |mean score - share of fakes|; nan for an empty set.

  >>> expected_calibration_error([0, 1, 0, 1], [0.25, 0.25, 0.75, 0.75], num_bins=2)
  0.25

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.
    num_bins: 15 in this project (Naeini et al. 2015, with equal mass instead of equal width).
  """
  bins = reliability_bins(labels, scores, num_bins)
  gaps = [abs(bin_['mean_score'] - bin_['fake_share']) for bin_ in bins]
  return float(np.mean(gaps)) if gaps else float('nan')


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
  """The T that minimises the log-loss of `sigmoid(logits / T)` (Guo et al. 2017).

  Fit it on validation data. The log-loss is convex in 1 / T, so the minimum is the only one.

  Args:
    labels: [N], 0 real and 1 fake; both classes.
    logits: [N], log-odds of fake.

  Returns:
    T within [exp(-5), exp(5)]; it lies at the lower end when the logits separate the classes, and
    at the upper one when they say nothing.

  Raises:
    UserError: if a class is missing.
  """
  labels, logits = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
  if not 0 < labels.sum() < len(labels):
    raise UserError('a temperature cannot be fitted: the validation set lacks one of the classes')
  against = np.where(labels == 1, -logits, logits)  # log-loss: log(1 + exp(against / T)).

  def loss(log_temperature: float) -> float:
    return float(np.logaddexp(0.0, against * np.exp(-log_temperature)).mean())

  found = scipy.optimize.minimize_scalar(
    loss, bounds=_LOG_TEMPERATURE, method='bounded', options={'xatol': 1e-9}
  )
  # The bounded search never tries the ends themselves.
  return float(np.exp(min((*_LOG_TEMPERATURE, found.x), key=loss)))


def rescale(logits: ArrayLike, temperature: float) -> np.ndarray:
  """Probabilities `sigmoid(logits / temperature)` as float64, of the shape of `logits`.

  >>> rescale([-2.0, 0.0, 2.0], temperature=2.0).round(3).tolist()
  [0.269, 0.5, 0.731]
  """
  return scipy.special.expit(np.asarray(logits, np.float64) / temperature)
