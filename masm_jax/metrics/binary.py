"""Metrics of a binary detector, computed from labels and scores alone.

Label 1 is fake and a score is a probability of fake. Every function takes all examples at once:
scores are gathered over hosts and batches first, because a mean of batch AUROCs is not the AUROC.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from absl import logging
from numpy.typing import ArrayLike

from masm_jax.errors import UserError
from masm_jax.metrics import calibration, risk_coverage, sklearn_metrics
from masm_jax.metrics.catalogue import FALSE_POSITIVE_RATES, OPERATING_POINT, SELECTIVE, tpr_key

REDUCTIONS = ('mean', 'median', 'max')

# Columns that say where a video comes from; they are constant within it and kept where present.
_VIDEO_COLUMNS = ('method', 'dataset', 'split', 'compression', 'source_video_id', 'identities')


def binary_metrics(
  labels: ArrayLike,
  scores: ArrayLike,
  *,
  threshold: float | None = None,
  band: tuple[float, float] = risk_coverage.NO_BAND,
  name: str | None = '',
) -> dict[str, float]:
  """All metrics of one set of examples.

  >>> found = binary_metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
  >>> found['auroc'], found['eer']
  (0.75, 0.5)

  AUROC and average precision are scikit-learn's, with its treatment of ties. Log-loss clips
  probabilities to `[eps, 1 - eps]` with the eps of float64, as scikit-learn does. A metric that
  needs a class which is missing is nan, with a logged warning; every metric is nan for an empty
  set.

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake in [0, 1]. They are compared in float64, so pass them as
      precisely as they are known: float32 probabilities above about 1 - 6e-8 are all tied at 1.
    threshold: adds the operating point `...@threshold`, `threshold` itself, and the metrics of
      `catalogue.SELECTIVE`; all nan where it is nan. Fix it on validation data (its
      `eer_threshold`), never on the set that is measured.
    band: of validation, see `selective.abstention_band`: what it leaves undecided.
    name: of the set, for warnings; None where the caller gives them itself.

  Returns:
    `auroc`, `ap`, `eer`, `eer_threshold`, `tpr@fpr=F` (the highest TPR of any threshold whose FPR
    is at most F), `log_loss` (nats), `brier`, `ece` (see `calibration`), and `accuracy`,
    `balanced_accuracy`, `f1`, `fpr`, `tpr` at `@0.5` as float; `num`, `num_real`, `num_fake` as
    int. An example counts as fake where `score >= threshold`.

  Raises:
    UserError: if lengths differ, a label is not 0 or 1, or a score is not a probability.
  """
  labels, scores = checked(labels, scores, name or '')
  num_fake = int(labels.sum())
  num_real = len(labels) - num_fake
  if name is not None:
    _warn_one_class(num_real, num_fake, name)
  eer, eer_threshold = _equal_error_rate(labels, scores)
  result = {
    'auroc': _auroc(labels, scores),
    'ap': _average_precision(labels, scores),
    'eer': eer,
    'eer_threshold': eer_threshold,
    **_tpr_at_fpr(labels, scores),
    'log_loss': float(log_losses(labels, scores).mean()) if len(labels) else math.nan,
    'brier': float(np.mean((scores - labels) ** 2)) if len(labels) else math.nan,
    'ece': calibration.expected_calibration_error(labels, scores),
    **_at_threshold(labels, scores, 0.5, '0.5'),
    'num': len(labels),
    'num_real': num_real,
    'num_fake': num_fake,
  }
  if threshold is not None:
    result |= {'threshold': float(threshold)} | _at_threshold(
      labels, scores, float(threshold), 'threshold'
    )
    result |= _selective(labels, scores, float(threshold), band)
  return result


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
  """Area under the ROC curve: P(fake > real) + P(fake == real) / 2; nan when a class is missing.

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.

  Raises:
    UserError: as `binary_metrics`.
  """
  return _auroc(*checked(labels, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
  """Mean precision over the fakes, sum_i (R_i - R_{i-1}) P_i over the distinct thresholds.

  It is scikit-learn's step-wise sum, without interpolation; nan when a class is missing (with no
  real example it would be 1, which says nothing).

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.

  Raises:
    UserError: as `binary_metrics`.
  """
  return _average_precision(*checked(labels, scores))


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
  """The error rate where false positives and false negatives are equally frequent.

  The ROC curve joins the operating points of all distinct thresholds with straight lines, from
  (0, 0) to (1, 1). Along it FPR - FNR rises strictly from -1 to 1, so it crosses zero exactly once;
  the EER is the FPR there.

  A threshold can only reach the operating points themselves. The one returned belongs to the end
  of the crossed line with the smaller `|FPR - FNR|` (the end with the higher FPR where both are
  equal), and lies half-way between the lowest score that it calls fake and the next lower score, so
  that a perfectly separated set is split in the middle of its gap.

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.

  Returns:
    (EER in [0, 1], threshold: fake where `score >= threshold`); (nan, nan) when a class is missing.

  Raises:
    UserError: as `binary_metrics`.
  """
  return _equal_error_rate(*checked(labels, scores))


def threshold_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
  """The least threshold that calls at most a share `fpr` of the real examples fake.

  >>> threshold_at_fpr([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.9], 0.25)
  0.30000000000000004

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake; one at the threshold or above is called fake.
    fpr: within [0, 1).

  Returns:
    The threshold, which may lie just above 1; nan without real examples.
  """
  labels, scores = checked(labels, scores)
  real = np.sort(scores[labels == 0])[::-1]
  if not len(real):
    return float('nan')
  # One ulp above the highest score that must not be called fake.
  return float(np.nextafter(real[int(fpr * len(real))], np.inf))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Corner points of the ROC curve, from (0, 0) to (1, 1).

  Args:
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.

  Returns:
    (false positive rates [M], true positive rates [M]); empty when a class is missing.

  Raises:
    UserError: as `binary_metrics`.
  """
  labels, scores = checked(labels, scores)
  if not _both_classes(labels):
    return np.zeros(0), np.zeros(0)
  fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores)
  return fpr, tpr


