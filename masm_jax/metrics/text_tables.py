"""Tables as text: aligned columns, Markdown, and how a strange text is written in each language.

Names of data sets, methods and files come from strangers. `one_line`, `markdown`, `latex` and `csv`
write one so that it stays a text: it ends no line, cell or comment, and is no command.
"""

import math
import re
from collections.abc import Sequence

_BREAKS = re.compile(r'[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+')
# Wide signs too: of a Japanese keyboard.
_FORMULA = re.compile(r'[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]')
_MARKDOWN = re.compile(r'([\\`|*<\[\]])')
_LATEX = {
  '\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
  '<': r'\textless{}', '>': r'\textgreater{}', '"': r'\textquotedbl{}', '±': r'$\pm$',
  **{character: f'\\{character}' for character in '&%$#_{}'},
}  # fmt: skip


def align(rows: Sequence[Sequence[str]], *, num_left: int = 1, group: int = 0) -> list[str]:
  """Lines of equal columns: names flush left, numbers flush right.

  Args:
    rows: of texts, all equally long; the header among them.
    num_left: how many columns are names.
    group: columns of numbers that stand together, three blanks apart from the next; 0 for all.

  >>> align([['set', 'AUROC'], ['known', '0.9']])
  ['set    AUROC', 'known    0.9']
  """
  widths = column_widths(rows)
  lines = []
  for row in rows:
    text = ''
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
      wide = group and i >= num_left and (i - num_left) % group == 0
      gap = '' if i == 0 else '   ' if wide else '  '
      text += gap + (cell.ljust(width) if i < num_left else cell.rjust(width))
    lines.append(text.rstrip())
  return lines


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
  """The longest cell of each column."""
  return [max(map(len, column)) for column in zip(*rows, strict=True)]


def markdown_table(
  header: Sequence[str], rows: Sequence[Sequence[str]], *, is_aligned: bool = False
) -> list[str]:
  """Lines of a Markdown table: the first column flush left, the others flush right.

  Args:
    header: of the columns, as Markdown.
    rows: of cells, as Markdown; see `markdown`.
    is_aligned: whether it is to be read as it stands too: columns of equal width.
  """
  if not is_aligned:
    rule = f'|---|{"---:|" * (len(header) - 1)}'
    lines = [f'| {" | ".join(row)} |' for row in (header, *rows)]
    return [lines[0], rule, *lines[1:]]
  widths = column_widths([header, *rows])
  ruler = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  return [
    f'| {" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])} |'
    for row in (header, ruler, *rows)
  ]


def number(value: float) -> str:
  """Three decimals; a dash for what is not defined."""
  return f'{value:.3f}' if math.isfinite(value) else '–'


def one_line(text: str) -> str:
  """A text without line breaks and control characters, as for a comment."""
  return _BREAKS.sub(' ', text).strip()


def markdown(text: str) -> str:
  """A text for a paragraph, a list or a cell of Markdown.

  >>> print(markdown('a|b [x](y)'))
  a\\|b \\[x\\](y)
  """
  return _MARKDOWN.sub(r'\\\1', one_line(text))


def latex(text: str) -> str:
  """A text for a cell or a caption of LaTeX.

  >>> print(latex('50% of a_b'))
  50\\% of a\\_b
  """
  text = ''.join(_LATEX.get(character, character) for character in one_line(text))
  # At the beginning of a row these would be arguments of the `\\` or the rule before it.
  return f'{{}}{text}' if text.startswith(('[', '*')) else text


def csv(text: str) -> str:
  """A text for a cell of a CSV file, on one line, and no formula; csv quotes it."""
  return no_formula(one_line(text))


def no_formula(text: str) -> str:
  """A text that no spreadsheet takes for a formula; they skip what is blank before it.

  >>> no_formula('=1+1'), no_formula('1=1')
  ("'=1+1", '1=1')
  """
  return f"'{text}" if _FORMULA.match(text) else text
