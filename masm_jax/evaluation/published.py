"""Published AUROCs, to stand beside measured ones: each with its level and its source.

They come from other pipelines (crops, frames per video, splits) and are not comparable with metrics
that were measured here; tables mark them so. Sets are named as in `configs/cross_eval.py`.
"""

import dataclasses
from collections.abc import Mapping

_BENCH = 'DeepfakeBench README'
_ADAPTER = 'Forensics Adapter README'
_EFFORT = 'number in the Effort README'
_SECOND_HAND = 'second-hand, variant not stated'


@dataclasses.dataclass(frozen=True)
class Published:
  """One row of the literature.

  Attributes:
    method: its name.
    level: 'frame' or 'video'.
    source: where the numbers stand.
    auroc: set -> AUROC in [0, 1], trained on FF++ c23; empty where no verified number is known.
  """

  method: str
  level: str
  source: str
  auroc: Mapping[str, float]


def _row(method: str, level: str, source: str, sets: tuple[str, ...], *values: float | None):
  found = {name: value for name, value in zip(sets, values, strict=True) if value is not None}
  return Published(method, level, source, found)


_FRAME = ('cdfv1', 'cdfv2', 'dfd', 'dfdc', 'dfdcp', 'dfo', 'uadfv')
_VIDEO = ('cdfv2', 'dfd', 'dfdc', 'dfdcp', 'dfo', 'wdf', 'ffiw')

PUBLISHED = (
  _row('Xception', 'frame', _BENCH, _FRAME, 0.779, 0.737, 0.816, 0.708, 0.737, 0.834, 0.938),
  _row('EfficientNet-B4', 'frame', _BENCH, _FRAME, 0.791, 0.749, 0.815, 0.696, 0.728, 0.833, 0.947),
  _row('F3Net', 'frame', _BENCH, _FRAME, 0.777, 0.735, 0.798, 0.702, 0.735, 0.843, 0.935),
  _row('SPSL', 'frame', _BENCH, _FRAME, 0.815, 0.765, 0.812, 0.704, 0.741, 0.877, 0.942),
  _row('UCF', 'frame', _BENCH, _FRAME, 0.779, 0.753, 0.807, 0.719, 0.759, 0.824, 0.953),
  _row('LSDA', 'frame', _ADAPTER, _FRAME, 0.867, 0.830, 0.880, 0.736, 0.815, None, None),
  _row('Forensics Adapter', 'frame', _ADAPTER, _FRAME, 0.914, 0.9, 0.933, 0.843, 0.89, None, None),
  _row('SBI', 'video', _EFFORT, _VIDEO, 0.886, 0.827, 0.717, 0.848, 0.899, 0.703, 0.866),
  _row('LSDA', 'video', _EFFORT, _VIDEO, 0.875, 0.881, 0.701, 0.812, 0.768, 0.797, 0.724),
  _row('ProDet', 'video', _EFFORT, _VIDEO, 0.926, 0.901, 0.707, 0.828, 0.879, 0.781, 0.751),
  _row('CDFA', 'video', _EFFORT, _VIDEO, 0.938, 0.954, 0.830, 0.881, 0.973, 0.796, 0.777),
  _row('Effort', 'video', _EFFORT, _VIDEO, 0.956, 0.965, 0.843, 0.909, 0.977, 0.848, 0.921),
  _row('GenD', 'video', _SECOND_HAND, _VIDEO, 0.960, 0.970, 0.871, None, None, None, 0.945),
  Published('MASM', 'frame', 'no verified number is known', {}),
  Published('FMSD', 'frame', 'no verified number is known', {}),
  Published('MASM', 'video', 'no verified number is known', {}),
  Published('FMSD', 'video', 'no verified number is known', {}),
)  # fmt: skip


def rows_for(level: str, sets: list[str]) -> list[Published]:
  """Rows of a level with a number for one of these sets, then those without any number at all.

  Empty where no set is in the published tables.
  """
  rows = [row for row in PUBLISHED if row.level == level]
  shown = [row for row in rows if set(row.auroc) & set(sets)]
  return shown + [row for row in rows if not row.auroc] if shown else []
