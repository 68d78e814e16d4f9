"""Probabilities of fake over the time of a video, one line a person."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from masm_jax.plots import svg
from masm_jax.plots.canvas import in_print, new_figure, save_figure
from masm_jax.plots.style import PAGE, PRINT, Theme

_MAX_NAMED = 8  # People in the legend.


@dataclasses.dataclass(frozen=True)
class Line:
  """One person.

  Attributes:
    name: of the person.
    times_s: of the frames, rising, seconds.
    probabilities: of the frames, as many.
  """

  name: str
  times_s: Sequence[float]
  probabilities: Sequence[float]


@in_print
def timeline_figure(
  lines: Sequence[Line],
  path: str | os.PathLike,
  *,
  threshold: float,
  band: tuple[float, float] | None,
  note: str = '',
) -> pathlib.Path:
  """Draws a timeline as PNG.

  Args:
    lines: of each person.
    path: of the file; its folder is made.
    threshold: above it a frame is called fake.
    band: in which nothing is called.
    note: in small print.

  Raises:
    UserError: if the file cannot be written.
  """
  figure = new_figure(8.0, 2.6)
  _draw(figure.add_subplot(), lines, threshold, band, PRINT)
  return save_figure(figure, path, note)


def timeline_svg(
  lines: Sequence[Line],
  name: str,
  *,
  threshold: float,
  band: tuple[float, float] | None,
  description: str,
) -> Markup:
  """The same as an SVG for a page; `name` is unique on it."""
  with svg.panel(620, 190) as (figure, axes):
    _draw(axes, lines, threshold, band, PAGE)
    return svg.to_svg(figure, name, description)


def _draw(
  axes: Axes,
  lines: Sequence[Line],
  threshold: float,
  band: tuple[float, float] | None,
  theme: Theme,
) -> None:
  if band is not None:
    axes.axhspan(*band, color=theme.rule, linewidth=0)
  axes.axhline(threshold, **theme.dotted)
  for i, line in enumerate(lines):
    label = line.name if len(lines) > 1 and i < _MAX_NAMED else None
    axes.plot(
      line.times_s, line.probabilities, marker='o', markersize=3, label=label, **theme.line(i)
    )
  axes.set_ylim(-0.03, 1.03)
  axes.set_yticks((0, 0.5, 1), ('0 %', '50 %', '100 %'))
  axes.set_xlabel('seconds')
  axes.set_ylabel('fake')
  if len(lines) > 1:
    axes.legend(loc='upper right', ncols=min(len(lines), 4))
