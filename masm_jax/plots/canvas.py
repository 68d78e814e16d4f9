"""What all pictures share: a figure without pyplot, small print below it, and a file written whole.

Nothing depends on a display or on global state, and equal input gives equal PNG bytes under one
matplotlib version.
"""

import functools
import os
import pathlib
import textwrap
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.plots.style import PRINT

_GREY = '#6b6b6b'
_DPI = 130


_P = ParamSpec('_P')
_R = TypeVar('_R')


def in_print(draw: Callable[_P, _R]) -> Callable[_P, _R]:
  """Runs a function that draws a PNG with the settings of `style.PRINT`."""

  @functools.wraps(draw)
  def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    with matplotlib.rc_context(PRINT.rc):
      return draw(*args, **kwargs)

  return drawn


def new_figure(width: float, height: float) -> Figure:
  """An empty figure, its sides in inches."""
  figure = Figure(figsize=(width, height), dpi=_DPI, layout='constrained', facecolor='white')
  figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
  FigureCanvasAgg(figure)
  return figure


def num_lines(note: str, width: float) -> int:
  """Lines that a note takes under a figure of this width, in inches."""
  return len(_wrap(note, width))


def _wrap(note: str, width: float) -> list[str]:
  per_line = int(15 * width)  # Characters of the small print per inch, with some room.
  return [line for part in note.splitlines() for line in textwrap.wrap(part, per_line)]


def save_figure(figure: Figure, path: str | os.PathLike, note: str = '') -> pathlib.Path:
  """Writes a PNG, with a note in small print below; the file is the old one or the new, whole.

  Raises:
    UserError: if the file cannot be written.
  """
  width, height = figure.get_size_inches()
  if lines := _wrap(note, width):
    figure.text(0.01, 0.06 / height, '\n'.join(lines), fontsize=8, color=_GREY, va='bottom')
    reserved = (0.2 * len(lines) + 0.06) / height
    figure.get_layout_engine().set(rect=(0, reserved, 1, 1 - reserved))
  path = pathlib.Path(path)
  try:
    with files.replacing(path) as fresh:  # Without the version of matplotlib in the file.
      figure.savefig(fresh, format='png', metadata={'Software': None})
  except OSError as error:
    raise UserError(f'cannot write the picture {path}: {error.strerror}') from error
  return path