def video_scores(frames: pd.DataFrame, reduce: str = 'mean') -> pd.DataFrame:
  """One row per video from one row per frame.

  Args:
    frames: columns `video_id`, `label`, `score`; any order of rows gives the same result, bit for
      bit.
    reduce: how a video's score comes from its frames' probabilities: mean, median or max.

  Returns:
    V rows sorted by `video_id`: `video_id`, `label`, `score`, `num_frames`, and those of method,
    dataset, split, compression, source_video_id and identities that `frames` has.

  Raises:
    UserError: unknown `reduce`, missing columns, or a video whose frames carry both labels.
  """
  if reduce not in REDUCTIONS:
    raise UserError(f'unknown video score {reduce!r}: use one of {", ".join(REDUCTIONS)}')
  _require_columns(frames, ('video_id', 'label', 'score'))
  # A sum of floats depends on its order: sorting by score takes the frames' order out of it.
  frames = frames.sort_values(['video_id', 'score'], kind='stable')
  groups = frames.groupby('video_id', sort=True)
  mixed = groups['label'].nunique() > 1
  if mixed.any():
    raise UserError(
      f'{int(mixed.sum())} videos have frames of both labels, the first is'
      f' {mixed.index[mixed][0]!r}: a video_id must name one video of one class'
    )
  kept = [column for column in _VIDEO_COLUMNS if column in frames]
  videos = groups[['label', *kept]].first()
  videos.insert(1, 'score', groups['score'].agg(reduce))
  videos.insert(2, 'num_frames', groups.size())
  return videos.reset_index()


def checked(labels: ArrayLike, scores: ArrayLike, name: str = '') -> tuple[np.ndarray, np.ndarray]:
  """Labels as int64 [N] and scores as float64 [N], or one line about what is wrong with them.

  Raises:
    UserError: as `binary_metrics`.
  """
  labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
  where = f' in {name}' if name else ''
  if labels.ndim != 1 or labels.shape != scores.shape:
    raise UserError(
      f'labels of shape {labels.shape} do not fit scores of shape {scores.shape}{where}: give one'
      ' of each per example'
    )
  if not np.isin(labels, (0, 1)).all():
    bad = labels[~np.isin(labels, (0, 1))][0]
    raise UserError(f'label {bad} is neither 0 (real) nor 1 (fake){where}')
  outside = ~((scores >= 0) & (scores <= 1))  # True for nan too.
  if outside.any():
    raise UserError(
      f'{int(outside.sum())} of {len(scores)} scores are not probabilities{where}, the first is'
      f' {scores[outside][0]}: pass probabilities of fake, and look at the model if they are nan'
    )
  return labels.astype(np.int64), scores


