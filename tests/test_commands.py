"""The front command: a list of all commands at once, and the same ways into each."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import masm_jax
from masm_jax.__main__ import COMMANDS
from masm_jax.prediction import predictor
from masm_jax.terminal import usable_output

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def run(*words):
  return subprocess.run(
    [sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=100
  )


@pytest.mark.parametrize('words', [['--help'], ['-h'], []])
def test_help_lists_every_command_with_one_line(words):
  result = run('-m', 'masm_jax', *words)
  assert result.returncode == 0 and result.stderr == ''
  lines = [line for line in result.stdout.splitlines() if line.startswith('  ')]
  assert [line.split()[0] for line in lines] == list(COMMANDS)
  assert all(about in line for line, about in zip(lines, COMMANDS.values(), strict=True))


def test_help_imports_nothing_that_takes_time():
  code = (
    'import sys, masm_jax.__main__ as m\nsys.argv = ["masm-jax", "--help"]\nm.main()\n'
    'print(sorted({"absl", "numpy", "jax", "ml_collections"} & set(sys.modules)), file=sys.stderr)'
  )
  result = run('-c', code)
  assert result.stdout.startswith('usage: masm-jax COMMAND') and result.stderr == '[]\n'


@pytest.mark.parametrize('command', ['main', 'evaluate', 'inspect', 'pretrain', 'sweep'])
def test_the_help_of_a_command_waits_for_no_jax(command):
  code = (
    f'import atexit, runpy, sys\nsys.argv = ["masm-jax", "{command}", "--help"]\n'
    'atexit.register(lambda: print("jax" in sys.modules, file=sys.stderr))\n'
    'runpy.run_module("masm_jax", run_name="__main__")'
  )
  result = run('-c', code)
  assert (result.returncode, result.stderr) == (0, 'False\n')


@pytest.mark.parametrize(
  'words',
  [['--help'], ['sweep', '--list'], ['main', '--help'], ['data', '--help'], ['inspect', '--help']],
)
def test_output_that_nobody_reads_ends_a_command_quietly(words):
  """As in `masm-jax sweep --list | head -1`, where head is done before the command has begun."""
  process = subprocess.Popen(
    [sys.executable, '-m', 'masm_jax', *words], cwd=REPOSITORY, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  process.stdout.close()
  said = process.stderr.read()
  process.stderr.close()
  # absl's usage text takes no notice by itself, and has a status of its own.
  assert (process.wait(timeout=100), said) in ((141, ''), (0, ''))


CLOSED = """
import os, subprocess, sys
from masm_jax.terminal import say, usable_output
with usable_output():
  with open(sys.argv[1], 'w') as file:
    say('to nobody', file=sys.stderr)
    say('to nobody')
    sys.stdin.read()
    subprocess.run([sys.executable, '-c', 'import sys; sys.stderr.write("a"); sys.stdin.read()'],
                   check=True)
    file.write(f'{file.fileno()} {sys.stderr.isatty()}')
