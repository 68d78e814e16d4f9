"""Flags of commands, what --help shows of them, new sets among them, and errors in one line."""

import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from masm_jax import cli, terminal
from masm_jax.__main__ import COMMANDS
from masm_jax.errors import UserError
from masm_jax.parallel import talk

# ml_collections loads config files by a function that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PROCESSES = {'coordinator', 'num_processes', 'process_id', 'distributed', 'hang_timeout_s'}
FLAGS = {
  'main': {'config', 'workdir', 'profile', 'compilation_cache', *PROCESSES},
  'evaluate': {
    'checkpoint',
    'step',
    'suite',
    'out',
    'weights',
    'remote',
    'compilation_cache',
    *PROCESSES,
  },
  'inspect': {'config', 'json'},
  'analysis': {'workdir', 'step', 'weights', 'manifest', 'compilation_cache'},
  'pretrain': {'config', 'output'},
}


def run(*words, folder=REPOSITORY):
  return subprocess.run(
    [sys.executable, '-m', *words], capture_output=True, text=True, cwd=folder,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY)}, timeout=100,
  )  # fmt: skip


@pytest.mark.parametrize('command', FLAGS)
def test_help_shows_all_flags_that_a_command_takes_and_no_others(command):
  result = run(f'masm_jax.{command}', '--help')
  assert (result.returncode, result.stderr) == (0, '')
  shown = result.stdout
  found = set(re.findall(r'^  --(?:\[no\])?(\w+):', shown, re.MULTILINE))
  if command in ('evaluate', 'inspect'):  # A flag that the text recommends, the list has.
    assert {name for name in PROCESSES if f'--{name}' in shown} <= found
  assert found == FLAGS[command]


@pytest.mark.parametrize('command', ['inspect', 'analysis'])
def test_a_flag_of_another_command_is_refused(command):
  result = run(f'masm_jax.{command}', '--coordinator=h:1')
  assert result.returncode == 2
  assert result.stderr.startswith("error: Unknown command line flag 'coordinator'")


@pytest.mark.parametrize(
  'command', ['data', 'compare', 'demo', 'report', 'preprocess', 'perturb_videos', 'sweep']
)
def test_usage_lines_say_what_was_typed(command):
  assert run('masm_jax', command, '-h').stdout.startswith(f'usage: python -m masm_jax {command} ')
  assert run(f'masm_jax.{command}', '-h').stdout.startswith(f'usage: python -m masm_jax.{command} ')


def test_help_and_errors_are_in_typed_words(tmp_path):
  assert 'python -m masm_jax compare runs/' in run('masm_jax', 'compare', '-h').stdout
  assert 'python -m masm_jax evaluate --checkpoint' in run('masm_jax', 'evaluate', '--help').stdout
  assert 'python -m masm_jax.evaluate --check' in run('masm_jax.evaluate', '--help').stdout
  error = run('masm_jax', 'compare', str(tmp_path), str(tmp_path), '--out', 'x').stderr
  assert 'run `python -m masm_jax evaluate --out=' in error and error.count('\n') == 1
  assert set(FLAGS) <= set(COMMANDS)


def read(*words, sets='data.tests', name='config'):
  return cli.read_config(name, words, sets=sets)


@pytest.mark.parametrize('flag', [['--{}.manifest=m.csv'], ['--{}.manifest', 'm.csv']])
@pytest.mark.parametrize('name', ['mine', 'my-set', 'v1+x', '2024', 'in'])
def test_a_set_that_the_suite_does_not_name(flag, name):
  words = [word.format(f'suite.sets.{name}') for word in flag]
  suite = read('--suite=cross_eval:sets=cdfv2', *words, sets='sets', name='suite')
  assert set(suite.sets) == {'cdfv2', name} and suite.is_locked
  assert suite.sets[name].to_dict() == {
    'manifest': 'm.csv', 'root': '', 'split': 'test', 'dataset': '', 'methods': (),
    'flagged': False,
  }  # fmt: skip


def test_a_test_set_that_the_config_does_not_name():
  config = read(
    '--config=demo:method=linear', '--config.data.tests.mine.manifest=m.csv',
    '--config.data.tests.mine.split=', "--config.data.tests.mine.methods=('DF', 'NT')",
    '--config.data.tests.known.manifest=',
  )  # fmt: skip
  assert config.data.tests.mine.to_dict() == {
    'manifest': 'm.csv', 'root': '', 'split': '', 'dataset': '', 'methods': ('DF', 'NT'),
    'flagged': False,
  }  # fmt: skip
  assert len(config.data.tests) == 5
  assert config.data.tests.known.manifest == ''