def _require_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
  missing = [column for column in columns if column not in table]
  if missing:
    raise UserError(f'score table lacks the columns {", ".join(missing)}')


def _both_classes(labels: np.ndarray) -> bool:
  return 0 < labels.sum() < len(labels)


def _warn_one_class(num_real: int, num_fake: int, name: str) -> None:
  if num_real and num_fake:
    return
  found = (
    f'only {"real" if num_real else "fake"} examples' if num_real or num_fake else 'no example'
  )
  logging.warning(
    '%s: %s (%d real, %d fake); metrics that need both classes are nan',
    name or 'evaluation',
    found,
    num_real,
    num_fake,
  )


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
  if not _both_classes(labels):
    return math.nan
  return float(sklearn_metrics.roc_auc_score(labels, scores))


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
  if not _both_classes(labels):
    return math.nan
  return float(sklearn_metrics.average_precision_score(labels, scores))


def _equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
  if not _both_classes(labels):
    return math.nan, math.nan
  fpr, tpr, thresholds = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
  # Whole numbers: FPR - FNR times (reals * fakes) is exact, so that ties are found as ties.
  num_fake = int(labels.sum())
  num_real = len(labels) - num_fake
  false_positives = np.rint(fpr * num_real).astype(np.int64)
  misses = num_fake - np.rint(tpr * num_fake).astype(np.int64)
  excess = false_positives * num_fake - misses * num_real
  after = int(np.argmax(excess >= 0))  # At least 1: it is negative at (0, 0).
  before = after - 1
  share = -excess[before] / (excess[after] - excess[before])
  eer = float(fpr[before] + share * (fpr[after] - fpr[before]))
  point = after if excess[after] <= -excess[before] else before
  if point + 1 == len(thresholds):
    return eer, float(thresholds[point])
  above, below = float(thresholds[point]), float(thresholds[point + 1])
  middle = below + (above - below) / 2
  return eer, middle if below < middle else above


def _tpr_at_fpr(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
  rates = dict.fromkeys(map(tpr_key, FALSE_POSITIVE_RATES), math.nan)
  if _both_classes(labels):
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for limit in FALSE_POSITIVE_RATES:
      rates[tpr_key(limit)] = float(tpr[fpr <= limit * (1 + 1e-12)].max())
  return rates


def _at_threshold(
  labels: np.ndarray, scores: np.ndarray, threshold: float, suffix: str
) -> dict[str, float]:
  """The operating point of `score >= threshold`; a rate without its class is nan."""
  if math.isnan(threshold):
    return dict.fromkeys((f'{name}@{suffix}' for name in OPERATING_POINT), math.nan)
  called = scores >= threshold
  fpr = float(called[labels == 0].mean()) if (labels == 0).any() else math.nan
  tpr = float(called[labels == 1].mean()) if (labels == 1).any() else math.nan
  f1 = math.nan
  if _both_classes(labels):
    f1 = float(2 * (called & (labels == 1)).sum() / (called.sum() + labels.sum()))
  accuracy = float((called == labels).mean()) if len(labels) else math.nan
  values = (accuracy, (tpr + 1 - fpr) / 2, f1, fpr, tpr)
  return {f'{n}@{suffix}': value for n, value in zip(OPERATING_POINT, values, strict=True)}


def _selective(
  labels: np.ndarray, scores: np.ndarray, threshold: float, band: tuple[float, float]
) -> dict[str, float]:
  if not len(labels):
    return dict.fromkeys(SELECTIVE, math.nan)
  everything = np.zeros(len(labels), np.int64)
  ranked = risk_coverage.Ranked.of(labels, scores, everything, threshold, band)
  return {
    name: float(value[0]) for name, value in ranked.metrics(np.ones((1, 1), np.int64)).items()
  }


def log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """The log-loss of each example in nats, [N], from labels [N] and probabilities of fake [N]."""
  eps = np.finfo(np.float64).eps
  of_truth = np.where(labels == 1, scores, 1 - scores)
  return -np.log(np.clip(of_truth, eps, 1 - eps))