"""


def test_a_stream_that_the_shell_closed_is_no_file_of_ours(tmp_path):
  words = [sys.executable, '-c', CLOSED, str(tmp_path / 'out')]
  shell = ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', *words]
  assert subprocess.run(shell, cwd=REPOSITORY, timeout=60).returncode == 0
  assert (tmp_path / 'out').read_text() == '3 False'


def test_an_error_does_not_go_to_the_output_where_there_is_no_other():
  words = [sys.executable, '-m', 'masm_jax.data', 'check', 'none.csv']
  shell = ['sh', '-c', 'exec "$@" 2>&-', 'sh', *words]
  result = subprocess.run(shell, cwd=REPOSITORY, timeout=60, stdout=subprocess.PIPE)
  assert (result.returncode, result.stdout) == (2, b'')


@pytest.mark.parametrize(
  ('utf8', 'said'),
  [
    ({'PYTHONUTF8': '0'}, 'error: names of files are taken for ascii here'),
    ({}, 'error: no manifest at none人.csv'),
  ],
)
def test_names_that_cannot_be_opened_are_told_at_the_start(utf8, said):
  others = {name: value for name, value in os.environ.items() if name[:3] not in ('LAN', 'PYT')}
  result = subprocess.run(
    [sys.executable, '-m', 'masm_jax.data', 'check', 'none人.csv'], cwd=REPOSITORY, timeout=60,
    env=others | {'LC_ALL': 'C'} | utf8, stderr=subprocess.PIPE,
  )  # fmt: skip
  assert result.returncode == 2
  assert result.stderr.decode().startswith(said) and result.stderr.count(b'\n') == 1


def test_a_table_with_letters_that_an_encoding_lacks_is_printed():
  code = "import masm_jax.cli as c; c.exit_status(lambda: c.say('人 ä'))"
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=REPOSITORY, timeout=60, stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONIOENCODING': 'latin-1'},
  )  # fmt: skip
  assert (result.returncode, result.stdout) == (0, b'\\u4eba \xe4\n')


@pytest.mark.parametrize('words', [['--help'], ['sweep', '--list']])
def test_output_to_a_full_disk_is_one_line(words):
  with open('/dev/full', 'w') as full:
    result = subprocess.run(
      [sys.executable, '-m', 'masm_jax', *words], cwd=REPOSITORY, text=True, stdout=full,
      stderr=subprocess.PIPE, timeout=100,
    )  # fmt: skip
  assert result.returncode == 2
  assert re.fullmatch(r'error: No space left on device; mend that, .*\n', result.stderr)


def test_another_broken_pipe_is_no_quiet_end():
  with pytest.raises(BrokenPipeError), usable_output():
    raise BrokenPipeError('of a socket')


@pytest.mark.parametrize(('typed', 'near'), [('evalute', 'evaluate'), ('comapre', 'compare')])
def test_an_unknown_command_is_one_line_with_the_nearest_name(typed, near):
  result = run('-m', 'masm_jax', typed, '--help')
  assert (result.returncode, result.stdout) == (2, '')
  assert result.stderr == (
    f'error: no command {typed!r}: did you mean {near}? See python -m masm_jax --help\n'
  )


def test_the_version_stands_in_one_place():
  assert run('-m', 'masm_jax', '--version').stdout == f'masm_jax {masm_jax.__version__}\n'
  assert 'dynamic = ["version"]' in (REPOSITORY / 'pyproject.toml').read_text()


@pytest.mark.parametrize('words', [['main', '--config=demo', 'x'], ['data', 'check', 'none.csv']])
def test_a_command_is_the_same_by_either_way(words):
  command, *rest = words
  front, module = run('-m', 'masm_jax', *words), run('-m', f'masm_jax.{command}', *rest)
  assert front.returncode == module.returncode == 2
  typed = front.stderr.replace('`python -m masm_jax ', '`python -m masm_jax.')
  assert typed == module.stderr and front.stderr.startswith('error: ')


def test_a_command_sees_itself_as_the_program(monkeypatch):
  """Processes that it spawns import it, and not the front command."""
  seen = {}

  def run_module(name, *, run_name, alter_sys):
    seen.update(name=name, run_name=run_name, alter_sys=alter_sys, argv=list(sys.argv))

  monkeypatch.setattr(runpy, 'run_module', run_module)
  monkeypatch.setattr(sys, 'argv', ['/env/bin/masm-jax', 'report', 'runs/a', '--out=b.html'])
  monkeypatch.setenv('PYTHONSAFEPATH', '')  # The command sets it; what is set here is undone.
  front = run('-c', 'import masm_jax.cli as c; c.typed_as("masm-jax "); print(c.program("report"))')
  assert front.stdout == 'masm-jax report\n'
  from masm_jax import __main__, cli

  monkeypatch.setattr(cli, '_typed', cli._typed)
  assert __main__.main() == 0 and cli.program('report') == 'masm-jax report'
  assert seen == {
    'name': 'masm_jax.report', 'run_name': '__main__', 'alter_sys': True,
    'argv': ['/env/bin/masm-jax', 'runs/a', '--out=b.html'],
  }  # fmt: skip


@pytest.mark.parametrize('before', [None, '', '/a::/b:', ':'])
def test_no_library_is_loaded_from_the_working_folder(before, monkeypatch):
  """An empty entry is that folder, and OpenCV leaves one at the end where nothing was set."""
  monkeypatch.delenv('LD_LIBRARY_PATH', raising=False)
  if before is not None:
    monkeypatch.setenv('LD_LIBRARY_PATH', before)
  code = 'import os, masm_jax, cv2; print(os.environ["LD_LIBRARY_PATH"])'
  entries = run('-c', code).stdout.strip().split(':')
  assert len(entries) >= 2 and all(map(os.path.isabs, entries))
  assert before != '/a::/b:' or entries[-2:] == ['/a', '/b']


def test_the_package_imports_neither_jax_nor_numpy_and_has_its_public_names():
  code = (
    'import sys, masm_jax\n'
    'print(sorted({"jax", "numpy", "absl", "importlib.metadata"} & set(sys.modules)))\n'
    'assert "UserError" in dir(masm_jax) and "UserError" in masm_jax.__all__\n'
    'assert masm_jax.UserError.__module__ == "masm_jax.errors"\n'
    'try: masm_jax.nothing\n'
    'except AttributeError as error: print(error)\n'
  )
  assert run('-c', code).stdout == "[]\nmodule 'masm_jax' has no attribute 'nothing'\n"
  assert set(masm_jax.__all__) >= {'load', 'Detector'}
  assert (masm_jax.load, masm_jax.Detector) == (predictor.load, predictor.Detector)
  assert all(getattr(masm_jax, name) is not None for name in masm_jax.__all__)