@pytest.mark.parametrize(
  ('word', 'message'),
  [
    ('--config.data.tests.knwon.manifest=', '--config.data.tests.knwon: no such set, there are'),
    ('--config.data.tests.knwon.split=val', 'a new one needs its --config.data.tests.knwon.manif'),
    ('--config.data.tests.v1.0.manifest=x', 'and a name without dots'),
    ('--config.data.test.known.manifest=x', 'no such config field'),
    ('--config.data.tests.known.manifst=x', 'no such config field'),
  ],
)
def test_a_slip_of_the_pen_makes_no_set(word, message):
  with pytest.raises(UserError) as refused:
    read('--config=demo', word)
  assert message in str(refused.value)


def test_what_a_config_file_refuses_is_told_without_its_traceback():
  with pytest.raises(UserError) as refused:
    read('--config=own:method=masn')
  start = "--config=own:method=masn: there is no method 'masn': choose one of masm, "
  assert str(refused.value).startswith(start)


@pytest.mark.parametrize(
  ('word', 'message'),
  [
    ('--config.train.steps=3', 'config.train.steps; config.train has batch_size, duration'),
    ('--config.train.batchsize=3', '\'batchsize\'. Did you mean "batch_size" instead of '),
    ('--config.zzz.y=3', 'config.zzz; config has backbone, '),
  ],
)
def test_an_unknown_field_names_those_that_there_are(word, message):
  with pytest.raises(UserError) as refused:
    read('--config=own', word)
  assert str(refused.value).startswith(f'no such config field: {message}')


@pytest.mark.parametrize(
  ('folder', 'level', 'is_told'),
  [
    (str(REPOSITORY / 'masm_jax'), logging.INFO, True),
    ('/home/user/masm_jax/.venv/lib/python3.11/site-packages/jax/_src', logging.INFO, False),
    ('/home/user/masm_jax/.venv/lib/python3.11/site-packages/jax/_src', logging.WARNING, True),
  ],
)
def test_what_jax_tells_of_itself_is_dropped(folder, level, is_told, monkeypatch):
  handler = logging.NullHandler()
  monkeypatch.setattr(logging.getLogger(), 'handlers', [handler])
  monkeypatch.setattr(logging.getLogger('absl'), 'handlers', [])
  talk.drop_of_others()
  record = logging.makeLogRecord({'pathname': f'{folder}/module.py', 'levelno': level})
  assert bool(handler.filter(record)) == is_told


def test_an_error_is_one_line_whatever_stands_in_it(capsys):
  def command():
    raise UserError('set a\nb: there is\r\nnone')

  assert cli.exit_status(command) == 2
  assert capsys.readouterr().err == 'error: set a b: there is none\n'


def test_no_terminal_obeys_what_is_said_or_logged(capsys, monkeypatch):
  name = 'a\x1b]0;owned\x07\x1b[2J\nerror: all is well\u202e'
  log = logging.getLogger('masm_jax.test')
  handler = logging.StreamHandler(sys.stderr)

  def command():
    terminal.say(f'set  n\n{name}\t7')
    log.warning('cannot read %s: %d', name, 3)
    return 0

  log.addHandler(handler)
  monkeypatch.setattr(terminal, '_PACKAGE', os.path.dirname(__file__))
  try:
    assert cli.exit_status(command) == 0
  finally:
    log.removeHandler(handler)
  out, err = capsys.readouterr()
  assert out == 'set  n\na\\x1b]0;owned\\x07\\x1b[2J\nerror: all is well\\u202e\t7\n'
  assert err == ('cannot read a\\x1b]0;owned\\x07\\x1b[2J error: all is well\\u202e: 3\n')


def test_memory_that_does_not_suffice_is_one_line(capsys):
  assert cli.exit_status(lambda: len(np.empty(2**60, np.uint8))) == 2
  said = capsys.readouterr().err
  assert said.startswith('error: this takes more memory than the machine gives, asked for by')
  assert said.count('\n') == 1


def test_names_of_files_in_another_encoding_are_refused(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'getfilesystemencoding', lambda: 'iso8859-1')
  assert cli.exit_status(lambda: 0) == 2
  assert 'names of files are taken for iso8859-1 here, and those' in capsys.readouterr().err


def test_ctrl_c_is_one_line(capsys):
  def command():
    raise KeyboardInterrupt

  assert cli.exit_status(command, interrupted='stopped') == 130
  assert capsys.readouterr().err == 'stopped\n'
