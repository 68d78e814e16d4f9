"""Pictures of explanations: signed maps over the face, shares of the logit, and the knock-outs."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from masm_jax.plots.canvas import in_print, new_figure, save_figure

# Both ends are dark enough to be told apart on a face, and by people who see no red or green.
_COLOURS = 'RdBu_r'
_COLUMNS = 4  # In more, letters are too small on a page.
_FAKE, _REAL = '#b2182b', '#2166ac'


@in_print
def explanation_figure(
  image: np.ndarray,
  maps: Mapping[str, np.ndarray],
  values: Mapping[str, float],
  path: str | os.PathLike,
  *,
  title: str,
  note: str,
) -> pathlib.Path:
  """Draws a picture, its maps, and the share of each learned change.

  Args:
    image: uint8 [S, S, 3].
    maps: name -> float [G, G], logit that goes through each patch; red speaks for fake. May be
      empty.
    values: name -> Shapley value, in units of the logit; the pretrained start first.
    path: PNG to write; its folder is made.
    title: above all.
    note: small print below.

  Returns:
    `path`.

  Raises:
    UserError: the file cannot be written.
  """
  panels = 2 + len(maps)
  columns = min(panels, _COLUMNS)
  rows = -(-panels // columns)
  figure = new_figure(2.1 * columns, 0.7 + 2.2 * rows)
  every = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in every[panels:]:
    axes.set_axis_off()
  first, *others, last = every[:panels]
  first.imshow(image)
  first.set_title('picture', fontsize=9)
  scale = max((float(np.abs(values).max()) for values in maps.values()), default=0.0) or 1e-12
  for axes, (name, saliency) in zip(others, maps.items(), strict=True):
    _overlay(axes, image, saliency, scale)
    axes.set_title(name, fontsize=9)
  for axes in (first, *others):
    axes.set_xticks([])
    axes.set_yticks([])
  _bars(last, values)
  figure.suptitle(title, fontsize=10)
  return save_figure(figure, path, note)


def _overlay(axes: Axes, image: np.ndarray, saliency: np.ndarray, scale: float) -> None:
  """A signed map over the grey picture, one square per patch."""
  side = image.shape[0]
  axes.imshow(image.mean(axis=-1), cmap='gray', vmin=0, vmax=340)
  axes.imshow(
    saliency, cmap=_COLOURS, vmin=-scale, vmax=scale, alpha=0.55, extent=(0, side, side, 0),
    interpolation='nearest',
  )  # fmt: skip


def _bars(axes: Axes, values: Mapping[str, float]) -> None:
  names, heights = list(values), np.array(list(values.values()))
  colours = [_FAKE if value > 0 else _REAL for value in heights]
  axes.barh(np.arange(len(names)), heights, color=colours, height=0.6)
  axes.axvline(0, color='black', linewidth=0.8)
  axes.set_yticks(np.arange(len(names)), names, fontsize=7)
  axes.invert_yaxis()
  axes.tick_params(axis='x', labelsize=7)
  axes.spines[['top', 'right']].set_visible(False)
  axes.set_title('logit: to real, to fake', fontsize=9)


@in_print
def knock_out_figure(
  falls: Sequence[Mapping[str, Any]], path: str | os.PathLike, *, note: str
) -> pathlib.Path:
  """Draws how much AUROC on each forgery falls without each subspace.

  Args:
    falls: for each subspace, forgery -> `value`, `low`, `high`.
    path: PNG to write.
    note: small print below.
  """
  forgeries = list(falls[0])
  table = np.array([[float(of[name]['value']) for name in forgeries] for of in falls])
  scale = max(float(np.nanmax(np.abs(table))), 1e-3)
  figure = new_figure(1.8 + 1.25 * len(forgeries), 1.6 + 0.5 * len(falls))
  axes = figure.add_subplot()
  axes.imshow(table, cmap=_COLOURS, vmin=-scale, vmax=scale, aspect='auto')
  for row, of in enumerate(falls):
    for column, name in enumerate(forgeries):
      value, low, high = (float(of[name][key]) for key in ('value', 'low', 'high'))
      dark = abs(value) > 0.6 * scale
      interval = f'\n[{low:+.3f}, {high:+.3f}]' if np.isfinite(low) else '\nno interval'
      axes.text(
        column, row, f'{value:+.3f}{interval}', ha='center', va='center',
        fontsize=7, color='white' if dark else 'black',
      )  # fmt: skip
  axes.set_xticks(range(len(forgeries)), forgeries, fontsize=8)
  axes.set_yticks(range(len(falls)), [f'without subspace {k + 1}' for k in range(len(falls))],
                  fontsize=8)  # fmt: skip
  axes.set_title('Fall of the AUROC', fontsize=10)
  return save_figure(figure, path, note)
