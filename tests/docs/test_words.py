"""Examples of docstrings run, and texts keep to the words of `docs/architecture.md`."""

import doctest
import importlib
import pathlib
import re

import pytest

from tests.docs import blocks

REPOSITORY = blocks.REPOSITORY
FOLDERS = ('masm_jax', 'configs', 'launch', 'benchmarks', 'docs', 'tests')
TEXTS = [
  *REPOSITORY.glob('*.md'),
  *(
    p for folder in FOLDERS for p in (REPOSITORY / folder).rglob('*') if p.suffix in ('.py', '.md')
  ),
]
WITH_EXAMPLES = [
  path
  for path in sorted((REPOSITORY / 'masm_jax').rglob('*.py'))
  if re.search(r'^ *>>> (?!.*SKIP)', path.read_text(), re.MULTILINE)
]
# Phrases that a reader has to read twice; each has a plain verb or noun instead.
_AVOIDED = re.compile(
  r'\b(?:goes on|go on|going on|as well\b(?! as)|from the begin\b|that of\b)'
  r'|(?:, |; |\b(?:or|would|could|may|might|must) )else\b|(?-i:\bElse\b)',
  re.IGNORECASE,
)
# What draws, or tells of it: everywhere else numbers are "metrics".
_OF_PICTURES = (
  *('masm_jax/plots/', 'tests/plots/', 'tests/report/', 'tests/analysis/', 'tests/docs/'),
  *('docs/architecture.md', 'CHANGELOG.md'),
)


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_examples_of_docstrings_run(path):
  name = '.'.join(path.relative_to(REPOSITORY).with_suffix('').parts).removesuffix('.__init__')
  result = doctest.testmod(importlib.import_module(name))
  assert result.attempted and not result.failed


def test_what_a_user_calls_has_an_example():
  names = {str(path.relative_to(REPOSITORY / 'masm_jax')) for path in WITH_EXAMPLES}
  assert {'tree.py', 'metrics/binary.py', 'metrics/calibration.py'} <= names


def test_texts_avoid_what_has_to_be_read_twice():
  assert len(TEXTS) > 150
  found = []
  for path in set(TEXTS) - {pathlib.Path(__file__)}:
    text = re.sub(r'\s+#?\s*', ' ', path.read_text())  # Phrases may be broken over lines.
    found += [f'{path.relative_to(REPOSITORY)}: {match[0]}' for match in _AVOIDED.finditer(text)]
  assert not found


def test_figures_are_pictures():
  found = []
  for path in TEXTS:
    name = str(path.relative_to(REPOSITORY))
    if not name.startswith(_OF_PICTURES):
      found += [f'{name}: {m[0]}' for m in re.finditer(r'.*\bfigures?\b.*', path.read_text(), re.I)]
  assert not found
