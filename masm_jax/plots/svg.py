"""Matplotlib figures as inline SVG which takes its colours and its type from the page around it.

A panel is drawn in stand-in colours; in the SVG they become CSS variables, so that one drawing
serves a light and a dark page. Text stays text: it can be read aloud, searched and copied. Equal
input gives equal bytes: no dates, and identifiers that hang on the panel's name alone.
"""

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.path import Path

from masm_jax.plots.style import PAGE, clean

_VARIABLES = {
  **{getattr(PAGE, name): name for name in ('ink', 'muted', 'rule', 'real', 'fake')},
  **{PAGE.paper: 'card'},
  **{colour: f's{i}' for i, colour in enumerate(PAGE.series)},
}
_POINTS_PER_INCH = 72
_STYLE = PAGE.rc | {
  'svg.fonttype': 'none',
  'figure.constrained_layout.use': True,
  'figure.constrained_layout.w_pad': 0.05,
  'figure.constrained_layout.h_pad': 0.05,
}


@contextlib.contextmanager
def panel(width_px: float = 310, height_px: float = 262) -> Iterator[tuple[Figure, Axes]]:
  """A figure with one pair of axes in the page's style; draw into it, then call `to_svg`."""
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(width_px / _POINTS_PER_INCH, height_px / _POINTS_PER_INCH))
    FigureCanvasSVG(figure)
    yield figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, description: str) -> Markup:
  """The figure as an `<svg>` element that scales with its surroundings.

  Args:
    figure: made and still within `panel`.
    name: of the panel, unique on the page; identifiers in the drawing are made from it.
    description: what it shows, for those who do not see it.
  """
  stream = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': name}), warnings.catch_warnings():
    # Names in any script are laid out with the drawing's own font and shown in the page's.
    warnings.filterwarnings('ignore', message='Glyph .* missing from font')
    warnings.filterwarnings('ignore', message='Matplotlib currently does not support')
    figure.savefig(stream, format='svg', metadata={'Date': None})
  text = stream.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  text = re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)
  text = re.sub(r'<g id="[^"]*"', '<g', text)
  view_box = re.search(r'viewBox="([^"]*)"', text).group(1)
  body = re.sub(r'<[^>]*>', _restyled, text[text.index('>') + 1 :])
  body = re.sub(r'\s*\n\s*', '\n', body)
  label = html.escape(clean(description), quote=True)
  return Markup(  # Matplotlib has escaped every text within the body.
    f'<svg viewBox="{view_box}" role="img" aria-label="{label}"'
    ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    f'<title>{label}</title>{body}'
  )


def _restyled(match: re.Match) -> str:
  """A tag in the page's colours and type, with coordinates to a hundredth of a pixel.

  Only tags are changed: the texts between them are names and numbers.
  """
  tag = match.group()
  for colour, variable in _VARIABLES.items():
    tag = tag.replace(colour, f'var(--{variable})')
  tag = re.sub(r' ?font-family: [^;"]*;', '', tag)
  return re.sub(r'-?\d+\.\d{3,}', lambda number: f'{float(number.group()):.2f}', tag)


def dots(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, size: float = 3.4) -> None:
  """Points as one compact path of round strokes of no length, each x, y [N]."""
  points = np.stack([x, y], axis=1).astype(float)
  vertices = np.repeat(points, 2, axis=0)
  codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
  path = Path(vertices, codes)
  path.should_simplify = False
  patch = matplotlib.patches.PathPatch(
    path, fill=False, edgecolor=colour, linewidth=size, capstyle='round', alpha=0.75
  )
  axes.add_patch(patch)
  axes.update_datalim(points)
  axes.autoscale_view()
