"""Shipped configs are found by name in any folder, and a file of one's own may build on them."""

import os
import pathlib
import subprocess
import sys

import pytest

from masm_jax import cli, demo, shipped
from masm_jax.errors import UserError
from masm_jax.sweep import __main__ as sweep_command
from masm_jax.sweep import plan

pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

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
  for name in ('configs/ffpp.py', 'own.py', './ffpp'):
    (tmp_path / name).touch()
    for find in (shipped.find_config, shipped.canonical, shipped.by_name):
      assert find(f'{name}:a=b') == f'{name}:a=b'


def test_a_word_never_means_a_file_of_the_working_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('ffpp', 'mine'):
    (tmp_path / name).write_text('raise SystemExit("it was run")')
  assert shipped.find_config('ffpp:a=b') == f'{REPOSITORY}/configs/ffpp.py:a=b'
  with pytest.raises(UserError, match=r'no config file .mine., .*; for the file that .* \./mine$'):
    shipped.find_config('mine')


def test_commands_without_a_config_take_the_shipped_one(tmp_path, monkeypatch, capsys):
  """Also where the folder holds files of those names, which a stranger may have put there."""
  (tmp_path / 'configs').mkdir()
  for name in ('configs/demo.py', 'configs/ablations.py', 'configs/fair.py', 'ablations', 'fair'):
    (tmp_path / name).write_text('raise SystemExit("it was run")')
  monkeypatch.chdir(tmp_path)
  assert sweep_command.main(['components', '--workdir=w', '--write=commands']) == 0
  lines = (tmp_path / 'w' / 'commands.txt').read_text().splitlines()
  assert all(' --config=demo ' in line for line in lines)
  assert plan.load_sweeps('fair', needed=('ROWS', 'BASE')).BASE == 'protocols:protocol=across'
  asked = []
  monkeypatch.setattr(demo, '_run', lambda title, command, *flags: asked.append(flags) or 1)
  monkeypatch.setattr('sys.argv', ['demo'])
  assert demo.main() == 1 and asked[0][0] == '--config=demo:method=masm'


def test_a_config_of_ones_own_imports_what_lies_around_it(tmp_path, monkeypatch):
  """As with `python -m`, which has the working folder on the path; behind all else, and no more."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'around_it.py').write_text('METHOD = "lora"')
  (tmp_path / 'configs' / 'beside_it.py').write_text('from around_it import METHOD')
  (tmp_path / 'numpy.py').write_text('raise SystemExit("it was run")')
  (tmp_path / 'configs' / 'mine.py').write_text(
    'import numpy\nfrom configs import demo\nimport beside_it\n'
    'def get_config():\n  return demo.get_config(f"method={beside_it.METHOD}")\n'
  )
  monkeypatch.chdir(tmp_path)
  before = [*sys.path]
  assert cli.read_config('config', ['--config=configs/mine.py']).method == 'lora'
  assert sys.path == before
  sys.modules.pop('beside_it'), sys.modules.pop('around_it')


@pytest.mark.parametrize('name', ['configs/mine.py', './mine.py'])
def test_a_config_of_ones_own_takes_its_own_configs_first(name, tmp_path, monkeypatch):
  """The folder that it lies in or beside; a shipped config then still takes what is shipped."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'around.py').write_text('METHOD = "lora"')
  (tmp_path / 'configs' / 'common.py').write_text('METHODS = "my own"')
  (tmp_path / name).write_text(
    'import ml_collections\nfrom configs import around, common, demo_pretrain\n'
    'def get_config():\n'
    '  return ml_collections.ConfigDict({"methods": common.METHODS, "method": around.METHOD})\n'
  )
  monkeypatch.chdir(tmp_path)
  shipped_one = cli.read_config('config', ['--config=demo:method=lora'])
  before = {name: module for name, module in sys.modules.items() if name.startswith('configs')}
  own = cli.read_config('config', [f'--config={name}'])
  assert (own.methods, own.method) == ('my own', 'lora')
  assert cli.read_config('config', ['--config=demo:method=lora']) == shipped_one
  assert before == {key: module for key, module in sys.modules.items() if key.startswith('configs')}


STRANGER = 'import pathlib; pathlib.Path({path!r}).touch()'


def test_nothing_in_the_working_folder_is_imported(tmp_path):
  """Not by `python -m`, which puts it on the path, and not by the processes that follow."""
  (tmp_path / 'configs').mkdir()
  for name in ('typing', 'numpy', 'multiprocessing', 'absl', 'configs/__init__', 'configs/common'):
    (tmp_path / f'{name}.py').write_text(STRANGER.format(path=str(tmp_path / 'marker')))
  done = subprocess.run(
    [sys.executable, '-m', 'masm_jax', 'main', '--config=demo'], cwd=tmp_path, text=True,
    capture_output=True, check=False, env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
  )  # fmt: skip
  assert 'error: give --workdir' in done.stderr and not (tmp_path / 'marker').exists()


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
