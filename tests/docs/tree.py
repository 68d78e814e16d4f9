"""The picture of the tree in README and docs: every name with the first line of its docstring.

`python -m tests.docs.tree --update` writes it anew; `test_tree.py` compares.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_FOLDERS = ('masm_jax', 'configs', 'launch', 'benchmarks')
# Page -> the name of its block, and whether packages are opened.
PICTURES = {'README.md': ('packages', False), 'docs/architecture.md': ('modules', True)}


def picture(*, opened: bool) -> str:
  """The tree as text.

  Args:
    opened: every module of every folder; otherwise the packages of `masm_jax` alone.
  """
  folders = _FOLDERS if opened else _FOLDERS[:1]
  rows = [row for folder in folders for row in _rows(REPOSITORY / folder, 0, opened)]
  width = max(len(name) for name, about in rows if about) + 2
  return '\n'.join(f'{name:{width}}{about}'.rstrip() for name, about in rows)


def _rows(folder: pathlib.Path, depth: int, opened: bool) -> Iterator[tuple[str, str]]:
  indent = '  ' * depth
  yield f'{indent}{folder.name}/', _about(folder / '__init__.py')
  paths = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
  for path in paths:
    if opened and path.suffix == '.py' and path.name != '__init__.py':
      yield f'{indent}  {path.name}', _about(path)
    elif path.is_dir() and any(path.glob('*.py')):
      if opened:
        yield from _rows(path, depth + 1, opened)
      else:
        yield f'{indent}  {path.name}/', _about(path / '__init__.py')


def _about(path: pathlib.Path) -> str:
  if not path.exists():
    return ''
  return (ast.get_docstring(ast.parse(path.read_text())) or '').partition('\n')[0]


def updated(page: str) -> str:
  """The page's text with its picture drawn anew."""
  name, opened = PICTURES[page]
  text = (REPOSITORY / page).read_text()
  begin, end = f'<!-- tree:{name}:begin', f'<!-- tree:{name}:end -->'
  head, rest = text.split(begin)
  note, rest = rest.split('-->\n', 1)
  tail = rest.split(end)[1]
  return f'{head}{begin}{note}-->\n```text\n{picture(opened=opened)}\n```\n{end}{tail}'


if __name__ == '__main__':
  if sys.argv[1:] != ['--update']:
    sys.exit('usage: python -m tests.docs.tree --update')
  for changed in PICTURES:
    (REPOSITORY / changed).write_text(updated(changed))
