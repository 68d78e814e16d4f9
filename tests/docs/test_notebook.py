"""The quickstart notebook runs from top to bottom."""

import os

import nbclient
import nbformat
import pytest

from tests.docs import blocks

NOTEBOOK = blocks.REPOSITORY / 'examples' / 'quickstart.ipynb'


def test_the_notebook_is_stored_without_outputs():
  cells = nbformat.read(NOTEBOOK, as_version=4).cells
  assert [cell.cell_type for cell in cells].count('code') >= 4
  for cell in cells:
    assert not cell.get('outputs') and not cell.get('execution_count')


# Its libraries warn of what other libraries of theirs do.
@pytest.mark.filterwarnings('ignore')
def test_the_notebook_runs(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv(
    'PYTHONPATH', os.pathsep.join([str(blocks.REPOSITORY), os.environ.get('PYTHONPATH', '')])
  )
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={'metadata': {'path': str(NOTEBOOK.parent)}}
  )
  client.execute()
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  text = '\n'.join(out.get('text', '') for out in code[1].outputs)
  assert 'step' in text or 'results' in text
  table = code[-1].outputs[-1]['data']['text/plain']
  assert 'label' in table and 'score' in table
