"""How figures are called and written."""

import math
import re

# Name in the results, what the table calls it, what it is.
HEADLINES = (
  ('auroc', 'AUROC', 'chance that a fake scores above a real face'),
  ('ap', 'AP', 'average precision over the fakes'),
  ('eer', 'EER', 'error rate where both kinds of error are equally frequent'),
  ('tpr@fpr=0.01', 'TPR at 1% FPR', 'share of fakes found when 1% of reals are called fake'),
  ('balanced_accuracy@threshold', 'Balanced acc.', 'mean of both recalls at the threshold'),
  ('fpr@threshold', 'FPR', 'reals called fake at the threshold'),
  ('tpr@threshold', 'TPR', 'fakes called fake at the threshold'),
  (
    'ece',
    'ECE',
    'expected calibration error, 15 bins of equal mass; it grows with noise, and draws are noisier'
    ' than the set: its interval may lie above it',
  ),
)
# Beside them where validation has fixed a temperature.
RESCALED = ('ece', 'ECE, rescaled', 'the same after the temperature that validation fixed')
_NAMES = {
  'auroc': 'AUROC',
  'ap': 'Average precision',
  'eer': 'EER',
  'ece': 'ECE',
  'log_loss': 'Log-loss (nats)',
  'brier': 'Brier score',
}
_WHAT = {
  'accuracy': 'Accuracy',
  'balanced_accuracy': 'Balanced accuracy',
  'f1': 'F1',
  'fpr': 'FPR',
  'tpr': 'TPR',
}


def number(value: float) -> str:
  """Three decimals; a dash for what is not defined."""
  return f'{value:.3f}' if math.isfinite(value) else '–'


def cell(value: tuple[float, float, float]) -> dict[str, str]:
  """A figure as `value` and `interval`, the latter empty where there is none."""
  centre, low, high = value
  known = math.isfinite(low) and math.isfinite(high)
  return {'value': number(centre), 'interval': f'{number(low)}–{number(high)}' if known else ''}


def metric_name(key: str) -> str:
  """A metric's name for people: 'fpr@threshold' -> 'FPR at the threshold'."""
  if match := re.fullmatch(r'tpr@fpr=([\d.]+)', key):
    return f'TPR at {100 * float(match.group(1)):g}% FPR'
  what, at, where = key.partition('@')
  if at:
    return f'{_WHAT.get(what, what)} at {"the threshold" if where == "threshold" else where}'
  return _NAMES.get(key, key)
