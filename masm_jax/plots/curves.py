"""Pictures of a run: ROC curves, and which (block, subspace) groups were trained when."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike

from masm_jax.metrics import binary as metrics
from masm_jax.plots import masks
from masm_jax.plots.canvas import in_print, new_figure, num_lines, save_figure
from masm_jax.plots.roc import Scores, draw_roc
from masm_jax.plots.style import PRINT

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]

_SUBSPACES_PER_ROW = 4
_MASK_TITLE = 'Trained groups over time (the stronger the colour, the more of the time)'


@in_print
def roc_figure(
  curves: Curves, path: str | os.PathLike, title: str = 'ROC', note: str = ''
) -> pathlib.Path:
  """Draws ROC curves into one square; the legend gives each AUROC.

  A curve whose labels are all of one class is named in the legend, without a line.

  Args:
    curves: `{name: (labels [N], scores [N])}`, drawn in this order.
    path: PNG to write; its folder is made.
    title: above the plot.
    note: small print below it, such as where the data come from.

  Returns:
    `path`.

  Raises:
    UserError: if scores are not probabilities, or the file cannot be written.
  """
  figure = new_figure(5.6, 5.9 + 0.2 * num_lines(note, 5.6))
  _draw_curves(figure.add_subplot(), curves, title)
  return save_figure(figure, path, note)


@in_print
def mask_figure(
  history: ArrayLike,
  steps: ArrayLike,
  path: str | os.PathLike,
  note: str = '',
  *,
  title: str = _MASK_TITLE,
  end_step: int | None = None,
  names: Sequence[str] = (),
) -> pathlib.Path:
  """Draws the layer mask over time, a panel per subspace, and every group's share of the steps.

  Args:
    history: [T, L, K], 1 where block l of subspace k was trained.
    steps: [T], rising: the step from which on each mask held.
    path: PNG to write; its folder is made.
    note: small print below.
    title: above the panels.
    end_step: when the last mask ended; by default it counts as long as the one before it.
    names: [L], of the rows, where they are not just the blocks.

  Returns:
    `path`.

  Raises:
    ValueError: if the shapes do not fit or steps do not rise.
    UserError: if the file cannot be written.
  """
  history, edges = masks.checked_history(history, steps, end_step)
  width, height = _mask_size(history)
  figure = new_figure(width, height + 0.2 * num_lines(note, width))
  _draw_masks(figure, history, edges, title, names)
  return save_figure(figure, path, note)


@in_print
def demo_figure(
  curves: Mapping[str, Curves],
  history: ArrayLike,
  steps: ArrayLike,
  path: str | os.PathLike,
  title: str = '',
  note: str = '',
  *,
  end_step: int | None = None,
) -> pathlib.Path:
  """Draws one picture of a whole comparison: ROC panels above, the mask over time below.

  Args:
    curves: `{test set: {method: (labels [N], scores [N])}}`, a panel per test set.
    history: [T, L, K], as in `mask_figure`.
    steps: [T], as in `mask_figure`.
    path: PNG to write; its folder is made.
    title: above everything.
    note: small print at the bottom.
    end_step: as in `mask_figure`.

  Returns:
    `path`.

  Raises:
    ValueError: as `mask_figure`, or if there is no test set.
    UserError: as `roc_figure`.
  """
  if not curves:
    raise ValueError('no test set to draw')
  history, edges = masks.checked_history(history, steps, end_step)
  columns = min(len(curves), 4)
  rows = -(-len(curves) // columns)
  mask_width, mask_height = _mask_size(history)
  width = max(3.5 * columns, mask_width, 7.0)
  roc_height = 1.08 * rows * width / columns
  figure = new_figure(width, roc_height + mask_height + 0.2 * num_lines(note, width) + 0.4)
  if title:
    figure.suptitle(title, fontsize=13, fontweight='bold')
  upper, lower = figure.subfigures(2, 1, height_ratios=(roc_height, mask_height))
  panels = upper.subplots(rows, columns, squeeze=False).flat
  for axes, (name, methods) in zip(panels, curves.items(), strict=False):
    _draw_curves(axes, methods, name)
  for axes in list(panels)[len(curves) :]:
    axes.set_axis_off()
  _draw_masks(lower, history, edges, _MASK_TITLE)
  return save_figure(figure, path, note)


def _draw_curves(axes: Axes, curves: Curves, title: str) -> None:
  drawn = []
  for series, (name, (labels, scores)) in enumerate(curves.items()):
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    area = metrics.auroc(labels, scores)
    drawn.append(Scores(name, series, 'video', labels, scores, area, math.nan))
  draw_roc(axes, drawn, PRINT, title)


def _draw_masks(
  figure: Figure | SubFigure,
  history: np.ndarray,
  edges: np.ndarray,
  title: str,
  names: Sequence[str] = (),
) -> None:
  _, num_blocks, num_subspaces = history.shape
  names = names or [f'block_{i:02d}' for i in range(num_blocks)]
  columns, rows = _mask_grid(num_subspaces)
  figure.suptitle(title, fontsize=11)
  grid = figure.add_gridspec(
    rows, columns + 1, width_ratios=[2.0] * columns + [_duty_width(num_subspaces)]
  )
  for subspace, of_panel in enumerate(masks.panel_titles(num_subspaces)):
    row, column = divmod(subspace, columns)
    axes = figure.add_subplot(grid[row, column])
    masks.draw_mask(axes, history[:, :, subspace], edges, names, of_panel)
    if column:
      axes.set(ylabel='', yticklabels=[])
    if subspace + columns < num_subspaces:
      axes.set_xlabel('')
  axes = figure.add_subplot(grid[:, columns])
  masks.draw_duty(axes, history, edges, names)
  axes.set(ylabel='', yticklabels=[])


def _mask_grid(num_subspaces: int) -> tuple[int, int]:
  columns = min(num_subspaces, _SUBSPACES_PER_ROW)
  return columns, -(-num_subspaces // columns)


def _duty_width(num_subspaces: int) -> float:
  return max(1.3, 0.28 * num_subspaces + 0.5)


def _mask_size(history: np.ndarray) -> tuple[float, float]:
  """Width and height in inches."""
  _, num_blocks, num_subspaces = history.shape
  columns, rows = _mask_grid(num_subspaces)
  panel_height = float(np.clip(0.16 * num_blocks, 1.1, 4.0))
  return 2.1 * columns + _duty_width(num_subspaces) + 1.2, rows * (panel_height + 0.45) + 0.8
