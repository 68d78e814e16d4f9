"""Percentile bootstrap of every metric, over clusters of examples.

A draw takes as many clusters as there are, with replacement, and every example of each: an example
then counts as often as its cluster was drawn. So a draw is a vector of whole-number weights, and a
metric of it is a weighted metric over examples that are sorted once for all draws. Weights and
their sums stay whole numbers, which NumPy adds up many times faster than float64. Draw number i
depends on (seed, i, number of clusters) alone: methods that are compared on the same set see the
same draws, and neither chunks nor threads leave a trace.
"""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from masm_jax.metrics import binary as metrics
from masm_jax.metrics import calibration, catalogue, cumulative, risk_coverage

_MIN_DEFINED = 0.8  # Share of the draws, see `interval`.
_CHUNK_VALUES = 2**17  # Weights in flight per thread: a megabyte, which stays in the cache.


@dataclasses.dataclass(frozen=True)
class Interval:
  """A metric and its interval.

  Attributes:
    value: of the examples themselves.
    low: lower percentile over the draws; nan where there is no interval.
    high: upper percentile.
  """

  value: float
  low: float
  high: float


def draw_counts(num_clusters: int, draws: range, seed: int) -> np.ndarray:
  """How often each cluster was drawn: float64 [len(draws), num_clusters], rows sum to their number.

  Args:
    num_clusters: C.
    draws: which draws.
    seed: not negative.
  """
  counts = np.empty((len(draws), num_clusters))
  for row, draw in enumerate(draws):
    picked = np.random.default_rng((seed, draw)).integers(num_clusters, size=num_clusters)
    counts[row] = np.bincount(picked, minlength=num_clusters)
  return counts


