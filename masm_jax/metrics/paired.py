"""Several detectors on one set: every metric with its interval and its paired difference.

All see the same bootstrap draws of the same clusters, so that what makes a set easy or hard falls
out of a difference. Several seeds of a method stand for one detector: its value is their mean, in
every draw too, and their standard deviation is given beside it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from masm_jax.metrics import uncertainty


def entries(
  point: Mapping[str, Sequence[Mapping[str, float]]],
  draws: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
  *,
  reference: str,
  confidence: float,
) -> dict[str, dict[str, dict[str, Any]]]:
  """Metrics of every detector, and differences from the reference.

  Args:
    point: name -> values by metric, one mapping per seed.
    draws: name -> [B] of each metric, from `summary.draw_metrics`, one mapping per seed.
    reference: the detector that the others are held against.
    confidence: of the intervals.

  Returns:
    name -> metric -> `value`, `low`, `high`, `std` (over seeds; nan for one), `seeds`, and but for
    the reference `difference` of `value`, `low`, `high`.
  """
  values = {name: _mean(seeds, draws[name][0]) for name, seeds in point.items()}
  drawn = {name: _mean(seeds, draws[name][0]) for name, seeds in draws.items()}
  made: dict[str, dict[str, dict[str, Any]]] = {}
  for name, seeds in point.items():
    made[name] = {}
    for metric in drawn[name]:
      held = None if name == reference else (values[reference][metric], drawn[reference][metric])
      each = [one[metric] for one in seeds]
      made[name][metric] = _entry(each, drawn[name][metric], held, confidence)
  return made


def _mean(seeds: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> dict[str, Any]:
  return {name: np.mean([one[name] for one in seeds], axis=0) for name in names}


def _entry(
  seeds: Sequence[float],
  draws: np.ndarray,
  reference: tuple[float, np.ndarray] | None,
  confidence: float,
) -> dict[str, Any]:
  """One cell: value, interval, spread over seeds, difference from the reference."""
  value = float(np.mean(seeds))
  entry = dataclasses.asdict(uncertainty.interval(value, draws, confidence))
  entry |= {
    'std': float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float('nan'),
    'seeds': [float(seed) for seed in seeds],
  }
  if reference is not None:
    difference = uncertainty.interval(value - reference[0], draws - reference[1], confidence)
    entry['difference'] = dataclasses.asdict(difference)
  return entry
