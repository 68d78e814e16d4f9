"""ROC and DET curves, as a PNG or within a page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from matplotlib import ticker
from matplotlib.axes import Axes

from masm_jax.metrics import binary as metrics
from masm_jax.plots.style import Theme, label

_CURVE_STEP = 1 / 400  # Of the axis: points that are closer than this are left out of a curve.
_DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one run says about one data set at one level.

  Attributes:
    name: for the legend.
    series: number of the run, which picks its colour.
    level: 'frame' or 'video'.
    labels: [N], 0 real and 1 fake.
    scores: [N], probabilities of fake.
    auroc: from the results.
    threshold: carried over from validation; nan when unknown.
  """

  name: str
  series: int
  level: str
  labels: np.ndarray
  scores: np.ndarray
  auroc: float
  threshold: float

  @property
  def both_classes(self) -> bool:
    """Whether there is a curve to draw."""
    return 0 < int(self.labels.sum()) < len(self.labels)

  @property
  def operating_point(self) -> tuple[float, float]:
    """(false positive rate, true positive rate) at the threshold."""
    called = self.scores >= self.threshold
    return float(called[self.labels == 0].mean()), float(called[self.labels == 1].mean())


def draw_roc(axes: Axes, curves: Sequence[Scores], theme: Theme, title: str = '') -> None:
  """ROC curves with the operating point of the validation threshold on each.

  A curve whose labels are all of one class is named in the legend, without a line.

  Args:
    axes: to draw into.
    curves: in the order of the legend.
    theme: of the medium.
    title: above the axes.
  """
  axes.plot([0, 1], [0, 1], color=theme.rule, linewidth=1)
  for curve in curves:
    fpr, tpr = metrics.roc_curve(curve.labels, curve.scores)
    _draw_curve(axes, curve, theme, fpr, tpr, lambda point: point)
  axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect='equal', title=title)
  axes.set(xlabel='real called fake (FPR)', ylabel='fake called fake (TPR)')
  set_share_ticks(axes)
  axes.grid(True)
  draw_legend(axes, 'lower right', title='AUROC')


def draw_det(axes: Axes, curves: Sequence[Scores], theme: Theme) -> None:
  """DET curves: misses against false alarms, both on the scale of the normal distribution."""
  low, high = scipy.stats.norm.ppf([_DET_TICKS[0] / 2, 0.92])

  def scaled(rate: Any) -> Any:
    return np.clip(scipy.stats.norm.ppf(rate), low, high)

  axes.plot([low, high], [low, high], color=theme.rule, linewidth=1)  # Equal errors.
  for curve in curves:
    if curve.both_classes:
      fpr, tpr = metrics.roc_curve(curve.labels, curve.scores)
      _draw_curve(
        axes, curve, theme, scaled(fpr), scaled(1 - tpr),
        lambda point: (scaled(point[0]), scaled(1 - point[1])),
      )  # fmt: skip
  axes.set(xlim=(low, high), ylim=(low, high), aspect='equal')
  names = [f'{100 * rate:g}%' for rate in _DET_TICKS]
  axes.set_xticks(scaled(_DET_TICKS), names)
  axes.set_yticks(scaled(_DET_TICKS), names)
  axes.grid(True)
  axes.set(xlabel='real called fake', ylabel='fake called real')


def set_share_ticks(axes: Axes, *, of_x: bool = True) -> None:
  """Quarters on the axes of shares."""
  for axis in (axes.xaxis, axes.yaxis) if of_x else (axes.yaxis,):
    axis.set_major_locator(ticker.FixedLocator((0, 0.25, 0.5, 0.75, 1)))
    axis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))


def draw_legend(axes: Axes, place: str, **kwargs: Any) -> None:
  """A legend, where there is something to name."""
  if axes.get_legend_handles_labels()[0]:
    axes.legend(loc=place, title_fontsize=9.5, alignment='left', **kwargs)


def _draw_curve(
  axes: Axes, curve: Scores, theme: Theme, x: np.ndarray, y: np.ndarray, place: Any
) -> None:
  """A curve of few points, and its operating point, whose rates `place` puts on the axes."""
  keep = _thinned(x, y)
  style = theme.line(curve.series, curve.level)
  name = f'{curve.auroc:.3f}  {label(curve.name)}'
  if not curve.both_classes:
    name = f'  n/a   {label(curve.name)} (one class only)'
  axes.plot(x[keep], y[keep], label=name, **style)
  if np.isfinite(curve.threshold) and curve.both_classes:
    at = place(curve.operating_point)
    edge = {'markeredgecolor': style['color'], 'markerfacecolor': theme.paper}
    axes.plot([at[0]], [at[1]], 'o', markersize=6, markeredgewidth=1.6, **edge)


def _thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Which points of a monotone curve to keep: the ends, and one of each small step along it."""
  if not len(x):
    return np.zeros(0, np.int64)
  span = max(np.ptp(x), np.ptp(y), 1e-9)
  along = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0]))) / span
  step = np.floor(along / _CURVE_STEP)
  return np.flatnonzero((np.diff(step, prepend=-1) > 0) | (np.arange(len(x)) == len(x) - 1))
