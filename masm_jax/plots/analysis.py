"""The picture of a run's analysis: what turned, what overlaps, spectra, and what probes still read.

Drawn as in `plots`: no pyplot, and equal input gives equal bytes.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from masm_jax.plots import canvas

_KINDS = ('attn/q', 'attn/k', 'attn/v', 'attn/out', 'mlp/fc1', 'mlp/fc2')
_SIDES = ('U', 'V')
# Okabe and Ito's palette, one colour per kind.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')


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
  has_subspaces = document['subspaces'] is not None
  note = document['semantics']['note']
  rows = 2 if has_subspaces else 1
  figure = canvas.new_figure(11.0, 3.6 * rows + 0.2 * canvas.num_lines(note, 11.0))
  run = document['run']
  title = f'{run["method"]} on {run["backbone"]}, step {run["step"]}: before and after fine-tuning'
  figure.suptitle(title, fontsize=12)
  axes = figure.subplots(rows, 3, squeeze=False)
  if has_subspaces:
    kernels = document['subspaces']['kernels']
    _draw_angles(axes[0, 0], kernels, 'U')
    _draw_angles(axes[0, 1], kernels, 'V')
    _draw_overlap(axes[0, 2], kernels)
  _draw_changes(axes[-1, 0], document['spectra']['kernels'])
  _draw_principal(axes[-1, 1], document['spectra']['kernels'])
  _draw_probes(axes[-1, 2], document['semantics']['probes'])
  return canvas.save_figure(figure, path, note)


def _place(owner: str) -> tuple[int, str]:
  """Block number and kind of a kernel, `backbone/block_03/attn/q` -> (3, 'attn/q')."""
  found = re.search(r'block_(\d+)/(.+)$', owner)
  return int(found[1]), found[2]


def _draw_angles(axes: Axes, kernels: Mapping[str, Any], side: str) -> None:
  """Mean principal angle, a row per kernel and a column per subspace."""
  angles = np.array(
    [[np.mean(a) for a in kernel[side]['angles_deg']] for kernel in kernels.values()]
  )
  image = axes.imshow(angles, aspect='auto', cmap='viridis', vmin=0, interpolation='nearest')
  blocks = [_place(owner)[0] for owner in kernels]
  starts = [i for i, block in enumerate(blocks) if i == 0 or blocks[i - 1] != block]
  every = max(len(starts) // 8, 1)
  axes.set_yticks(starts[::every], [f'block {blocks[i]}' for i in starts[::every]], fontsize=8)
  axes.set_xticks(range(angles.shape[1]))
  axes.tick_params(axis='x', labelsize=8)
  axes.set_xlabel('subspace', fontsize=9)
  axes.set_title(f'{side}: mean angle to the start, degrees', fontsize=9)
  axes.figure.colorbar(image, ax=axes).ax.tick_params(labelsize=8)


def _draw_overlap(axes: Axes, kernels: Mapping[str, Any]) -> None:
  """Mean squared cosine between subspaces, and with the semantic one, at the end."""
  sides = [kernel[side] for kernel in kernels.values() for side in _SIDES]
  between = np.mean([side['overlap'] for side in sides], axis=0)
  semantic = np.mean([side['semantic_share'] for side in sides], axis=0)
  table = np.column_stack([between, semantic])
  axes.imshow(table, cmap='viridis', vmin=0, vmax=1)
  for (row, column), value in np.ndenumerate(table):
    colour = 'white' if value < 0.6 else 'black'
    axes.text(column, row, f'{value:.3f}', ha='center', va='center', fontsize=7, color=colour)
  count = len(between)
  axes.set_xticks(range(count + 1), [*map(str, range(count)), 'semantic'], fontsize=8)
  axes.set_yticks(range(count), map(str, range(count)), fontsize=8)
  axes.set_ylabel('subspace', fontsize=9)
  axes.set_title('overlap at the end (1: same span)', fontsize=9)


def _by_kind(axes: Axes, kernels: Mapping[str, Any], value: Any, title: str) -> None:
  """A line per kind of kernel over the blocks."""
  for index, kind in enumerate(_KINDS):
    points = [(_place(o)[0], value(k)) for o, k in kernels.items() if _place(o)[1] == kind]
    axes.plot(*zip(*points, strict=True), color=_COLOURS[index], marker='o', markersize=3,
              label=kind)  # fmt: skip
  axes.set_xlabel('block', fontsize=9)
  axes.set_title(title, fontsize=9)
  axes.tick_params(labelsize=8)
  axes.grid(color='#ececec', linewidth=0.8)
  axes.set_ylim(bottom=0)
  axes.legend(fontsize=7)


def _draw_changes(axes: Axes, kernels: Mapping[str, Any]) -> None:
  change = lambda kernel: 100 * float(kernel['change'])
  _by_kind(axes, kernels, change, 'spectrum: change of singular values, %')


def _draw_principal(axes: Axes, kernels: Mapping[str, Any]) -> None:
  kept = lambda kernel: np.mean([float(kernel['principal_kept'][side]) for side in _SIDES])
  lost = lambda kernel: 100 * max(1 - kept(kernel), 0)
  _by_kind(axes, kernels, lost, 'principal subspace: turned out of its span, %')


def _draw_probes(axes: Axes, probes: Mapping[str, Any]) -> None:
  """Accuracy before and after, with its interval and chance."""
  for offset, model, colour in ((-0.2, 'before', _COLOURS[-1]), (0.2, 'after', _COLOURS[0])):
    found = [task[model] for task in probes.values()]
    height = np.array([probe['accuracy'] for probe in found])
    spread = np.abs([[probe[end] for probe in found] for end in ('low', 'high')] - height)
    axes.bar(np.arange(len(found)) + offset, height, 0.38, yerr=spread, color=colour, label=model,
             error_kw={'elinewidth': 1})  # fmt: skip
  for index, task in enumerate(probes.values()):
    axes.hlines(task['after']['chance'], index - 0.42, index + 0.42, color='black', linestyle=':',
                label='chance' if index == 0 else None)  # fmt: skip
  axes.set_xticks(range(len(probes)), list(probes), fontsize=9)
  axes.set_ylim(0, 1.05)
  axes.set_title('linear probes of real faces: accuracy', fontsize=9)
  axes.tick_params(labelsize=8)
  axes.legend(fontsize=7)
