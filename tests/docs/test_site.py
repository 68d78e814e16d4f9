"""The documentation builds without a warning, and its pages and README stay in step."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import masm_jax
from configs import common
from tests.docs import blocks

REPOSITORY = blocks.REPOSITORY


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The built site."""
  folder = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', folder]
  result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
  return folder


def test_the_site_builds_without_a_warning(site):
  pages = {path.stem for path in (REPOSITORY / 'docs').glob('*.md')}
  assert {path.stem for path in site.glob('*.html')} == pages | {'404'}


def test_the_site_asks_nothing_of_another_host(site):
  for page in site.glob('*.html'):
    loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text())
    assert not loaded, page.name


def test_titles_of_blocks_reach_the_reader(site):
  assert 'needs a cluster' in (site / 'clusters.html').read_text()


def test_links_of_the_files_beside_the_site_lead_somewhere():
  for page in [*REPOSITORY.glob('*.md'), *(REPOSITORY / 'examples').glob('*.ipynb')]:
    text = page.read_text()
    links = re.findall(r'\]\((?!https?:)([^)#\s]+)(#[^)\s]+)?\)', text)
    if page.name == 'README.md':
      assert len(links) >= 15
    for path, anchor in links:
      target = page.parent / path
      assert target.exists(), f'{page.name}: {path}'
      if anchor:
        headings = re.findall(r'^#+ (.+)$', target.read_text(), re.MULTILINE)
        assert anchor[1:] in {_slug(heading) for heading in headings}, f'{page.name}: {anchor}'


def _slug(heading):
  return re.sub(r'[^\w -]', '', heading.lower()).strip().replace(' ', '-')


def test_the_readme_is_short():
  text = (REPOSITORY / 'README.md').read_text()
  own, _, rest = text.partition('<!-- tree:packages:begin')  # A line for each package.
  own += rest.partition('tree:packages:end')[2]
  assert len(own.splitlines()) <= 165


def test_one_version():
  citation = yaml.safe_load((REPOSITORY / 'CITATION.cff').read_text())
  assert citation['version'] == masm_jax.__version__
  project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())['project']
  assert citation['license'] == project['license']


def test_the_workflow_calls_what_ci_runs():
  workflow = yaml.safe_load((REPOSITORY / '.github' / 'workflows' / 'ci.yml').read_text())
  assert {'run': '.ci/run'} in workflow['jobs']['test']['steps']


def test_the_table_of_methods_has_every_method():
  for page in ('README.md', 'docs/methods.md'):
    rows = re.findall(r'^\| `(\w+)` \|', (REPOSITORY / page).read_text(), re.MULTILINE)
    assert set(common.METHODS) <= set(rows), page


def test_pictures_are_small():
  pictures = list((REPOSITORY / 'docs' / 'images').iterdir())
  assert 'demo.png' in {path.name for path in pictures}
  for picture in pictures:
    assert picture.stat().st_size < 300_000, picture.name


def test_no_text_cites_a_file_that_is_not_here():
  for folder in ('masm_jax', 'configs', 'launch', 'benchmarks', 'docs'):
    for path in (REPOSITORY / folder).rglob('*'):
      if path.suffix in ('.py', '.md', '.sh'):
        cited = re.findall(r'(?<![\w/])(?:method|learning|layout|stack)\.md', path.read_text())
        assert not cited, path


def test_the_notebook_is_json_with_a_final_newline():
  text = (REPOSITORY / 'examples' / 'quickstart.ipynb').read_text()
  assert json.loads(text)['nbformat'] == 4 and text.endswith('}\n')
