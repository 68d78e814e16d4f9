"""The locks hold what `requirements*.txt` say, all that those need, and a hash of every file."""

import importlib.metadata
import re

import packaging.requirements
import pytest

from tests.docs import lock


@pytest.mark.parametrize('name', lock.LOCKS)
def test_a_lock_is_made_of_its_requirements(name):
  text = (lock.ROOT / name).read_text()
  for source in lock.LOCKS[name]:
    how = 'python -m tests.docs.lock --update'
    assert f'{lock.digest(source)}  {source}' in text, f'{source} was changed: {how}'
    wanted = lock.pins((lock.ROOT / source).read_text())
    wanted = {package: pin for package, pin in wanted.items() if package not in lock.BY_VERSION}
    assert wanted and wanted.items() <= lock.pins(text).items()
  assert not any(package.startswith('nvidia-') for package in lock.pins(text))
  assert not set(lock.BY_VERSION) & lock.pins(text).keys()


@pytest.mark.parametrize('name', lock.LOCKS)
def test_every_file_has_a_hash(name):
  text = (lock.ROOT / name).read_text()
  blocks = re.split(r'^(?=[A-Za-z0-9])', text, flags=re.MULTILINE)[1:]
  assert len(blocks) >= len(lock.pins(text)) > 50  # Some have two versions, by markers.
  for block in blocks:
    assert re.search(r'--hash=sha256:[0-9a-f]{64}\b', block), block
    assert '://' not in block and '==' in block, block


@pytest.mark.parametrize('name', lock.LOCKS)
def test_a_lock_is_closed(name):
  """Whatever an installed package of it needs here is in it too."""
  locked = lock.pins((lock.ROOT / name).read_text())
  lacks = set()
  for package in locked:
    try:
      needs = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:  # Of another platform.
      continue
    for need in map(packaging.requirements.Requirement, needs):
      applies = need.marker is None or need.marker.evaluate({'extra': ''})
      if applies and lock.normal(need.name) not in locked:
        lacks.add(f'{package} -> {need}')
  assert not lacks


def test_names_have_one_spelling():
  assert lock.pins('A_b.C==1.0 \\\n    --hash=sha256:0\nd[x]==2 ; sys_platform == "linux"') == {
    'a-b-c': '1.0', 'd': '2',
  }  # fmt: skip
