"""Pictures are drawn with matplotlib as it was shipped, whatever the folder and the user say."""

import os
import subprocess
import sys

import matplotlib

from masm_jax.plots import layers
from tests.running import REPOSITORY

RC = 'text.usetex: True\nsavefig.dpi: 300\naxes.formatter.use_locale: True\nnonsense: 1\n'
DRAW = """
import os
from masm_jax.plots import layers
layers.selection_figure(['a', 'b'], [1.0, 2.0], [0, 1], 'a.png', score_name='x_1')
print(os.environ['MPLBACKEND'], os.environ['XDG_CACHE_HOME'], 'MATPLOTLIBRC' in os.environ)
"""


def draw(folder):
  path = folder / 'expected.png'
  layers.selection_figure(['a', 'b'], [1.0, 2.0], [0, 1], path, score_name='x_1')
  return path.read_bytes()


def test_neither_the_folder_nor_the_environment_has_a_say(tmp_path):
  expected = draw(tmp_path / 'made')
  (tmp_path / 'matplotlibrc').write_text(RC)
  variables = {
    'MPLBACKEND': 'nonsense',
    'XDG_CACHE_HOME': 'x',
    'XDG_CONFIG_HOME': 'x',
    'PYTHONPATH': str(REPOSITORY),
  }
  done = subprocess.run(
    [sys.executable, '-c', DRAW], cwd=tmp_path, env=os.environ | variables,
    capture_output=True, text=True, check=False, timeout=120,
  )  # fmt: skip
  assert (done.stdout, done.stderr) == ('nonsense x False\n', '')  # Both as they were.
  assert (tmp_path / 'a.png').read_bytes() == expected
  assert sorted(os.listdir(tmp_path)) == ['a.png', 'made', 'matplotlibrc']


def test_settings_that_were_made_before_have_no_say(tmp_path, monkeypatch):
  expected = draw(tmp_path)
  for name, value in {'savefig.dpi': 20.0, 'text.usetex': True, 'font.size': 30.0}.items():
    monkeypatch.setitem(matplotlib.rcParams, name, value)
  assert draw(tmp_path) == expected
