"""What a run's validation set fixed for its detector: thresholds, calibration, bands."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from masm_jax.inference.feature_statistics import FeatureStatistics
from masm_jax.metrics import binary, calibration, selective
from masm_jax.metrics.scores import LEVELS

VIDEO_SCORE = 'mean'  # Of a video's frames, wherever thresholds are kept.

# Rates that a threshold is given for: of real faces called fake, and of fakes called real.
_FPR = {'fpr=1%': 0.01, 'fpr=5%': 0.05}
_FNR = {'fnr=1%': 0.01}
THRESHOLDS = ('eer', *_FPR, *_FNR)

_MAX_SCORES = 2**16  # Kept of each class and level.


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How far scores are probabilities, on the validation set, by frame.

  Attributes:
    temperature: T of `sigmoid(logit / T)` with the least log-loss (Guo et al. 2017).
    ece: expected calibration error of the scores as they are.
    ece_rescaled: the same with the temperature, on the very set that it was fitted on.
  """

  temperature: float
  ece: float
  ece_rescaled: float


@dataclasses.dataclass(frozen=True)
class LevelScores:
  """The validation's scores at one level, by rising score.

  Attributes:
    labels: int64 [N], 0 real and 1 fake.
    scores: float64 [N], probabilities of fake.
  """

  labels: np.ndarray
  scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Validation:
  """What the validation set fixed.

  Attributes:
    thresholds: by level (`frame`, `video`) and name (`eer`, `fpr=1%`, `fpr=5%`, `fnr=1%`): a score
      at or above it is called fake. A threshold that needs a missing class is left out.
    calibration: by frame; None where a class is missing.
    scores: by level; of a class with more than 65,536 scores, so many evenly spaced in rank. A
      video's score is the mean of its frames'.
    features: for distances of features; None where the validation images were not at hand.
  """

  thresholds: Mapping[str, Mapping[str, float]]
  calibration: Calibration | None
  scores: Mapping[str, LevelScores]
  features: FeatureStatistics | None = None

  def band(self, level: str, *, fpr: float = 0.01, fnr: float = 0.01) -> tuple[float, float]:
    """The abstention band of a level, see `selective.abstention_band`."""
    found = self.scores[level]
    return selective.abstention_band(found.labels, found.scores, fpr=fpr, fnr=fnr)


def from_scores(frames: pd.DataFrame, video_score: str = VIDEO_SCORE) -> Validation:
  """What a validation set's score table fixes.

  Args:
    frames: see `scores.score_table`; every row with a label.
    video_score: how a video's score comes from its frames': mean, median or max.
  """
  thresholds, kept = {}, {}
  tables = (frames, binary.video_scores(frames, video_score))
  for level, table in zip(LEVELS, tables, strict=True):
    labels, values = table['label'].to_numpy(), table['score'].to_numpy(np.float64)
    found = {'eer': binary.equal_error_rate(labels, values)[1]}
    found |= {name: binary.threshold_at_fpr(labels, values, rate) for name, rate in _FPR.items()}
    found |= {name: selective.threshold_at_fnr(labels, values, rate) for name, rate in _FNR.items()}
    thresholds[level] = {name: value for name, value in found.items() if value == value}
    kept[level] = _summary(labels, values)
  labels, logits = frames['label'].to_numpy(), frames['logit'].to_numpy()
  fitted = None
  if 0 < labels.sum() < len(labels):
    temperature = calibration.fit_temperature(labels, logits)
    ece = [
      calibration.expected_calibration_error(labels, calibration.rescale(logits, t))
      for t in (1.0, temperature)
    ]
    fitted = Calibration(temperature, *ece)
  return Validation(thresholds, fitted, kept)


def _summary(labels: np.ndarray, values: np.ndarray) -> LevelScores:
  """Sorted scores, thinned out where there are very many."""
  parts = []
  for label in (0, 1):
    ranked = np.sort(values[labels == label])
    if len(ranked) > _MAX_SCORES:
      ranked = ranked[np.linspace(0, len(ranked) - 1, _MAX_SCORES).round().astype(np.int64)]
    parts.append(ranked)
  every = np.concatenate(parts)
  order = np.argsort(every, kind='stable')
  return LevelScores(np.repeat([0, 1], [len(part) for part in parts])[order], every[order])
