"""From a score table to every metric of a data set: levels, groups, intervals, warnings.

The result is plain JSON types; `results.json` is made of it. Nothing here sees a model.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from masm_jax.metrics import binary as metrics
from masm_jax.metrics import (
  calibration,
  catalogue,
  risk_coverage,
  scores,
  selective,
  uncertainty,
)
from masm_jax.metrics.clusters import Clusters, make_clusters

_FEW_CLUSTERS = 10

Warning_ = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How metrics are computed, the same for every set of an evaluation.

  Attributes:
    thresholds: by level, from the validation set; nan or absent where there is none.
    bands: of abstention, (low, high) by level, from the validation set; absent where there is none.
    temperature: of `calibration.rescale`, from the validation set; None for no such metrics.
    video_score: how a video's score comes from its frames': mean, median or max.
    draws: of the bootstrap.
    confidence: of the intervals.
    unit: 'auto', 'video' or 'identity'.
    seed: of the draws.
    groups: columns whose values get metrics of their own.
    max_groups: a column with more values is left out.
  """

  thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  bands: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  temperature: float | None = None
  video_score: str = 'mean'
  draws: int = 2000
  confidence: float = 0.95
  unit: str = 'auto'
  seed: int = 0
  groups: tuple[str, ...] = ('method', 'compression')
  max_groups: int = 40


def summarize(
  table: pd.DataFrame, settings: Settings, *, name: str = '', with_groups: bool = True
) -> tuple[dict[str, Any], dict[str, Any], list[Warning_]]:
  """Every metric of a data set; rows without a label have no part in any.

  Args:
    table: a score table; it may be empty.
    settings: see `Settings`.
    name: of the set, for warnings.
    with_groups: whether there are metrics by group.

  Returns:
    Metrics `{'frame': ..., 'video': ..., 'groups': {column: {value: {'frame', 'video'}}}}`, facts
    `{'unit', 'clusters'}`, and warnings `{'set', 'kind', 'text'}`.

  Raises:
    UserError: see `metrics.video_scores` and `make_clusters`.
  """
  warnings: list[Warning_] = []

  def warn(kind: str, text: str) -> None:
    warnings.append({'set': name, 'kind': kind, 'text': f'{name}: {text}' if name else text})

  num_scored = len(table)
  table = scores.labelled(table)
  if unlabelled := num_scored - len(table):
    where = f' (the scores: scores/{name}.parquet)' if name else ''
    text = f'{unlabelled} of {num_scored} frames have no label: scores, but no metrics{where}'
    warn('unlabelled', text)
  clusters = make_clusters(table, settings.unit)
  if clusters.note:
    warn('unit', clusters.note)
  if len(table) or not num_scored:
    _check_classes(table, clusters, warn)
  result: dict[str, Any] = _levels(table, clusters, settings, with_bins=True)
  if with_groups:
    result['groups'] = {}
    for column in settings.groups:
      if parts := _parts(table, column, settings.max_groups, warn):
        result['groups'][column] = {
          value: _levels(rows, clusters, settings, with_bins=False) for value, rows in parts.items()
        }
  return result, {'unit': clusters.unit, 'clusters': clusters.num}, warnings


def _check_classes(table: pd.DataFrame, clusters: Clusters, warn: Any) -> None:
  """Warns of what makes metrics undefined or intervals hollow."""
  if not len(table):
    warn('empty', 'no frame was scored; every metric is nan')
    return
  counts = {}
  for label, what in ((0, 'real'), (1, 'fake')):
    counts[what] = clusters.within(table[table['label'] == label])[1]
  if missing := [what for what, count in counts.items() if not count]:
    warn('one_class', f'no {missing[0]} face; metrics that need both classes are nan')
  noun = {'video': 'videos', 'identity': 'groups of identities'}[clusters.unit]
  if clusters.num < 2:
    warn('few_clusters', f'a single one of {noun}: there is no interval')
  elif any(0 < n < _FEW_CLUSTERS for n in counts.values()):
    rough = 'intervals are rough, and too narrow'
    if 1 in counts.values():
      rough = 'there is no interval of what needs a class with a single one; others are rough'
    there = ', '.join(f'{n} {what}' for what, n in counts.items())
    warn('few_clusters', f'few {noun} ({there}): {rough}')


