"""What a benchmark says about the maps of one detector, in words, and whether they are shown."""

from collections.abc import Mapping
from typing import Any

from masm_jax.explain.benchmark import CENTRE

DECISIVE = 'auprc'  # The score that decides whether maps are shown. [ours]


def beats_centre_prior(result: Mapping[str, Any]) -> bool:
  """Whether the maps find forged patches better than a bump in the middle does, beyond chance.

  Args:
    result: of `benchmark.measure`.
  """
  return float(result['differences'][CENTRE][DECISIVE]['low']) > 0


def stored(measured: Mapping[str, Any]) -> dict[str, Any]:
  """What a detector file tells (`detector_schema.MapsBenchmark`), as `benchmark.measure` has it."""
  difference = {key: measured[key] for key in ('value', 'low', 'high')}
  return {
    'num_pairs': measured['num_pairs'],
    'differences': {CENTRE: {DECISIVE: difference}},
  }


def in_words(result: Mapping[str, Any] | None) -> str:
  """The benchmark's result in one or two sentences; None for maps that nobody measured."""
  if result is None:
    return 'Nobody has measured yet whether the maps of this detector show where it was forged.'
  difference = result['differences'][CENTRE][DECISIVE]
  value, low, high = (float(difference[key]) for key in ('value', 'low', 'high'))
  measured = (
    f'average precision of patches {value:+.3f} [{low:+.3f}, {high:+.3f}] against a bump in the'
    f' middle of the picture, on {result["num_pairs"]} forged pictures'
  )
  if low > 0:
    return f'The maps found forged places better than the middle of the picture does: {measured}.'
  if high < 0:
    return (
      f'The maps find forged places worse than the middle of the picture does ({measured}); they'
      ' are not shown unless asked for.'
    )
  return (
    f'The maps could not be told from the middle of the picture ({measured}); they are not shown'
    ' unless asked for.'
  )
