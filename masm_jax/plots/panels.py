"""The drawings of one data set: ROC, DET, scores, calibration, robustness, features by method.

Each function returns an inline SVG of about 310 pixels, small enough to be read on a phone; the
page puts them side by side where there is room.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from markupsafe import Markup
from matplotlib import ticker
from matplotlib.axes import Axes

from masm_jax.metrics.text_tables import number
from masm_jax.plots import svg
from masm_jax.plots.roc import Scores, draw_det, draw_legend, draw_roc, set_share_ticks
from masm_jax.plots.style import PAGE, label

_BINS = 36
_NARROW = 0.35
_LOGIT_TICKS = (0.0001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999)


def roc(name: str, curves: Sequence[Scores], *, key: str) -> Markup:
  """ROC curves of a data set, see `roc.draw_roc`."""
  with svg.panel() as (figure, axes):
    draw_roc(axes, curves, PAGE)
    areas = ', '.join(f'{c.name} {c.level} AUROC {c.auroc:.3f}' for c in curves)
    return svg.to_svg(figure, key, f'ROC curves of {name}: {areas}')


def det(name: str, curves: Sequence[Scores], *, key: str) -> Markup:
  """DET curves of a data set, see `roc.draw_det`."""
  with svg.panel() as (figure, axes):
    draw_det(axes, curves, PAGE)
    return svg.to_svg(figure, key, f'DET curves of {name}: error rates against each other')


def histogram(name: str, curve: Scores, axis: str, *, key: str) -> Markup:
  """Scores of real and of fake examples, as shares of their class, over the log-odds of fake.

  Args:
    name: of the data set.
    curve: the scores.
    axis: what they are: probabilities, or scores alone.
    key: unique on the page.
  """
  logits = np.clip(scipy.special.logit(curve.scores), -12, 12)
  low, high = np.quantile(logits, [0.002, 0.998]) if len(logits) else (-1.0, 1.0)
  margin = max(0.06 * (high - low), 0.01)
  low, high = low - margin, high + margin
  edges = np.linspace(low, high, _BINS + 1)
  with svg.panel() as (figure, axes):
    for label, what, colour in ((0, 'real', PAGE.real), (1, 'fake', PAGE.fake)):
      of_class = np.clip(logits[curve.labels == label], low, high)
      if not len(of_class):
        continue
      share = np.histogram(of_class, edges)[0] / len(of_class)
      axes.stairs(share, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
      axes.stairs(share, edges, color=colour, linewidth=1.5, label=f'{what}')
    if np.isfinite(curve.threshold):
      at = scipy.special.logit(curve.threshold)
      axes.axvline(
        np.clip(at, low, high), **PAGE.dotted | {'color': PAGE.ink, 'linewidth': 1.2},
        label=f'threshold {curve.threshold:.3f}',
      )  # fmt: skip
    _probability_axis(axes, low, high)
    axes.set(xlim=(low, high), xlabel=axis, ylabel='share of the class')
    axes.yaxis.set_major_formatter(lambda share, _: f'{100 * share:g}%')
    if axes.get_legend_handles_labels()[0]:
      figure.legend(loc='outside upper left', ncols=3, columnspacing=1.2)
    return svg.to_svg(
      figure, key, f'Histogram of the {curve.level} scores of {name} by {curve.name}'
    )


def reliability(
  name: str, diagrams: Mapping[str, tuple[int, str, Sequence[tuple[float, float]]]], *, key: str
) -> Markup:
  """Share of fakes against the mean score in each bin of equal mass; calibrated is the diagonal.

  Args:
    name: of the data set.
    diagrams: `{legend: (series, level, bins)}`; a bin is (mean score, share of fakes).
    key: unique on the page.
  """
  with svg.panel() as (figure, axes):
    axes.plot([0, 1], [0, 1], color=PAGE.rule, linewidth=1)
    for legend, (series, level, bins) in diagrams.items():
      x, y = zip(*bins, strict=True)
      style = PAGE.line(series, level)
      axes.plot(x, y, marker='o', markersize=4, label=label(legend, 20), **style)
    means = [mean for _, _, bins in diagrams.values() for mean, _ in bins]
    span = (min(means), max(means)) if means else (0.0, 1.0)
    narrow = span[1] - span[0] < _NARROW  # Scores that hardly differ: their axis is enlarged.
    margin = max(0.1 * (span[1] - span[0]), 0.01)
    axes.set_xlim((span[0] - margin, span[1] + margin) if narrow else (-0.02, 1.02))
    axes.set(ylim=(-0.02, 1.02), aspect='auto' if narrow else 'equal')
    axes.set(xlabel='mean score of the bin', ylabel='share of fakes in the bin')
    set_share_ticks(axes, of_x=not narrow)
    if narrow:
      axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.grid(True)
    if diagrams:  # Above the axes: the curves may run anywhere within them.
      figure.legend(loc='outside upper left', ncols=2, columnspacing=1.2)
    return svg.to_svg(figure, key, f'Reliability diagram of {name}')


def risk_coverage(
  name: str,
  lines: Sequence[tuple[str, int, str, Sequence[tuple[float, float]], tuple[float, float]]],
  *,
  key: str,
) -> Markup:
  """Share of errors among what is decided, the most confident first, against how much that is.

  Args:
    name: of the data set.
    lines: (legend, series, level 'frame' or 'video', (coverage, risk) by rising coverage, and
      (coverage, risk) outside validation's abstention band, nan where there is none).
    key: unique on the page.
  """
  with svg.panel() as (figure, axes):
    highest = 0.0
    for legend, series, level, points, at_band in lines:
      x, y = zip(*points, strict=True)
      style = PAGE.line(series, level)
      axes.plot(x, y, label=label(legend, 20), **style)
      edge = {'markeredgecolor': style['color'], 'markerfacecolor': PAGE.paper}
      axes.plot(*([value] for value in at_band), 'o', markersize=6, markeredgewidth=1.6, **edge)
      highest = max(highest, *y, *(risk for risk in at_band[1:] if np.isfinite(risk)))
    axes.set(xlim=(-0.01, 1.02), ylim=(-0.02 * highest, max(1.1 * highest, 0.02)))
    axes.set(xlabel='share that is decided (coverage)', ylabel='share of errors in it (risk)')
    axes.grid(True)
    figure.legend(loc='outside upper left', ncols=2, columnspacing=1.2)
    text = '; '.join(
      f'{legend}, {level}: {number(points[-1][1])} wrong of all, {number(at_band[1])} of the'
      f' {number(at_band[0])} outside the band'
      for legend, _, level, points, at_band in lines
    )
    return svg.to_svg(figure, key, f'Risk against coverage of {name}: {text}')


def robustness_curve(
  name: str,
  perturbation: str,
  title: str,
  unit: str,
  lines: Sequence[tuple[str, int, str, Sequence[tuple[float, float, float]]]],
  parameters: Mapping[int, Any],
  limits: tuple[float, float],
  *,
  key: str,
) -> Markup:
  """AUROC against the level of one perturbation; level 0 is the unperturbed set.

  Args:
    name: of the data set.
    perturbation: its key.
    title: its name for people.
    unit: of the parameters.
    lines: (legend, series, level 'frame' or 'video', (value, low, high) of level 0 and of
      those of `parameters`; nan where there is none).
    parameters: of the levels, `{level: parameter}`, ascending from 1 or above.
    limits: of the AUROC axis, shared by the panels of a set.
    key: unique on the page.
  """
  x = [0, *parameters]
  with svg.panel(310, 205) as (figure, axes):
    axes.axhline(0.5, **PAGE.dotted)
    for legend, series, level, points in lines:
      values = np.array(points, float)
      style = PAGE.line(series, level)
      axes.plot(x, values[:, 0], marker='o', markersize=4, label=label(legend), **style)
      if level == 'video':
        shade = {'color': style['color'], 'alpha': 0.15, 'linewidth': 0}
        axes.fill_between(x, values[:, 1], values[:, 2], **shade)
    axes.set_xticks(x, ['none', *(_parameter(value) for value in parameters.values())])
    axes.set(xlim=(-0.2, max(x) + 0.2), ylim=limits, ylabel='AUROC')
    axes.set_title(label(title, 44))
    axes.set_xlabel(unit)
    axes.grid(True, axis='y')
    if len(lines) > 1:
      draw_legend(axes, 'best')
    text = '; '.join(
      f'{legend}, {level}: ' + ', '.join(number(value) for value, _, _ in points)
      for legend, _, level, points in lines
    )
    return svg.to_svg(figure, key, f'AUROC of {name} under {perturbation}: {text}')


def forest(
  rows: Sequence[str], values: Sequence[Sequence[tuple[float, float, float]]],
  names: Sequence[str], *, title: str, key: str,
) -> Markup:  # fmt: skip
  """A dot with its interval for every data set and run: where each stands at one look.

  Args:
    rows: names of the R data sets, from the top.
    values: (value, low, high) of each row and run, [R][S]; nan where there is none.
    names: of the S runs.
    title: what is measured.
    key: unique on the page.
  """
  height = 66 + len(rows) * max(24, 15 * len(names) + 8)
  with svg.panel(380, height) as (figure, axes):
    axes.axvline(0.5, **PAGE.dotted)
    for run, name in enumerate(names):
      offset = (run - (len(names) - 1) / 2) * min(0.24, 0.7 / len(names))
      style = PAGE.line(run)
      for row, of_row in enumerate(values):
        value, low, high = of_row[run]
        if np.isfinite(low) and np.isfinite(high):
          axes.plot([low, high], [row + offset] * 2, linewidth=2.2, alpha=0.55, **style)
        legend = label(name) if row == 0 else None
        axes.plot([value], [row + offset], 'o', markersize=6.5, label=legend, **style)
    axes.set_yticks(range(len(rows)), [label(name) for name in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0, labelcolor=PAGE.ink)
    axes.spines['left'].set_visible(False)
    low = min((x for of_row in values for v in of_row for x in v if np.isfinite(x)), default=0.5)
    axes.set_xlim(max(0, min(0.45, low - 0.03)), 1.005)
    axes.grid(True, axis='x')
    axes.set_xlabel(title)
    if len(names) > 1:
      figure.legend(loc='outside upper left', ncols=3)
    return svg.to_svg(
      figure, key, f'{title} of every data set with its interval; also in the table'
    )


def embedding(name: str, points: np.ndarray, methods: Sequence[str], *, key: str) -> Markup:
  """Features in two dimensions, coloured by method; real faces lie under the fakes.

  Args:
    name: of the data set.
    points: [N, 2].
    methods: [N], the name of each point's method.
    key: unique on the page.
  """
  methods = np.asarray(methods, object)
  counts = {name: int((methods == name).sum()) for name in dict.fromkeys(methods)}
  with svg.panel(310, 330) as (figure, axes):
    for i, (method, count) in enumerate(counts.items()):
      chosen = methods == method
      colour = PAGE.muted if i == 0 else PAGE.series[(i - 1) % len(PAGE.series)]
      svg.dots(axes, points[chosen, 0], points[chosen, 1], colour)
      axes.plot([], [], 'o', color=colour, markersize=5, label=f'{label(method, 18)} ({count})')
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.margins(0.03)
    figure.legend(loc='outside lower center', ncols=2)
    listed = ', '.join(counts)
    return svg.to_svg(figure, key, f't-SNE of features of {name}, by method: {listed}')


def _probability_axis(axes: Axes, low: float, high: float) -> None:
  """Ticks of a log-odds axis, written as scores; narrow ranges get ticks of their own."""
  ticks = [p for p in _LOGIT_TICKS if low < scipy.special.logit(p) < high]
  if len(ticks) < 3:
    ends = scipy.special.expit(np.linspace(low, high, 7)[1:-1:2])
    ticks = sorted({float(f'{p:.2g}') for p in ends})
  axes.set_xticks(scipy.special.logit(ticks), [f'{p:g}' for p in ticks])


def _parameter(value: Any) -> str:
  if isinstance(value, list | tuple):
    return ', '.join(f'{float(part):g}' for part in value)
  return f'{value:g}' if isinstance(value, int | float) else label(value, 8)
