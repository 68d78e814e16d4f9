"""The picture of the tree is the tree's own."""

import pytest

from tests.docs import tree


@pytest.mark.parametrize('page', tree.PICTURES)
def test_the_picture_is_that_of_the_code(page):
  drawn = (tree.REPOSITORY / page).read_text()
  assert drawn == tree.updated(page), 'write it anew: python -m tests.docs.tree --update'


def test_every_module_says_what_it_is():
  text = tree.picture(opened=True)
  names = [line.split()[0] for line in text.splitlines()]
  assert {'masm_jax/', 'detector.py', 'subspaces/', 'decompose.py', 'sweep.py'} <= set(names)
  silent = [line for line in text.splitlines() if len(line.split()) == 1]
  assert {line.strip() for line in silent} <= {'configs/', 'launch/', 'gke/', 'benchmarks/'}


def test_a_short_picture_has_a_line_for_each_package():
  lines = tree.picture(opened=False).splitlines()
  assert sum(line.split()[0].endswith('/') for line in lines) == 1 + sum(
    path.is_dir() and any(path.glob('*.py')) for path in (tree.REPOSITORY / 'masm_jax').iterdir()
  )
  assert not any('.py' in line.split()[0] for line in lines)
