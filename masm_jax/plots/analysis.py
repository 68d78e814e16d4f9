"""The pictures of a run's analysis: what turned, what overlaps, spectra, what probes still read.

See `masm_jax.analysis` for what each value is; here they are drawn, and nothing is computed anew.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import ticker
from matplotlib.axes import Axes

from masm_jax.plots import canvas, svg
from masm_jax.plots.style import PAGE, PRINT, Theme, draw_shares, draw_values, label

_SIDES = ('U', 'V')
_MAX_NUMBERS = 9  # Columns of a matrix whose values still fit into its cells.

Draw = Callable[[Axes, Theme], str]  # Draws a picture; returns it in words.


def pictures(document: Mapping[str, Any]) -> dict[str, Draw]:
  """The pictures that an analysis has, by caption.

  Args:
    document: of `analysis.report.analyse`, or read back from its JSON.
  """
  found: dict[str, Draw] = {}
  if part := document.get('subspaces'):
    kernels = part['kernels']
    for side in _SIDES:
      found[f'{side}: angle to where it began'] = functools.partial(_draw_angles, kernels, side)
    found['Overlap of subspaces at the end'] = functools.partial(_draw_overlap, kernels)
  if part := document.get('spectra'):
    kernels = part['kernels']
    for caption, value, unit, name in (
      ('Change of singular values', _changed, '% of their norm', 'spectrum'),
      ('Turned out of the principal span', _lost, '%', 'principal'),
    ):
      found[caption] = functools.partial(_draw_by_block, kernels, value, unit, name)
  if probes := (document.get('semantics') or {}).get('probes'):
    found['What linear probes still read'] = functools.partial(_draw_probes, probes)
  return found


@canvas.in_print
def analysis_figure(document: Mapping[str, Any], path: str | os.PathLike) -> pathlib.Path:
  """Draws one run's analysis.

  Args:
    document: of `analysis.report.analyse`, or read back from its JSON.
    path: PNG to write; its folder is made.

  Returns:
    `path`.

  Raises:
    UserError: if the file cannot be written.
  """
  drawn = pictures(document)
  note = document['semantics']['note']
  rows = -(-len(drawn) // 3)
  figure = canvas.new_figure(12.5, 4.1 * rows + 0.2 * canvas.num_lines(note, 12.5))
  run = document['run']
  title = f'{run["method"]} on {run["backbone"]}, step {run["step"]}: before and after fine-tuning'
  figure.suptitle(title, fontsize=12)
  for i, (caption, draw) in enumerate(drawn.items()):
    axes = figure.add_subplot(rows, 3, i + 1)
    draw(axes, PRINT)
    detail = axes.get_title(loc='left')
    axes.set_title(f'{caption}\n{detail}' if detail else caption)
    if axes.get_legend_handles_labels()[0]:
      axes.legend(fontsize=8)
  return canvas.save_figure(figure, path, note)


def svg_panels(document: Mapping[str, Any], run: str, *, key: str) -> list[tuple[str, Markup]]:
  """The same pictures for a page, as (caption, drawing).

  Args:
    document: as of `analysis_figure`; `{}` gives no picture.
    run: whose analysis it is, for those who do not see it.
    key: unique on the page.
  """
  panels = []
  for i, (caption, draw) in enumerate(pictures(document).items()):
    with svg.panel(310, 262) as (figure, axes):
      text = draw(axes, PAGE)
      if axes.get_legend_handles_labels()[0]:
        figure.legend(loc='outside lower center', ncols=3)
      panels.append((caption, svg.to_svg(figure, f'{key}-{i}', f'{text}; of {run}')))
  return panels


def _draw_angles(kernels: Mapping[str, Any], side: str, axes: Axes, theme: Theme) -> str:
  """Mean principal angle of each kernel and subspace, [kernels, K]; full colour: the largest."""
  del theme  # Shares have one colour everywhere.
  angles = np.array(
    [[np.mean(_floats(a)) for a in k[side]['angles_deg']] for k in kernels.values()]
  )
  finite = angles[np.isfinite(angles)]
  low, high = (float(finite.min()), float(finite.max())) if len(finite) else (np.nan, np.nan)
  blocks = [_place(owner)[0] for owner in kernels]
  starts = [i for i, block in enumerate(blocks) if i == 0 or blocks[i - 1] != block]
  every = -(-len(starts) // 12)
  draw_shares(axes, angles / max(high, 1e-9), (-0.5, angles.shape[1] - 0.5))
  axes.set_yticks(starts[::every], [blocks[i] for i in starts[::every]])
  axes.xaxis.set_major_locator(ticker.MaxNLocator(9, integer=True))
  axes.set(ylabel='kernels by block', xlabel='subspace')
  axes.set_title(f'pale: 0°, full: {high:.2g}°')
  text = f'Mean angle of {side} of each kernel and subspace to its start'
  return f'{text}: {low:.2g} to {high:.2g} degrees'


def _draw_overlap(kernels: Mapping[str, Any], axes: Axes, theme: Theme) -> str:
  """Mean squared cosine between subspaces, and with the semantic one: [K, K + 1]."""
  del theme
  sides = [kernel[side] for kernel in kernels.values() for side in _SIDES]
  between = np.mean([_floats(side['overlap']) for side in sides], axis=0)
  semantic = np.mean([_floats(side['semantic_share']) for side in sides], axis=0)
  table = np.column_stack([between, semantic])
  names = [*map(str, range(len(between))), 'sem.']
  draw_shares(axes, np.clip(table, 0, 1), (-0.5, len(names) - 0.5))
  if len(names) <= _MAX_NUMBERS:
    draw_values(axes, table, lambda value: f'{value:.2f}')
  axes.set_xticks(range(len(names)), names)
  axes.set_yticks(range(len(between)), names[:-1])
  axes.set(ylabel='subspace', xlabel='subspace; sem.: the frozen one')
  return 'Overlap of the subspaces with each other and with the semantic one'


def _draw_by_block(
  kernels: Mapping[str, Any], value: Callable[[Any], float], unit: str, name: str,
  axes: Axes, theme: Theme,
) -> str:  # fmt: skip
  """A line for each kind of kernel over the blocks."""
  lines: dict[str, list[tuple[int, float]]] = {}
  for owner, kernel in kernels.items():
    block, kind = _place(owner)
    if block.isdecimal():
      lines.setdefault(kind, []).append((int(block), value(kernel)))
  for i, (kind, points) in enumerate(lines.items()):
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=theme.line(i)['color'], marker='o', markersize=3.5, label=label(kind))
  axes.set(xlabel='block', ylabel=unit)
  axes.set_ylim(bottom=0)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  axes.grid(True, axis='y')
  return f'{name} by block, a line for each kind of kernel: {", ".join(lines)}'


def _changed(kernel: Mapping[str, Any]) -> float:
  return 100 * float(kernel['change'])


def _lost(kernel: Mapping[str, Any]) -> float:
  kept = np.mean([float(kernel['principal_kept'][side]) for side in _SIDES])
  return 100 * max(1 - float(kept), 0.0)


def _draw_probes(probes: Mapping[str, Any], axes: Axes, theme: Theme) -> str:
  """Accuracy of each probe before and after, with interval and chance."""
  for offset, model, colour in ((-0.15, 'before', theme.muted), (0.15, 'after', theme.series[0])):
    for i, task in enumerate(probes.values()):
      value, low, high = (float(task[model][part]) for part in ('accuracy', 'low', 'high'))
      axes.plot([i + offset] * 2, [low, high], color=colour, linewidth=2.2, alpha=0.55)
      name = model if i == 0 else None
      axes.plot([i + offset], [value], 'o', color=colour, markersize=6.5, label=name)
  for i, task in enumerate(probes.values()):
    chance = float(task['after']['chance'])
    dotted = theme.dotted | {'color': theme.ink, 'linewidth': 1}
    axes.plot([i - 0.3, i + 0.3], [chance] * 2, label='chance' if i == 0 else None, **dotted)
  axes.set_xticks(range(len(probes)), [label(name) for name in probes])
  axes.set(xlim=(-0.5, len(probes) - 0.5), ylim=(0, 1.03), ylabel='accuracy')
  axes.grid(True, axis='y')
  listed = ', '.join(
    f'{name} {float(task["before"]["accuracy"]):.2f} to {float(task["after"]["accuracy"]):.2f}'
    for name, task in probes.items()
  )
  return f'Accuracy of linear probes on the features, before to after: {listed}'


def _place(owner: str) -> tuple[str, str]:
  """Block and kind of a kernel: 'backbone/block_03/attn/q' -> ('03', 'attn/q')."""
  found = re.search(r'block_(\d+)/(.+)$', owner)
  return (found[1], found[2]) if found else (label(owner), '')


def _floats(values: Sequence[Any]) -> np.ndarray:
  """Numbers, some of which JSON holds as the text 'nan'."""
  return np.array(values, dtype=np.float64)
