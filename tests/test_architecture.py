"""Imports run one way, and the package starts fast."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

from masm_jax.__main__ import COMMANDS

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'masm_jax'

# Free to all: they know nothing of the rest.
LEAVES = {
  'config',
  'errors',
  'fields',
  'files',
  'places',
  'plain_files',
  'processes',
  'terminal',
  'tree',
}
# The order of the house, from the ground up: each part may import what its line names, and nothing
# above it.
ALLOWED = {
  **{leaf: set() for leaf in LEAVES},
  'parallel': set(),
  'telemetry': set(),
  'data': {'parallel'},
  'backbones': set(),
  'masking': set(),
  'detector': {'backbones'},
  'checkpoints': {'parallel'},
  'subspaces': {'backbones'},
  'metrics': {'data'},
  'plots': {'metrics'},
  'methods': {'backbones', 'masking', 'subspaces'},
  'preprocess': {'data', 'parallel', 'telemetry'},
  'perturbations': {'data', 'parallel', 'preprocess', 'telemetry'},
  'inference': {
    'backbones',
    'checkpoints',
    'data',
    'detector',
    'methods',
    'metrics',
    'parallel',
    'subspaces',
    'telemetry',
  },
  'training': {
    'backbones',
    'checkpoints',
    'data',
    'detector',
    'inference',
    'masking',
    'methods',
    'metrics',
    'parallel',
    'plots',
    'subspaces',
    'telemetry',
  },
  'evaluation': {
    'data',
    'inference',
    'metrics',
    'parallel',
    'perturbations',
    'telemetry',
  },
  'prediction': {
    'data',
    'explain',
    'inference',
    'metrics',
    'parallel',
    'plots',
    'preprocess',
    'telemetry',
  },
  'export': {
    'backbones',
    'convert',
    'data',
    'detector',
    'inference',
    'metrics',
    'parallel',
    'telemetry',
  },
  'convert': {'backbones', 'data', 'detector', 'inference', 'methods', 'metrics', 'parallel'},
  'explain': {
    'backbones',
    'data',
    'detector',
    'inference',
    'metrics',
    'parallel',
    'plots',
    'preprocess',
    'subspaces',
    'telemetry',
  },
  'report': {'evaluation', 'metrics', 'perturbations', 'plots'},
  'shipped': set(),
  'cli': {'parallel', 'shipped'},
  'analysis': {
    'data',
    'inference',
    'metrics',
    'parallel',
    'plots',
    'subspaces',
    'telemetry',
  },
  'sweep': {'cli', 'main', 'metrics', 'parallel', 'shipped', 'telemetry', 'training'},
  'predict': {'cli', 'prediction'},
  'main': {'cli', 'training'},
  'inspect': {'cli', 'parallel', 'training'},
  'evaluate': {'cli', 'evaluation'},
  'compare': {'cli', 'evaluation', 'metrics', 'parallel', 'telemetry'},
  'perturb_videos': {'cli', 'perturbations'},
  'demo': {'cli', 'data', 'metrics', 'parallel', 'plots', 'prediction', 'telemetry'},
  'pretrain': {'cli', 'training'},
  'serving': {'data', 'parallel', 'prediction'},
  'serve': {'cli', 'parallel', 'prediction', 'serving'},
  '__main__': {'cli'},
}
# What a package's own command may import beside.
OF_COMMANDS = {'cli'}
# Files of the top folder that are no commands.
TOP_FILES = LEAVES | {'__init__', '__main__', 'cli', 'detector'}


def part_of(path):
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_parts(path):
  """Parts of the package that a file imports, anywhere in it."""
  parts = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      assert not node.level, f'{path}: relative import'
      names = (
        [f'masm_jax.{alias.name}' for alias in node.names]
        if node.module == 'masm_jax'
        else [node.module]
      )
    else:
      continue
    parts |= {name.split('.')[1] for name in names if name.startswith('masm_jax.')}
  return parts


FILES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


def test_a_file_of_the_top_folder_is_a_command_or_one_of_a_few():
  names = {path.stem for path in PACKAGE.glob('*.py')}
  assert names - TOP_FILES <= set(COMMANDS) and names >= TOP_FILES


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_is_a_file_or_the_main_file_of_a_package(command):
  places = [PACKAGE / f'{command}.py', PACKAGE / command / '__main__.py']
  (place,) = [path for path in places if path.is_file()]
  assert "if __name__ == '__main__':\n" in place.read_text()


def test_every_part_is_known():
  assert {part_of(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
  part = part_of(path)
  own = OF_COMMANDS if path.name == '__main__.py' else set()
  assert imported_parts(path) <= ALLOWED[part] | LEAVES | {part} | own


def test_the_order_has_no_cycle():
  order = []
  remaining = {part: set(allowed) for part, allowed in ALLOWED.items()}
  while remaining:
    free = [part for part, allowed in remaining.items() if allowed <= set(order)]
    assert free, remaining
    order += free
    for part in free:
      del remaining[part]
  assert order.index('methods') > order.index('masking')


def test_matplotlib_is_drawn_with_in_one_place_alone():
  """`plots` imports it as it was shipped, before any module of its own can."""
  users = {
    part_of(path) for path in FILES if re.search(r'(import|from) matplotlib', path.read_text())
  }
  assert users == {'plots'}


def test_configs_import_nothing_of_the_package():
  configs = list((PACKAGE.parent / 'configs').glob('*.py'))
  assert len(configs) >= 4
  for path in configs:
    assert imported_parts(path) == set(), path


def test_metrics_never_see_parameters():
  paths = sorted((PACKAGE / 'metrics').glob('*.py'))
  assert len(paths) >= 6
  for path in paths:
    assert imported_parts(path) <= {'errors', 'files', 'metrics', 'data', 'plain_files'}, path


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path):
  assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_printed_is_said(path):
  """By `terminal.say`, which escapes names of strangers; a text in memory is no print."""
  for call in ast.walk(ast.parse(path.read_text())):
    if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(('print', 'sys.std')):
      files = [ast.unparse(word.value) for word in call.keywords if word.arg == 'file']
      is_flush = ast.unparse(call.func).endswith(('.flush', '.fileno', '.isatty'))
      is_said = path.name == 'terminal.py'
      assert is_said or is_flush or files in (['text'], ['self._stream']), ast.unparse(call)


def opens_to_read(node):
  """Whether a call opens a file by a path, to read it."""
  called = node.func
  if isinstance(called, ast.Attribute) and called.attr in ('read_bytes', 'read_text'):
    return ast.unparse(called.value) not in ('plain_files', 'storage')
  if isinstance(called, ast.Attribute):
    if called.attr != 'open' or ast.unparse(called.value) in (
      'os',
      'av',
      'Image',
      'tensorstore.KvStore',
    ):
      return False
    mode = node.args[:1]
  elif isinstance(called, ast.Name) and called.id == 'open':
    mode = node.args[1:2]
  else:
    return False
  return not (mode and isinstance(mode[0], ast.Constant) and set(mode[0].value) & set('wax'))


def test_every_file_that_may_be_a_strangers_is_read_by_plain_files():
  # A pipe is waited for, and a file of holes fills the memory: see `plain_files`.
  others = {
    f'{path.relative_to(PACKAGE)}: {ast.unparse(node)}'
    for path in PACKAGE.rglob('*.py')
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and opens_to_read(node)
  }
  assert others == {
    # Its own, and the kernel's.
    "plain_files.py: open(descriptor, 'rb')",
    "report/page.py: (_FOLDER / 'page.css').read_text(encoding='utf-8')",
    "prediction/report.py: (_FOLDER / 'report.css').read_text('utf-8')",
    "prediction/answers.py: pathlib.Path(__file__).with_name('answer_schema.json')"
    ".read_text('utf-8')",
    "prediction/sandbox.py: (folder / 'status').read_text()",
    "export/onnx_worker.py: (folder / 'detector.json').read_text()",
    "processes.py: pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()",
    "processes.py: pathlib.Path(f'/proc/{pid}/stat').read_text()",
    "preprocess/pool.py: open('/proc/self/statm')",
    # A pipe is welcome: `--token-file=<(pass show server)`.
    "serving/guard.py: path.read_text(encoding='ascii')",
  }


def test_libraries_that_tell_their_makers_are_told_not_to(tmp_path):
  known = {'ORT_DISABLE_TELEMETRY': '1', 'RAY_USAGE_STATS_ENABLED': '0'}
  outer = {name: value for name, value in os.environ.items() if name not in known}
  code = (
    'import os, sys, masm_jax, masm_jax.preprocess.yunet\n'  # It imports onnxruntime.
    f'assert "onnxruntime" in sys.modules; print({{name: os.environ[name] for name in {[*known]}}})'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True,
    env={**outer, 'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'cache')},
  )  # fmt: skip
  assert result.stdout.strip() == str(known)
  assert not list(tmp_path.iterdir())


def test_few_files_import_a_library_that_tells_its_makers():
  found = {
    str(path.relative_to(PACKAGE))
    for path in FILES
    for line in path.read_text().splitlines()
    if line.strip().startswith(
      tuple(
        f'{how} {name}' for how in ('import', 'from') for name in ('onnxruntime', 'ray', 'wandb')
      )
    )
  }
  assert found == {'export/onnx.py', 'parallel/ray_actors.py', 'preprocess/yunet.py'}


def test_help_and_import_load_neither_jax_nor_tensorflow_nor_torch():
  code = (
    'import sys, masm_jax, masm_jax.cli, masm_jax.main, masm_jax.__main__\n'
    'print(sorted({"jax", "tensorflow", "torch", "flax"} & set(sys.modules)))'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
  )
  assert result.stdout.strip() == '[]'


def test_training_needs_neither_tensorflow_nor_torch():
  code = (
    'import sys, masm_jax.training.loop\nprint(sorted({"tensorflow", "torch"} & set(sys.modules)))'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
  )
  assert result.stdout.strip() == '[]'
