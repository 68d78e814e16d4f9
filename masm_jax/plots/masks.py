"""The layer mask over time, and each group's share of the steps."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib import ticker
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from masm_jax.plots import svg
from masm_jax.plots.style import draw_shares, draw_values, label, share_colours

_MAX_COLUMNS = 160  # More would be narrower than two pixels.


def draw_mask(
  axes: Axes, history: np.ndarray, edges: np.ndarray, names: Sequence[str], title: str
) -> None:
  """The mask of one subspace: groups downwards, steps to the right.

  Args:
    axes: to draw into.
    history: [T, L], 1 where a group was trained.
    edges: [T + 1], the steps between which each mask held.
    names: [L], of the groups.
    title: above the axes.
  """
  draw_shares(axes, resampled(history, edges).T, (edges[0], edges[-1]))
  _name_rows(axes, names)
  axes.set(title=title, xlabel='step')
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))


def draw_duty(axes: Axes, history: np.ndarray, edges: np.ndarray, names: Sequence[str]) -> None:
  """Every group's share of the steps, in percent where there is room; history is [T, L, K]."""
  duty = shares_of_steps(history, edges)
  num_rows, num_subspaces = duty.shape
  draw_shares(axes, duty, (-0.5, num_subspaces - 0.5))
  _name_rows(axes, names)
  if num_rows <= 24 and num_subspaces <= 8:
    draw_values(axes, duty, lambda share: f'{100 * share:.0f}')
  axes.set(title='on, % of steps', xlabel='subspace')
  axes.xaxis.set_major_locator(ticker.MaxNLocator(9, integer=True))


def svg_panels(
  history: np.ndarray, edges: np.ndarray, names: Sequence[str], run: str, *, key: str, most: int
) -> list[Markup]:
  """For a page: the mask of each of the first `most` subspaces, then every group's share.

  Args:
    history: [T, L, K].
    edges: [T + 1].
    names: [L], of the groups.
    run: whose mask it is, for those who do not see it.
    key: unique on the page.
    most: of the panels.
  """
  panels = []
  for subspace, title in enumerate(panel_titles(history.shape[2])[:most]):
    with svg.panel(310, 190) as (figure, axes):
      draw_mask(axes, history[:, :, subspace], edges, names, title)
      text = f'Mask of subspace {subspace} of {run}: which blocks were trained at which step'
      panels.append(svg.to_svg(figure, f'{key}-{subspace}', text))
  with svg.panel(310, 190 if history.shape[1] <= 12 else 330) as (figure, axes):
    draw_duty(axes, history, edges, names)
    text = f'Share of the steps in which each group of {run} was trained: ' + '; '.join(
      f'{name} ' + ' '.join(f'{100 * share:.0f}%' for share in of_row)
      for name, of_row in zip(names, shares_of_steps(history, edges), strict=True)
    )
    panels.append(svg.to_svg(figure, f'{key}-duty', text))
  return panels


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
  rgba = share_colours(mask)
  opacity = rgba[..., 3:]
  pixels = (255 * (opacity * rgba[..., :3] + 1 - opacity)).round().astype(np.uint8)  # On white.
  return pixels.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


def panel_titles(num_subspaces: int) -> list[str]:
  """What stands above the mask of each subspace."""
  return [f'subspace {k}' for k in range(num_subspaces)] if num_subspaces > 1 else ['groups']


def shares_of_steps(history: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Share of the steps in which each group was trained: [T, L, K] over [T + 1] -> [L, K]."""
  return np.average(history, axis=0, weights=np.diff(edges))


def resampled(history: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Share of time on, [C, L], in columns of equal width: C is at most `_MAX_COLUMNS`."""
  columns = min(_MAX_COLUMNS, max(int(edges[-1] - edges[0]), 1))
  at = np.linspace(edges[0], edges[-1], columns + 1)
  spent = np.concatenate([np.zeros((1, history.shape[1])), history * np.diff(edges)[:, None]])
  total = np.cumsum(spent, axis=0)
  until = np.stack([np.interp(at, edges, total[:, row]) for row in range(history.shape[1])], axis=1)
  return np.clip(np.diff(until, axis=0) / np.diff(at)[:, None], 0, 1)


def checked_history(
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


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
  """Block 0, the nearest to the pixels, on top, as in the code and the parameter overview."""
  every = max(1, math.ceil(len(names) / 12))
  shown = range(0, len(names), every)
  are_blocks = all(name.startswith('block_') for name in names)
  texts = [names[i].removeprefix('block_') if are_blocks else names[i] for i in shown]
  axes.set_yticks(shown, [label(text, 16) for text in texts], fontsize=9.5)
  axes.set_ylabel('block' if are_blocks else 'group')
