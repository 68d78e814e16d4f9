"""Columns stand in line, and a hostile name stays a name in every language."""

import csv
import io

import pytest

from masm_jax.metrics import text_tables

ROWS = [['set', 'AUROC', 'n'], ['celebdf', '0.9', '12'], ['x', '-', '1234']]


def test_columns_are_aligned():
  assert text_tables.align(ROWS) == ['set      AUROC     n', 'celebdf    0.9    12',
                                     'x            -  1234']  # fmt: skip
  assert text_tables.align(ROWS, num_left=3) == ['set      AUROC  n', 'celebdf  0.9    12',
                                                 'x        -      1234']  # fmt: skip
  assert text_tables.align(ROWS, group=1)[0] == 'set       AUROC      n'
  assert text_tables.align([]) == []


def test_markdown_tables():
  header, *rows = ROWS
  assert text_tables.markdown_table(header, rows[:1]) == [
    '| set | AUROC | n |', '|---|---:|---:|', '| celebdf | 0.9 | 12 |'
  ]  # fmt: skip
  assert text_tables.markdown_table(header, rows[:1], is_aligned=True) == [
    '| set     | AUROC |  n |', '| ------- | ----: | -: |', '| celebdf |   0.9 | 12 |'
  ]  # fmt: skip


@pytest.mark.parametrize('end', ['\n', '\r', '\r\n', '\x0b', '\x0c', '\x85', '\u2028', '\x00'])
def test_no_text_ends_its_line(end):
  hostile = f'a{end}\\write18{{id}}'
  assert text_tables.one_line(hostile) == 'a \\write18{id}'
  assert text_tables.latex(hostile) == r'a \textbackslash{}write18\{id\}'
  for escape in (text_tables.markdown, text_tables.csv):
    assert len(escape(hostile).splitlines()) == 1


def test_every_language_has_its_own_signs():
  # Behind the end of a row these would be its arguments.
  assert text_tables.latex(' [2cm]x') == '{}[2cm]x' and text_tables.latex('*y') == '{}*y'
  assert text_tables.latex('a [2cm]*') == 'a [2cm]*'
  assert text_tables.latex('~^<>"&%$#_{}±') == (
    r'\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textquotedbl{}'
    r'\&\%\$\#\_\{\}$\pm$'
  )
  assert text_tables.markdown('a|b `c` *d* <e> [f](g) a_b') == (
    r'a\|b \`c\` \*d\* \<e> \[f\](g) a_b'
  )
  assert text_tables.csv('=cmd|x') == "'=cmd|x" and text_tables.csv('a=b') == 'a=b'
  assert text_tables.csv('\ufeff ＋1') == "'\ufeff ＋1"
  text = io.StringIO()
  csv.writer(text).writerow([text_tables.csv('a,"b"\nc'), 1])
  assert next(csv.reader(io.StringIO(text.getvalue()))) == ['a,"b" c', '1']
