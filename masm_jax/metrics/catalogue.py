"""Every metric in one table: how it is called, what it means, what it needs.

A metric's key is its name in `results.json`. Those of an operating point are families: `fpr` is
measured as `fpr@threshold` (what validation fixed) and as `fpr@0.5`. To add a metric, add its line
here, its value to `binary.binary_metrics`, and its draws to `uncertainty`.
"""

import dataclasses
import re
from collections.abc import Iterable

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.05)  # Where `tpr@fpr=...` is read off.


@dataclasses.dataclass(frozen=True)
class Metric:
  """A line of the table.

  Attributes:
    key: its name in results; without `@...` for a family.
    short: for the head of a column.
    long: where there is room.
    meaning: half a sentence, for people.
    needs_both_classes: whether it is nan without real or without fake examples.
    is_selectable: whether a checkpoint may be chosen by it.
    is_higher_better: else lower is.
    at_threshold: whether it is one of a family, measured at a threshold.
    is_rescaled: whether a temperature changes it.
    is_selective: whether it is of a detector that may abstain, see `risk_coverage`; measured where
      there is an operating point `threshold`.
  """

  key: str
  short: str
  long: str
  meaning: str
  needs_both_classes: bool = True
  is_selectable: bool = False
  is_higher_better: bool = True
  at_threshold: bool = False
  is_rescaled: bool = False
  is_selective: bool = False


def tpr_key(rate: float) -> str:
  """Key of the TPR at a false positive rate: 0.01 -> 'tpr@fpr=0.01'."""
  return f'tpr@fpr={rate:g}'


def _tpr(rate: float) -> Metric:
  title = f'TPR at {100 * rate:g}% FPR'
  meaning = f'share of fakes found when {100 * rate:g}% of reals are called fake'
  return Metric(tpr_key(rate), title, title, meaning)


_OPERATING_POINT = (
  Metric('accuracy', 'Accuracy', 'Accuracy', 'share of all that is called right',
         needs_both_classes=False, at_threshold=True),
  Metric('balanced_accuracy', 'Balanced acc.', 'Balanced accuracy', 'mean of both recalls',
         at_threshold=True),
  Metric('f1', 'F1', 'F1', 'harmonic mean of precision and recall of the fakes',
         at_threshold=True),
  Metric('fpr', 'FPR', 'FPR', 'reals called fake', needs_both_classes=False,
         is_higher_better=False, at_threshold=True),
  Metric('tpr', 'TPR', 'TPR', 'fakes called fake', needs_both_classes=False, at_threshold=True),
)  # fmt: skip

_SELECTIVE = (
  Metric('coverage', 'Coverage', 'Coverage', 'share outside the abstention band of validation',
         needs_both_classes=False, is_selective=True),
  Metric('selective_accuracy', 'Acc. decided', 'Accuracy of what is decided',
         'share called right of what lies outside the abstention band',
         needs_both_classes=False, is_selective=True),
  Metric('band_accuracy', 'Acc. undecided', 'Accuracy within the abstention band',
         'share that the threshold would call right within the abstention band',
         needs_both_classes=False, is_selective=True),
  Metric('aurc', 'AURC', 'AURC', 'area under the curve of risk over coverage: mean share of errors'
         ' when only the most confident are decided, over how many',
         needs_both_classes=False, is_higher_better=False, is_selective=True),
  Metric('eaurc', 'E-AURC', 'Excess AURC', 'AURC less the least one with as many errors',
         needs_both_classes=False, is_higher_better=False, is_selective=True),
)  # fmt: skip

# In the order of the tables.
METRICS = (
  Metric('auroc', 'AUROC', 'AUROC', 'chance that a fake scores above a real face',
         is_selectable=True),
  Metric('ap', 'AP', 'Average precision', 'average precision over the fakes', is_selectable=True),
  Metric('eer', 'EER', 'EER', 'error rate where both kinds of error are equally frequent',
         is_higher_better=False),
  *map(_tpr, FALSE_POSITIVE_RATES),
  Metric('log_loss', 'log-loss', 'Log-loss (nats)',
         'mean surprise at the labels if the scores were probabilities',
         needs_both_classes=False, is_higher_better=False, is_rescaled=True),
  Metric('brier', 'Brier score', 'Brier score', 'mean squared gap between score and label',
         needs_both_classes=False, is_higher_better=False, is_rescaled=True),
  Metric('ece', 'ECE', 'ECE',
         'expected calibration error, 15 bins of equal mass; it grows with noise, and draws are'
         ' noisier than the set: its interval may lie above it',
         needs_both_classes=False, is_higher_better=False, is_rescaled=True),
  *_OPERATING_POINT,
  *_SELECTIVE,
)  # fmt: skip
_BY_KEY = {metric.key: metric for metric in METRICS}

OPERATING_POINT = tuple(metric.key for metric in _OPERATING_POINT)
SELECTIVE = tuple(metric.key for metric in _SELECTIVE)
RESCALED = tuple(metric.key for metric in METRICS if metric.is_rescaled)
SELECTABLE = tuple(metric.key for metric in METRICS if metric.is_selectable)


def metric(key: str) -> Metric:
  """The metric of a key of `results.json`; one that is not in the table is called by its key.

  >>> metric('fpr@threshold').long
  'FPR at the threshold'
  """
  if key in _BY_KEY:
    return _BY_KEY[key]
  if match := re.fullmatch(r'tpr@fpr=([\d.]+(?:e-\d+)?)', key):
    return _tpr(float(match[1]))
  name, at, where = key.partition('@')
  family = _BY_KEY.get(name)
  if not (at and family and family.at_threshold):
    return Metric(key, key, key, '')
  is_fixed = where == 'threshold'
  where = 'the threshold' if is_fixed else where
  return dataclasses.replace(
    family,
    key=key,
    short=family.short if is_fixed else f'{family.short} at {where}',
    long=f'{family.long} at {where}',
    meaning=f'{family.meaning} at {where}',
  )


def keys(thresholds: Iterable[str]) -> list[str]:
  """Keys of all metrics that have intervals, in the order of the tables.

  Args:
    thresholds: names of the operating points, such as `('threshold', '0.5')`.
  """
  thresholds = tuple(thresholds)
  plain = [m.key for m in METRICS if not m.at_threshold and not m.is_selective]
  plain += [f'{name}@{where}' for where in thresholds for name in OPERATING_POINT]
  return [*plain, *(SELECTIVE if 'threshold' in thresholds else ())]
