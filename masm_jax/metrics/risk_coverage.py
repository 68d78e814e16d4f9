"""What a detector that may abstain gets wrong on what it decides: risk, coverage, AURC.

Risk is the share of errors among the decided examples, coverage the share that is decided. Two ways
to decide are measured: by the abstention band that validation fixed (`selective`), and by every
other coverage at once, the most confident examples first. Confidence is the distance of a score's
log-odds from those of the threshold: the maximum probability of the same detector with its bias
moved so that the threshold is 0.5.
"""

import dataclasses
import functools
import math
from typing import Self

import numpy as np

from masm_jax.metrics import cumulative

CURVE_POINTS = 20  # Of the selective-risk curve, at equal steps of coverage.

NO_BAND = (math.nan, math.nan)

_EPS = np.finfo(np.float64).eps  # Scores nearer to 0 or 1 are as good as these.


@dataclasses.dataclass(frozen=True)
class Ranked:
  """N examples by falling confidence, and what of them is a plain sum over clusters.

  Attributes:
    wrong: int32 [N], 1 where the threshold's decision is wrong; nan without a threshold.
    clusters: int64 [N].
    ends: int64 [M], see `cumulative`: stretches over which errors grow evenly.
    sums: float64 [C, 4], per cluster: decided outside the band, of these right, within the band,
      of these right at the threshold; nan without a band.
  """

  wrong: np.ndarray
  clusters: np.ndarray
  ends: np.ndarray | None
  sums: np.ndarray

  @classmethod
  def of(
    cls,
    labels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray,
    threshold: float,
    band: tuple[float, float],
  ) -> Self:
    """Ranks examples.

    Args:
      labels: [N], 0 real and 1 fake.
      scores: float64 [N], probabilities of fake.
      clusters: int64 [N], 0 .. C - 1, each there.
      threshold: fake where `score >= threshold`; nan for none.
      band: (low, high), undecided where `low <= score < high`; nan for none.
    """
    low, high = band
    confidence = np.abs(_logit(scores) - _logit(np.float64(threshold)))
    is_right = ((scores >= threshold) == (labels == 1)).astype(np.float64)
    wrong = (1 - is_right).astype(np.int32)
    if math.isnan(threshold):
      wrong = np.full(len(scores), math.nan)
    inside = (scores >= low) & (scores < high)
    right_outside = ((scores >= high) == (labels == 1)) & ~inside
    columns = np.stack([~inside, right_outside, inside, inside * is_right]).astype(np.float64)
    if math.isnan(low) or math.isnan(high):
      columns[:] = math.nan
    elif math.isnan(threshold):
      columns[3] = math.nan
    num = int(clusters.max()) + 1
    sums = np.stack([np.bincount(clusters, column, num) for column in columns], axis=1)
    order = np.argsort(-confidence, kind='stable')
    return cls(wrong[order], clusters[order], _stretches(confidence[order], wrong[order]), sums)

  def metrics(self, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `catalogue.SELECTIVE`, each [B], of draws with whole `counts` [B, C].

    AURC (Geifman and El-Yaniv 2017) is the mean risk over the coverages 1/N, 2/N, ..., 1; within a
    group of equal confidence, over every order of it. E-AURC (Geifman et al. 2019) is the AURC less
    the least one with as many errors, where all errors come last.
    """
    # Not `@`: how BLAS adds depends on its threads.
    decided, right, undecided, right_within = np.einsum('bc,ck->kb', counts, self.sums)
    mass, errors = self._cumulative(counts)
    total, wrong = mass[:, -1], errors[:, -1]
    harmonic = _harmonic(int(total.max()).bit_length())
    at = harmonic[mass.astype(np.int64)]
    size, found = np.diff(mass), np.diff(errors)
    slope = found / np.maximum(size, 1)
    # The sum over k of (errors before + slope * (k - mass before)) / k, group by group.
    area = found + (errors[:, :-1] - slope * mass[:, :-1]) * np.diff(at)
    with np.errstate(divide='ignore', invalid='ignore'):
      aurc = area.sum(axis=1) / total
      correct = np.where(np.isnan(wrong), 0, total - wrong)
      least = (wrong - correct * (at[:, -1] - harmonic[correct.astype(np.int64)])) / total
      return {
        'coverage': decided / (decided + undecided),
        'selective_accuracy': right / decided,
        'band_accuracy': right_within / undecided,
        'aurc': aurc,
        'eaurc': aurc - least,
      }

  def curve(self) -> list[dict[str, float]]:
    """The selective-risk curve of all examples: `coverage` and `risk`, by rising coverage."""
    mass, errors = self._cumulative(np.ones((1, len(self.sums)), np.int64))
    coverage = np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS
    decided = coverage * mass[0, -1]
    risk = np.interp(decided, mass[0], errors[0]) / decided
    return [{'coverage': float(c), 'risk': float(r)} for c, r in zip(coverage, risk, strict=True)]

  def _cumulative(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples and errors up to each group of equal confidence, both [B, M + 1]."""
    weights = counts.take(self.clusters, axis=1)
    mass = cumulative.sums(weights, self.ends)
    return mass, cumulative.sums(weights * self.wrong, self.ends)


@functools.lru_cache(maxsize=1)
def _harmonic(bits: int) -> np.ndarray:
  """The harmonic numbers H_0, ..., H_(2 ** bits - 1); draws of one size ask for the same ones."""
  return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 2**bits))])


def _stretches(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray | None:
  """Ends of the groups of equal confidence [N], falling; adjoining ones that are pure are one."""
  ends = cumulative.ends_of(confidence)
  ends = np.arange(len(wrong)) if ends is None else ends
  errors = np.diff(np.cumsum(wrong)[ends], prepend=0)
  share = errors / np.diff(ends, prepend=-1)
  is_mixed = (share > 0) & (share < 1)
  return ends[np.append((share[1:] != share[:-1]) | is_mixed[1:], True)]


def _logit(scores: np.ndarray | np.float64) -> np.ndarray:
  clipped = np.clip(scores, _EPS, 1 - _EPS)
  return np.log(clipped) - np.log1p(-clipped)
