"""Which metrics stand first, and how numbers are written."""

import math

from masm_jax.metrics import catalogue
from masm_jax.metrics.text_tables import number

_KEYS = (
  *('auroc', 'ap', 'eer', 'tpr@fpr=0.01'),
  *('balanced_accuracy@threshold', 'fpr@threshold', 'tpr@threshold', 'ece'),
)
# Key in the results, what the table calls it, what it is.
HEADLINES = tuple(
  (key, catalogue.metric(key).short, catalogue.metric(key).meaning) for key in _KEYS
)
# Beside them where validation has fixed a temperature.
RESCALED = ('ece', 'ECE, rescaled', 'the same after the temperature that validation fixed')


def percent(share: float) -> str:
  """A share in [0, 1] as a whole percentage; a dash for what is not defined."""
  return f'{100 * share:.0f}%' if math.isfinite(share) else '–'


def cell(value: tuple[float, float, float]) -> dict[str, str]:
  """A metric as `value` and `interval`, the latter empty where there is none."""
  centre, low, high = value
  known = math.isfinite(low) and math.isfinite(high)
  return {'value': number(centre), 'interval': f'{number(low)}–{number(high)}' if known else ''}
