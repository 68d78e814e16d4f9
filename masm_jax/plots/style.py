"""What all pictures share: colours of the two media, line styles, shares as squares, names.

A drawing function takes a theme and draws one picture, whether it ends as a PNG on white or as an
SVG within a page that may be light or dark. For the page the colours are stand-ins that nothing
else has; `svg.to_svg` replaces them by the page's CSS variables.
"""

import dataclasses
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes

MASK_COLOUR = '#3b8fd6'  # Seen on white and on black; how opaque it is says how often.
_PALEST = 0.06
_DOTTED = (0, (1, 1.4))
_DASHED = (0, (5, 2))
_SHIPPED = {  # Of matplotlib, whatever file its user has; each canvas has a backend of its own.
  key: value
  for key, value in dict.items(matplotlib.rcParamsDefault)
  if not key.startswith('backend')
}
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]')


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of a medium.

  Attributes:
    ink, muted, rule, paper: of text, of lesser text, of grids, and of what lies behind.
    real, fake: of the classes.
    series: of runs; they repeat.
    line_styles: of runs; they repeat.
    background: behind a figure; 'none' lets the page show through.
  """

  ink: str
  muted: str
  rule: str
  paper: str
  real: str
  fake: str
  series: tuple[str, ...]
  line_styles: tuple[Any, ...]
  background: str

  def line(self, series: int, level: str = 'video') -> dict[str, Any]:
    """Colour and line of a run: thin and dashed at frame level."""
    style = {
      'color': self.series[series % len(self.series)],
      'linestyle': self.line_styles[series % len(self.line_styles)],
    }
    return style | {'linestyle': _DASHED, 'linewidth': 1.3} if level == 'frame' else style

  @property
  def dotted(self) -> dict[str, Any]:
    """A thin line for chance, or for a threshold."""
    return {'color': self.muted, 'linewidth': 0.8, 'linestyle': _DOTTED}

  @property
  def rc(self) -> dict[str, Any]:
    """All of matplotlib's settings; draw within `matplotlib.rc_context` of them."""
    return _SHIPPED | {
      'text.parse_math': False,  # A data set may be called '$x$'.
      'font.size': 10.5,
      'axes.titlesize': 11,
      'axes.titleweight': 'bold',
      'axes.titlelocation': 'left',
      'axes.edgecolor': self.muted,
      'axes.labelcolor': self.muted,
      'axes.titlecolor': self.ink,
      'text.color': self.ink,
      'xtick.color': self.muted,
      'ytick.color': self.muted,
      'axes.facecolor': 'none',
      'figure.facecolor': self.background,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.linewidth': 0.8,
      'axes.axisbelow': True,
      'grid.color': self.rule,
      'grid.linewidth': 0.8,
      'lines.linewidth': 1.8,
      'legend.frameon': False,
      'legend.fontsize': 9.5,
      'legend.handlelength': 1.6,
      'legend.labelcolor': self.ink,
    }


# Okabe and Ito's palette, told apart by colour-blind readers too; line styles carry on behind it.
PRINT = Theme(
  ink='#1b2026', muted='#5b6570', rule='#dfe3e8', paper='#ffffff', real='#2b6cb8', fake='#c2412d',
  series=('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'),
  line_styles=('-', '--', ':', '-.'), background='white',
)  # fmt: skip
PAGE = Theme(
  ink='#010201', muted='#020302', rule='#030403', paper='#040504', real='#050620', fake='#050621',
  series=tuple(f'#0506{i:02x}' for i in range(8)), line_styles=('-',), background='none',
)  # fmt: skip


def draw_shares(axes: Axes, shares: np.ndarray, extent_x: tuple[float, float]) -> None:
  """Shares in [0, 1] as squares, [rows, columns], row 0 on top; what lies behind shows through."""
  extent = (*extent_x, len(shares) - 0.5, -0.5)
  axes.imshow(share_colours(shares), aspect='auto', interpolation='none', extent=extent)
  axes.spines[:].set_visible(False)


def share_colours(shares: np.ndarray) -> np.ndarray:
  """RGBA in [0, 1] of shares, one axis more; what is not finite cannot be seen."""
  rgba = np.empty((*shares.shape, 4))
  rgba[..., :3] = colors.to_rgb(MASK_COLOUR)
  rgba[..., 3] = np.where(np.isfinite(shares), _PALEST + (1 - _PALEST) * shares, 0.0)
  return rgba


def draw_values(axes: Axes, values: np.ndarray, format_value: Any) -> None:
  """Writes values [rows, columns] into the squares of `draw_shares`."""
  for (row, column), value in np.ndenumerate(values):
    text = format_value(value) if np.isfinite(value) else '–'
    axes.text(column, row, text, ha='center', va='center', fontsize=9.5)


def label(text: object, width: int = 24) -> str:
  """A name for a drawing: without control characters, shortened in its middle."""
  text = clean(text)
  if len(text) <= width:
    return text
  head = (width - 1) * 2 // 3
  return f'{text[:head]}…{text[len(text) - (width - 1 - head) :]}'


def clean(text: object) -> str:
  """Text without control characters and without marks that turn the direction of writing."""
  return _CONTROL.sub('�', str(text))


def clean_lines(text: str) -> str:
  """`clean` of each line."""
  return '\n'.join(map(clean, text.split('\n')))
