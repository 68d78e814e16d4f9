"""Pictures of a run: ROC curves, and which (block, subspace) groups were trained when."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import cm, colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike

from masm_jax.metrics import binary as metrics
from masm_jax.plots.canvas import new_figure, num_lines, save_figure

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]

# Okabe and Ito's palette, told apart by colour-blind readers too; line styles carry on behind it.
_PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_LINE_STYLES = ('-', '--', ':', '-.')
_MASK_COLOURS = colors.LinearSegmentedColormap.from_list('mask', ('#e9ecef', '#0b4f8a'))
_SUBSPACES_PER_ROW = 4
_MAX_COLUMNS = 120  # Masks side by side in a panel; more would be narrower than two pixels.
_MASK_TITLE = 'Trained groups over time (dark: updated, light: held)'


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
  _draw_roc(figure.add_subplot(), curves, title)
  return save_figure(figure, path, note)


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
  history, edges = _checked_history(history, steps, end_step)
  width, height = _mask_size(history)
  figure = new_figure(width, height + 0.2 * num_lines(note, width))
  _draw_masks(figure, history, edges, title, names)
  return save_figure(figure, path, note)


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
  history, edges = _checked_history(history, steps, end_step)
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
    _draw_roc(axes, methods, name)
  for axes in list(panels)[len(curves) :]:
    axes.set_axis_off()
  _draw_masks(lower, history, edges, _MASK_TITLE)
  return save_figure(figure, path, note)


def mask_image(mask: ArrayLike, cell_px: int = 12) -> np.ndarray:
  """One mask as a small picture for TensorBoard: blocks downwards, subspaces to the right.

  Args:
    mask: [L, K], 1 where a group is trained (or any value in [0, 1]).
    cell_px: side of a group's square.

  Returns:
    uint8 [L * cell_px, K * cell_px, 3], RGB.

  Raises:
    ValueError: if the mask is not two-dimensional.
  """
  mask = np.asarray(mask, np.float64)
  if mask.ndim != 2:
    raise ValueError(f'a mask is [L, K], not {mask.shape}')
  pixels = _MASK_COLOURS(mask, bytes=True)[..., :3]
  return pixels.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


def _draw_roc(axes: Axes, curves: Curves, title: str) -> None:
  axes.plot((0, 1), (0, 1), color='#b0b0b0', linewidth=1, linestyle=(0, (2, 3)), zorder=1)
  for index, (name, (labels, scores)) in enumerate(curves.items()):
    area = metrics.auroc(labels, scores)
    legend = f'{area:.3f}  {name}' if np.isfinite(area) else f'  n/a   {name} (one class only)'
    axes.plot(
      *metrics.roc_curve(labels, scores),
      color=_PALETTE[index % len(_PALETTE)],
      linestyle=_LINE_STYLES[index % len(_LINE_STYLES)],
      linewidth=1.8,
      label=legend,
      zorder=2,
      clip_on=False,
    )
  axes.set(xlim=(0, 1), ylim=(0, 1), aspect='equal')
  axes.set_xlabel('false positive rate (real called fake)')
  axes.set_ylabel('true positive rate')
  axes.set_title(title, fontsize=11)
  axes.grid(color='#ececec', linewidth=0.8)
  axes.spines[['top', 'right']].set_visible(False)
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_locator(ticker.FixedLocator((0, 0.25, 0.5, 0.75, 1)))
    axis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
  if curves:
    axes.legend(
      loc='lower right', title='AUROC', fontsize=8.5, title_fontsize=8.5, alignment='left'
    )


def _draw_masks(
  figure: Figure | SubFigure,
  history: np.ndarray,
  edges: np.ndarray,
  title: str,
  names: Sequence[str] = (),
) -> None:
  _, num_blocks, num_subspaces = history.shape
  columns, rows = _mask_grid(num_subspaces)
  figure.suptitle(title, fontsize=11)
  grid = figure.add_gridspec(
    rows, columns + 1, width_ratios=[2.0] * columns + [_duty_width(num_subspaces)]
  )
  block_edges = np.arange(num_blocks + 1) - 0.5
  shown, shown_edges = _thin_out(history, edges)
  for subspace in range(num_subspaces):
    row, column = divmod(subspace, columns)
    axes = figure.add_subplot(grid[row, column])
    axes.pcolormesh(
      shown_edges, block_edges, shown[:, :, subspace].T, cmap=_MASK_COLOURS, vmin=0, vmax=1
    )
    axes.set_title(f'subspace {subspace}' if num_subspaces > 1 else 'layers', fontsize=9)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    _block_axis(axes, num_blocks, labelled=column == 0, names=names)
    if subspace + columns >= num_subspaces:
      axes.set_xlabel('step', fontsize=9)
  _draw_duty(figure, figure.add_subplot(grid[:, columns]), history, edges, names)


def _draw_duty(
  figure: Figure | SubFigure,
  axes: Axes,
  history: np.ndarray,
  edges: np.ndarray,
  names: Sequence[str],
) -> None:
  """Share of the steps in which each group was trained, as a map [L, K]."""
  _, num_blocks, num_subspaces = history.shape
  duty = np.average(history, axis=0, weights=np.diff(edges))
  axes.pcolormesh(
    np.arange(num_subspaces + 1) - 0.5,
    np.arange(num_blocks + 1) - 0.5,
    duty,
    cmap=_MASK_COLOURS,
    vmin=0,
    vmax=1,
    edgecolors='white',
    linewidth=0.6,
  )
  readable = num_blocks <= 24 and num_subspaces <= 8
  if readable:
    for (block, subspace), share in np.ndenumerate(duty):
      axes.text(
        subspace,
        block,
        f'{100 * share:.0f}',
        ha='center',
        va='center',
        fontsize=7,
        color='white' if share > 0.5 else 'black',
      )
  axes.set_title('on, % of steps', fontsize=9)
  axes.set_xlabel('subspace', fontsize=9)
  axes.xaxis.set_major_locator(ticker.MultipleLocator(1 if num_subspaces <= 12 else 4))
  axes.set_xlim(-0.5, num_subspaces - 0.5)
  _block_axis(axes, num_blocks, labelled=False, names=names)
  if not readable:
    bar = figure.colorbar(cm.ScalarMappable(colors.Normalize(0, 100), _MASK_COLOURS), ax=axes)
    bar.set_ticks((0, 50, 100))
    bar.ax.tick_params(labelsize=8)


def _block_axis(axes: Axes, num_blocks: int, *, labelled: bool, names: Sequence[str] = ()) -> None:
  """Block 0, the nearest to the pixels, on top, as in the code and the parameter overview."""
  axes.set_ylim(num_blocks - 0.5, -0.5)
  if any(not re.fullmatch(r'block_\d+', name) for name in names):  # Kernels, embeddings.
    shown = range(0, num_blocks, -(-num_blocks // 24))
    axes.set_yticks(shown, [names[i] for i in shown] if labelled else [], fontsize=6)
    axes.tick_params(axis='x', labelsize=8)
    return
  axes.yaxis.set_major_locator(ticker.MultipleLocator(1 if num_blocks <= 12 else 4))
  axes.tick_params(labelsize=8)
  if labelled:
    axes.set_ylabel('block', fontsize=9)


def _checked_history(
  history: ArrayLike, steps: ArrayLike, end_step: int | None
) -> tuple[np.ndarray, np.ndarray]:
  """History as float64 [T, L, K], and the T + 1 steps between which each mask held."""
  history, steps = np.asarray(history, np.float64), np.asarray(steps)
  if history.ndim != 3 or not history.size or steps.shape != history.shape[:1]:
    raise ValueError(
      f'a mask history is [T, L, K] with T steps, not {history.shape}, {steps.shape}'
    )
  if end_step is None:
    end_step = 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1
  edges = np.append(steps, end_step)
  if (np.diff(edges) <= 0).any():
    raise ValueError(f'steps must rise: {edges.tolist()}')
  return history, edges


def _thin_out(history: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """At most `_MAX_COLUMNS` columns: neighbouring masks become their mean over the steps."""
  starts = np.arange(0, len(history), -(-len(history) // _MAX_COLUMNS))
  widths = np.diff(edges).astype(np.float64)
  sums = np.add.reduceat(history * widths[:, None, None], starts, axis=0)
  means = sums / np.add.reduceat(widths, starts)[:, None, None]
  return means, np.append(edges[starts], edges[-1])


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
