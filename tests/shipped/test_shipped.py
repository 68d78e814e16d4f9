"""Shipped configs are found by name in any folder, and a file of one's own may build on them."""

import os
import pathlib
import subprocess
import sys

import pytest

from masm_jax import shipped
from masm_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def test_a_name_or_its_usual_path_is_the_shipped_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'ffpp').mkdir()  # A folder is no config.
  for name in ('ffpp', 'configs/ffpp.py'):
    assert shipped.find_config(name) == f'{REPOSITORY}/configs/ffpp.py'
    assert shipped.find_config(f'{name}:method=lora') == f'{REPOSITORY}/configs/ffpp.py:method=lora'
    assert shipped.canonical(f'{name}:method=lora') == 'configs/ffpp.py:method=lora'


def test_a_file_that_is_there_is_taken(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  for name in ('ffpp', 'configs/ffpp.py', 'own.py'):
    (tmp_path / name).touch()
    assert shipped.find_config(f'{name}:a=b') == f'{name}:a=b' == shipped.canonical(f'{name}:a=b')


@pytest.mark.parametrize('name', ['ffppp', 'ffpp.py', 'other/ffpp.py', '../configs/ffpp', ''])
def test_what_is_no_config_is_named(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r'of that name: there are ablations, .*own, protocols$'):
    shipped.find_config(name)


def test_what_a_run_stores_does_not_depend_on_how_the_config_was_named(tmp_path):
  """From another folder, by name, by path, and by a config of one's own that builds on it."""
  (tmp_path / 'mine.py').write_text(
    'from configs import common, demo\n'
    'def get_config(arg=None):\n'
    '  assert common.METHODS\n'
    '  return demo.get_config(arg)\n'
  )
  code = (
    'import sys\nfrom masm_jax import cli, config\n'
    'found = cli.read_config("config", sys.argv[1:])\n'
    'print(config.fingerprint(found), config.flatten(found))\n'
  )
  # The checkout is found by a link elsewhere, so that `configs` is not importable by itself.
  (tmp_path / 'lib').mkdir()
  (tmp_path / 'lib' / 'masm_jax').symlink_to(REPOSITORY / 'masm_jax')
  prints = [
    subprocess.run(
      [sys.executable, '-c', code, f'--config={config}:method=lora'], cwd=tmp_path, text=True,
      capture_output=True, check=True, env=os.environ | {'PYTHONPATH': str(tmp_path / 'lib')},
    ).stdout
    for config in ('demo', 'configs/demo.py', f'{REPOSITORY}/configs/demo.py', 'mine.py')
  ]  # fmt: skip
  assert "'method': 'lora'" in prints[0] and prints == prints[:1] * 4
