"""Pictures of the layers that a method chose before it trained."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from masm_jax.plots.canvas import in_print, new_figure, save_figure

_CHOSEN, _OTHER = '#0b4f8a', '#cfd4da'


@in_print
def selection_figure(
  names: Sequence[str],
  scores: ArrayLike,
  chosen: ArrayLike,
  path: str | os.PathLike,
  *,
  score_name: str,
) -> pathlib.Path:
  """Draws the score of each layer as a bar, dark where the layer was chosen.

  Args:
    names: of the L layers, the nearest to the pixels first; drawn from the top.
    scores: [L], at least 0.
    chosen: bool [L].
    path: PNG to write; its folder is made.
    score_name: what the scores are.

  Returns:
    `path`.

  Raises:
    ValueError: if the lengths differ.
    UserError: if the file cannot be written.
  """
  scores, chosen = np.asarray(scores, np.float64), np.asarray(chosen, bool)
  if not len(names) == len(scores) == len(chosen):
    raise ValueError(f'{len(names)} names, {len(scores)} scores, {len(chosen)} choices')
  size = len(names)
  figure = new_figure(6.0, float(np.clip(0.17 * size, 1.0, 9.0)) + 1.0)
  axes = figure.add_subplot()
  axes.barh(np.arange(size), scores, color=np.where(chosen, _CHOSEN, _OTHER), height=0.8)
  shown = range(0, size, -(-size // 48))
  axes.set_yticks(shown, [names[i] for i in shown], fontsize=7)
  axes.set_ylim(size - 0.5, -0.5)
  axes.set_xlabel(f'score in the probe: {score_name}', fontsize=9)
  axes.tick_params(axis='x', labelsize=8)
  axes.spines[['top', 'right']].set_visible(False)
  axes.set_title(f'Layers chosen before training: {chosen.sum()} of {size} (dark)', fontsize=11)
  return save_figure(figure, path)