def bootstrap(
  labels: ArrayLike,
  scores: ArrayLike,
  clusters: ArrayLike,
  *,
  thresholds: Mapping[str, float] | None = None,
  band: tuple[float, float] = risk_coverage.NO_BAND,
  num_draws: int = 2000,
  seed: int = 0,
  num_threads: int | None = None,
) -> dict[str, np.ndarray]:
  """Every metric of every draw.

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.
    clusters: int [N], the cluster of each example; 0 .. C - 1, each there.
    thresholds: operating points, name -> threshold, such as `{'0.5': 0.5, 'threshold': 0.31}`.
    band: of validation, see `selective.abstention_band`; used with a threshold `threshold`.
    num_draws: B.
    seed: of the draws.
    num_threads: by default one per core.

  Returns:
    The names of `metrics.binary_metrics`, without counts and thresholds, each -> float64 [B]; nan
    where a draw lacks a class that the metric needs. Empty arrays of nan for an empty set.
  """
  labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
  clusters = np.asarray(clusters, np.int64)
  names = catalogue.keys(thresholds or {})
  if not len(labels):
    return {name: np.full(num_draws, math.nan) for name in names}
  sample = _Sorted.of(labels, scores, clusters, thresholds or {})
  ranked = None
  if thresholds and 'threshold' in thresholds:
    ranked = risk_coverage.Ranked.of(labels, scores, clusters, thresholds['threshold'], band)
  whole = cumulative.whole_type(clusters)
  size = max(1, min(num_draws, _CHUNK_VALUES // len(labels)))
  chunks = [range(i, min(i + size, num_draws)) for i in range(0, num_draws, size)]

  def compute(chunk: range) -> dict[str, np.ndarray]:
    counts = draw_counts(sample.num_clusters, chunk, seed).astype(whole)
    return sample.metrics(counts) | (ranked.metrics(counts) if ranked else {})

  with concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
    parts = list(pool.map(compute, chunks))  # NumPy lets threads run side by side.
  return {name: np.concatenate([part[name] for part in parts]) for name in names}


def interval(value: float, draws: np.ndarray, confidence: float = 0.95) -> Interval:
  """The percentile interval of a metric.

  Args:
    value: the metric itself.
    draws: [B], from `bootstrap`; nan where undefined.
    confidence: share of the draws within the interval.

  Returns:
    An interval over the draws where the metric is defined; (nan, nan) where that is less than four
    fifths of them, or the metric itself is undefined. A class in a single cluster is in at most
    three quarters of the draws, and each time the same: it would add no width to an interval. Two
    classes in two clusters or more are both in at least 86 %.
  """
  defined = draws[~np.isnan(draws)]
  if math.isnan(value) or len(defined) < _MIN_DEFINED * len(draws):
    return Interval(value, math.nan, math.nan)
  low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
  return Interval(value, float(low), float(high))


@dataclasses.dataclass(frozen=True)
class _Sorted:
  """N examples by falling score, and what of them is a plain sum over clusters.

  Attributes:
    labels: int32 [N].
    gaps: float64 [N], score - label.
    clusters: int64 [N].
    ends: int64 [M], see `cumulative`: groups of equal scores.
    sums: float64 [C, K], per cluster: reals, fakes, log-loss, Brier, then per threshold the false
      and the true positives.
    suffixes: names of the thresholds.
  """

  labels: np.ndarray
  gaps: np.ndarray
  clusters: np.ndarray
  ends: np.ndarray | None
  sums: np.ndarray
  suffixes: tuple[str, ...]

  @classmethod
  def of(
    cls,
    labels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray,
    thresholds: Mapping[str, float],
  ) -> '_Sorted':
    columns = [1 - labels, labels, metrics.log_losses(labels, scores), (scores - labels) ** 2]
    for threshold in thresholds.values():
      called = np.where(np.isnan(threshold), np.nan, scores >= threshold)
      columns += [called * (1 - labels), called * labels]
    num = int(clusters.max()) + 1
    sums = np.stack([np.bincount(clusters, column, num) for column in columns], axis=1)
    order = np.argsort(-scores, kind='stable')
    scores, labels, clusters = scores[order], labels[order], clusters[order]
    ends = cumulative.ends_of(scores)
    return cls(labels.astype(np.int32), scores - labels, clusters, ends, sums, tuple(thresholds))

  @property
  def num_clusters(self) -> int:
    return len(self.sums)

  def metrics(self, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [B] of draws with whole `counts` [B, C]."""
    weights = counts.take(self.clusters, axis=1)
    total = cumulative.sums(weights, self.ends)
    gaps = cumulative.sums(weights * self.gaps, self.ends)
    weights *= self.labels
    hits = cumulative.sums(weights, self.ends)  # True positives, strictest threshold first.
    false = total - hits
    with np.errstate(divide='ignore', invalid='ignore'):
      return self._ranking(hits, false, total) | {'ece': _ece(total, gaps)} | self._plain(counts)

  def _ranking(
    self, hits: np.ndarray, false: np.ndarray, total: np.ndarray
  ) -> dict[str, np.ndarray]:
    """AUROC, AP, EER and TPR at fixed FPR from counts [B, M + 1]; all are whole numbers."""
    fakes, reals = hits[:, -1].astype(float), false[:, -1].astype(float)
    undefined = (fakes == 0) | (reals == 0)
    area = np.einsum('bm,bm->b', np.diff(false), hits[:, 1:] + hits[:, :-1], dtype=float) / 2
    precision = hits[:, 1:] / np.maximum(total[:, 1:], 1)
    values = {
      'auroc': area / (fakes * reals),
      'ap': np.einsum('bm,bm->b', np.diff(hits), precision) / fakes,
    }
    rows = np.arange(len(hits))

    def excess(at: np.ndarray) -> np.ndarray:
      """(FPR - FNR) * reals * fakes, which rises from below 0 to above."""
      return false[rows, at] * fakes - (fakes - hits[rows, at]) * reals

    def is_above(at: np.ndarray, most: np.ndarray) -> np.ndarray:
      return false[rows, at] > most

    after = _first(lambda at: excess(at) >= 0, *hits.shape)
    before = np.maximum(after - 1, 0)
    share = -excess(before) / (excess(after) - excess(before))
    step = false[rows, after] - false[rows, before]
    values['eer'] = (false[rows, before] + share * step) / reals
    for limit in catalogue.FALSE_POSITIVE_RATES:
      most = limit * reals * (1 + 1e-12)
      beyond = _first(functools.partial(is_above, most=most), *hits.shape)
      values[catalogue.tpr_key(limit)] = hits[rows, beyond - 1] / fakes
    return {name: np.where(undefined, math.nan, value) for name, value in values.items()}

  def _plain(self, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics that are ratios of sums over examples."""
    # Not `@`: how BLAS adds depends on its threads.
    sums = np.einsum('bc,ck->kb', counts, self.sums)
    reals, fakes, log_loss, brier = sums[:4]
    values = {'log_loss': log_loss / (reals + fakes), 'brier': brier / (reals + fakes)}
    for suffix, false, hits in zip(self.suffixes, sums[4::2], sums[5::2], strict=True):
      fpr, tpr = false / reals, hits / fakes
      f1 = 2 * hits / (false + hits + fakes)
      values |= {
        f'accuracy@{suffix}': (reals - false + hits) / (reals + fakes),
        f'balanced_accuracy@{suffix}': (tpr + 1 - fpr) / 2,
        f'f1@{suffix}': np.where((reals == 0) | (fakes == 0), math.nan, f1),
        f'fpr@{suffix}': fpr,
        f'tpr@{suffix}': tpr,
      }
    return values


def _first(holds: Callable[[np.ndarray], np.ndarray], rows: int, columns: int) -> np.ndarray:
  """Per row the first column where a condition holds that stays true once it is; int64 [rows].

  Args:
    holds: int64 [rows] of columns -> bool [rows]; never asked beyond the last column.
    rows: how many.
    columns: how many; the result where the condition holds nowhere.
  """
  low, high = np.zeros(rows, np.int64), np.full(rows, columns)
  while (low < high).any():
    middle = np.minimum((low + high) // 2, columns - 1)
    found = holds(middle)
    open_ = low < high
    high = np.where(open_ & found, middle, high)
    low = np.where(open_ & ~found, middle + 1, low)
  return low


def _ece(total: np.ndarray, gaps: np.ndarray) -> np.ndarray:
  """ECE [B] from the cumulative weight and sum of score - label, both [B, M + 1].

  The sums are read off at equal steps of weight; see `calibration`.
  """
  mass = total[:, -1:]
  cuts = np.arange(calibration.NUM_BINS + 1)[None] * mass / calibration.NUM_BINS
  at = np.empty_like(cuts)
  for row in range(len(total)):
    at[row] = np.interp(cuts[row], total[row], gaps[row])
  return np.abs(np.diff(at, axis=1)).sum(axis=1) / mass[:, 0]
