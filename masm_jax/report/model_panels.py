"""What fine-tuning did to the model, from the run's `analysis.json` as the evaluation carries it.

See `masm_jax.analysis` for what each figure is; here they are drawn, and nothing is computed anew.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import ticker

from masm_jax.report import svg
from masm_jax.report.pictures import draw_shares
from masm_jax.report.runs import Run

_SIDES = ('U', 'V')
_MAX_NUMBERS = 9  # Columns of a matrix whose figures still fit into its cells.


def draw(run: Run) -> list[tuple[str, Markup]]:
  """(caption, drawing) of the analysis of a run; empty where it has none.

  Args:
    run: whose results hold the run's analysis under `subspaces`.
  """
  analysis = run.results.subspaces
  if not analysis:
    return []
  drawings = []
  if found := analysis.get('subspaces'):
    kernels = found['kernels']
    drawings += [
      (f'{side}: angle to where it began', _angles(run, kernels, side)) for side in _SIDES
    ]
    drawings.append(('Overlap of subspaces at the end', _overlap(run, kernels)))
  if found := analysis.get('spectra'):
    kernels = found['kernels']
    drawings += [
      (
        'Change of singular values',
        _by_block(run, kernels, _changed, '% of their norm', 'spectrum'),
      ),
      ('Turned out of the principal span', _by_block(run, kernels, _lost, '%', 'principal')),
    ]
  if probes := (analysis.get('semantics') or {}).get('probes'):
    drawings.append(('What linear probes still read', _probes(run, probes)))
  return drawings


def _angles(run: Run, kernels: Mapping[str, Any], side: str) -> Markup:
  """Mean principal angle of each kernel and subspace, [kernels, K]; full colour: the largest."""
  angles = np.array(
    [[np.mean(_floats(a)) for a in k[side]['angles_deg']] for k in kernels.values()]
  )
  low, high = float(np.nanmin(angles)), float(np.nanmax(angles))
  blocks = [_place(owner)[0] for owner in kernels]
  starts = [i for i, block in enumerate(blocks) if i == 0 or blocks[i - 1] != block]
  every = -(-len(starts) // 12)
  with svg.panel(310, 262) as (figure, axes):
    draw_shares(axes, angles / max(high, 1e-9), (-0.5, angles.shape[1] - 0.5))
    axes.set_yticks(starts[::every], [blocks[i] for i in starts[::every]])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(9, integer=True))
    axes.set(ylabel='kernels by block', xlabel='subspace')
    axes.set_title(f'pale: 0°, full: {high:.2g}°')
    text = f'Mean angle of {side} of each kernel and subspace of {run.name} to its start'
    return svg.to_svg(
      figure, f'angles-{side}-{run.series}', f'{text}: {low:.2g} to {high:.2g} degrees'
    )


def _overlap(run: Run, kernels: Mapping[str, Any]) -> Markup:
  """Mean squared cosine between subspaces, and with the semantic one: [K, K + 1]."""
  sides = [kernel[side] for kernel in kernels.values() for side in _SIDES]
  between = np.mean([_floats(side['overlap']) for side in sides], axis=0)
  semantic = np.mean([_floats(side['semantic_share']) for side in sides], axis=0)
  table = np.column_stack([between, semantic])
  names = [*map(str, range(len(between))), 'sem.']
  with svg.panel(310, 262) as (figure, axes):
    draw_shares(axes, np.clip(table, 0, 1), (-0.5, len(names) - 0.5))
    if len(names) <= _MAX_NUMBERS:
      for (row, column), value in np.ndenumerate(table):
        axes.text(
          column,
          row,
          f'{value:.2f}' if np.isfinite(value) else '–',
          ha='center',
          va='center',
          fontsize=9.5,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(between)), names[:-1])
    axes.set(ylabel='subspace', xlabel='subspace; sem.: the frozen one')
    text = f'Overlap of the subspaces of {run.name} with each other and with the semantic one'
    return svg.to_svg(figure, f'overlap-{run.series}', text)


def _by_block(
  run: Run, kernels: Mapping[str, Any], value: Callable[[Any], float], unit: str, name: str
) -> Markup:
  """A line for each kind of kernel over the blocks."""
  lines: dict[str, list[tuple[int, float]]] = {}
  for owner, kernel in kernels.items():
    block, kind = _place(owner)
    if block.isdecimal():
      lines.setdefault(kind, []).append((int(block), value(kernel)))
  with svg.panel(310, 262) as (figure, axes):
    for i, (kind, points) in enumerate(lines.items()):
      x, y = zip(*points, strict=True)
      colour = svg.SERIES[i % len(svg.SERIES)]
      axes.plot(x, y, color=colour, marker='o', markersize=3.5, label=svg.label(kind))
    axes.set(xlabel='block', ylabel=unit)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.grid(True, axis='y')
    figure.legend(loc='outside lower center', ncols=3)
    text = f'{name} of {run.name} by block, a line for each kind of kernel: {", ".join(lines)}'
    return svg.to_svg(figure, f'{name}-{run.series}', text)


def _changed(kernel: Mapping[str, Any]) -> float:
  return 100 * float(kernel['change'])


def _lost(kernel: Mapping[str, Any]) -> float:
  kept = np.mean([float(kernel['principal_kept'][side]) for side in _SIDES])
  return 100 * max(1 - float(kept), 0.0)


def _probes(run: Run, probes: Mapping[str, Any]) -> Markup:
  """Accuracy of each probe before and after, with interval and chance."""
  with svg.panel(310, 262) as (figure, axes):
    for offset, model, colour in ((-0.15, 'before', svg.MUTED), (0.15, 'after', svg.SERIES[0])):
      for i, task in enumerate(probes.values()):
        value, low, high = (float(task[model][part]) for part in ('accuracy', 'low', 'high'))
        axes.plot([i + offset] * 2, [low, high], color=colour, linewidth=2.2, alpha=0.55)
        label = model if i == 0 else None
        axes.plot([i + offset], [value], 'o', color=colour, markersize=6.5, label=label)
    dotted = {'color': svg.INK, 'linewidth': 1, 'linestyle': svg.LINE_STYLES[2]}
    for i, task in enumerate(probes.values()):
      chance = float(task['after']['chance'])
      label = 'chance' if i == 0 else None
      axes.plot([i - 0.3, i + 0.3], [chance, chance], label=label, **dotted)
    axes.set_xticks(range(len(probes)), [svg.label(name) for name in probes])
    axes.set(xlim=(-0.5, len(probes) - 0.5), ylim=(0, 1.03), ylabel='accuracy')
    axes.grid(True, axis='y')
    figure.legend(loc='outside lower center', ncols=3)
    listed = ', '.join(
      f'{name} {float(task["before"]["accuracy"]):.2f} to {float(task["after"]["accuracy"]):.2f}'
      for name, task in probes.items()
    )
    text = f'Accuracy of linear probes on the features of {run.name}, before to after: {listed}'
    return svg.to_svg(figure, f'probes-{run.series}', text)


def _place(owner: str) -> tuple[str, str]:
  """Block and kind of a kernel: 'backbone/block_03/attn/q' -> ('03', 'attn/q')."""
  found = re.search(r'block_(\d+)/(.+)$', owner)
  return (found[1], found[2]) if found else (svg.label(owner), '')


def _floats(values: Sequence[Any]) -> np.ndarray:
  """Numbers, some of which JSON holds as the text 'nan'."""
  return np.array(values, dtype=np.float64)