def _parts(
  table: pd.DataFrame, column: str, max_groups: int, warn: Any
) -> dict[str, pd.DataFrame] | None:
  """Rows by value of a column; for methods, the fakes of each and all real faces."""
  if column not in table:
    warn('group', f'there is no column {column!r} for metrics by group')
    return None
  values = table[column].map(str)
  is_real = table['label'] == 0
  named = sorted(set(values[~is_real] if column == 'method' else values))
  if len(named) < 2:
    return None
  if len(named) > max_groups:
    warn('group', f'column {column!r} has {len(named)} values: no metrics by group')
    return None
  if column == 'method':
    return {value: table[is_real | (values == value)] for value in named}
  return {value or '(empty)': table[values == value] for value in named}


def _levels(
  table: pd.DataFrame, clusters: Clusters, settings: Settings, *, with_bins: bool
) -> dict[str, Any]:
  """`{'frame': metrics, 'video': metrics}` of some rows."""
  rescaled = None
  if settings.temperature is not None:
    rescaled = table.assign(score=calibration.rescale(table['logit'], settings.temperature))
  result = {}
  for level in scores.LEVELS:
    rows = _rows(table, level, settings)
    threshold = settings.thresholds.get(level, math.nan)
    band = settings.bands.get(level, risk_coverage.NO_BAND)
    found = level_metrics(rows, clusters, settings, threshold, band)
    if with_bins:
      found['risk_coverage'] = selective.risk_curve(rows['label'], rows['score'], threshold)
      found['reliability'] = calibration.reliability_bins(rows['label'], rows['score'])
      if rescaled is not None:
        found['calibrated'] = _calibrated(_rows(rescaled, level, settings), clusters, settings)
    result[level] = found
  return result


def _rows(table: pd.DataFrame, level: str, settings: Settings) -> pd.DataFrame:
  return table if level == 'frame' else metrics.video_scores(table, settings.video_score)


def level_metrics(
  rows: pd.DataFrame,
  clusters: Clusters,
  settings: Settings,
  threshold: float,
  band: tuple[float, float] = risk_coverage.NO_BAND,
) -> dict[str, Any]:
  """Metrics of frames or videos, with intervals.

  Args:
    rows: `video_id`, `label`, `score`.
    clusters: what is drawn together.
    settings: of the bootstrap.
    threshold: of the level, from validation; nan for none.
    band: of abstention, from validation too.

  Returns:
    `num`, `num_real`, `num_fake`, `eer_threshold`, and `metrics`: name -> `{value, low, high}`.
  """
  labels, values = rows['label'].to_numpy(), rows['score'].to_numpy()
  point = metrics.binary_metrics(labels, values, threshold=threshold, band=band, name=None)
  draws = draw_metrics(rows, clusters, settings, threshold, band)
  counts = {key: point[key] for key in ('num', 'num_real', 'num_fake', 'eer_threshold')}
  return counts | {'metrics': _intervals(point, draws, settings)}


def draw_metrics(
  rows: pd.DataFrame,
  clusters: Clusters,
  settings: Settings,
  threshold: float,
  band: tuple[float, float] = risk_coverage.NO_BAND,
) -> dict[str, np.ndarray]:
  """The bootstrap of some rows: name -> [draws]; all nan for a single cluster."""
  index, num = clusters.within(rows)
  draws = uncertainty.bootstrap(
    rows['label'].to_numpy(),
    rows['score'].to_numpy(),
    index,
    thresholds={'threshold': threshold, '0.5': 0.5},
    band=band,
    num_draws=settings.draws,
    seed=settings.seed,
  )
  if num < 2:  # Every draw is the set itself.
    return {name: np.full(settings.draws, math.nan) for name in draws}
  return draws


def _intervals(
  point: Mapping[str, float],
  draws: Mapping[str, np.ndarray],
  settings: Settings,
  names: Iterable[str] = (),
) -> dict[str, dict[str, float]]:
  return {
    name: dataclasses.asdict(uncertainty.interval(point[name], draws[name], settings.confidence))
    for name in (names or draws)
  }


def _calibrated(rows: pd.DataFrame, clusters: Clusters, settings: Settings) -> dict[str, Any]:
  """Metrics of the rescaled probabilities that differ from the others."""
  labels, values = rows['label'].to_numpy(), rows['score'].to_numpy()
  point = metrics.binary_metrics(labels, values, name=None)
  draws = draw_metrics(rows, clusters, settings, math.nan)
  return {
    'metrics': _intervals(point, draws, settings, catalogue.RESCALED),
    'reliability': calibration.reliability_bins(labels, values),
  }
