"""Files stay readable whatever moment the process dies at, and hold strict JSON only."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import files as json_files
from masm_jax.errors import UserError
from masm_jax.files import JsonLines, read_json, read_lines, write_json


def strict_loads(text):
  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  return json.loads(text, parse_constant=refuse)


def test_plain_types_from_everything_a_run_holds():
  value = {
    'array': np.arange(3, dtype=np.int32),
    'jax': jnp.array([0.5, -jnp.inf], jnp.bfloat16),
    'scalar': np.float32(0.1),
    'tuple': (1, None, True, 'nan'),
    'path': pathlib.PurePosixPath('a/b'),
    'bad': {'inf': np.inf, 'nan': np.float64('nan')},
  }
  assert json_files.to_json(value) == {
    'array': [0, 1, 2],
    'jax': [0.5, '-inf'],
    'scalar': float(np.float32(0.1)),
    'tuple': [1, None, True, 'nan'],
    'path': 'a/b',
    'bad': {'inf': 'inf', 'nan': 'nan'},
  }
  with pytest.raises(TypeError, match='keys are strings, not 1'):
    json_files.to_json({1: 2})
  with pytest.raises(TypeError, match='no place in JSON'):
    json_files.to_json({'x': {1, 2}})


def test_document_round_trip_is_strict_and_leaves_no_partial_file(tmp_path):
  path = tmp_path / 'new' / 'results.json'
  write_json(path, {'b': math.nan, 'a': 1 / 3, 'name': 'Käse'})
  assert strict_loads(path.read_text()) == {'b': 'nan', 'a': 1 / 3, 'name': 'Käse'}
  assert list(read_json(path)) == ['b', 'a', 'name']
  assert math.isnan(float(read_json(path)['b']))
  assert [p.name for p in path.parent.iterdir()] == ['results.json']
  with pytest.raises(TypeError):
    write_json(path, {'x': object()})
  assert read_json(path)['a'] == 1 / 3  # The old document is untouched.


def test_unreadable_documents_are_one_line(tmp_path):
  with pytest.raises(UserError, match=r'cannot read .*none\.json: No such file'):
    read_json(tmp_path / 'none.json')
  broken = tmp_path / 'broken.json'
  broken.write_text('{"a": ')
  with pytest.raises(UserError, match='is not JSON'):
    read_json(broken)
  with pytest.raises(
    UserError, match=r'cannot write .*metrics\.jsonl: .*give a folder that can be'
  ):
    JsonLines(broken / 'metrics.jsonl')


def test_lines_round_trip_in_full_precision(tmp_path):
  lines = JsonLines(tmp_path / 'm.jsonl')
  lines.append({'step': 1, 'loss': 1 / 3, 'n': 2})
  lines.append({'step': 2, 'loss': math.inf, 'n': np.array([[-0.0, -math.inf]])})
  lines.close()
  assert [strict_loads(line) for line in lines.path.read_text().splitlines()] == [
    {'step': 1, 'loss': 1 / 3, 'n': 2},
    {'step': 2, 'loss': 'inf', 'n': [[-0.0, '-inf']]},
  ]
  assert read_lines(lines.path)[1] == {'step': 2, 'loss': math.inf, 'n': [[0.0, -math.inf]]}


@pytest.mark.parametrize('cut', range(1, 22))
def test_a_half_written_line_is_dropped_wherever_it_was_cut(tmp_path, cut):
  path = tmp_path / 'm.jsonl'
  whole, torn = b'{"step": 1, "loss": 0.5}\n', b'{"step": 2, "x": "\xc3\xa9"}\n'
  path.write_bytes(whole + torn[:cut])
  assert [record['step'] for record in read_lines(path)] == [1]
  lines = JsonLines(path)  # Opening again must not glue the next line to the torn one.
  lines.append({'step': 2})
  lines.close()
  assert path.read_bytes() == whole + b'{"step": 2}\n'


def test_truncate_keeps_up_to_the_step_and_drops_damage(tmp_path, caplog):
  caplog.set_level('WARNING', logger='absl')
  lines = JsonLines(tmp_path / 'm.jsonl')
  for step in (1, 2, 2, 3, 10):
    lines.append({'step': step})
  with lines.path.open('ab') as file:
    file.write(b'\x00\x00\xff\n[1]\n{"loss": 2}\n{"step": 2, "late": 1}\n{"step": 1')
  lines.truncate(2)
  lines.append({'step': 3})
  lines.close()
  assert read_lines(lines.path) == [
    {'step': 1},
    {'step': 2},
    {'step': 2},
    {'step': 2, 'late': 1},
    {'step': 3},
  ]
  assert 'dropped 3 damaged lines' in caplog.text
  assert [path.name for path in tmp_path.iterdir()] == ['m.jsonl']


def test_damage_in_the_middle_is_an_error_when_reading(tmp_path):
  path = tmp_path / 'm.jsonl'
  path.write_text('{"step": 1}\noops\n{"step": 2}\n')
  with pytest.raises(UserError, match='line 2 is not a JSON object'):
    read_lines(path)


def test_every_line_survives_sigkill(tmp_path):
  code = (
    'import sys; from masm_jax.files import JsonLines\n'
    'lines = JsonLines(sys.argv[1])\n'
    'for step in range(100): lines.append({"step": step})\n'
    'print("written", flush=True)\n'
    'sys.stdin.read()'
  )
  path = tmp_path / 'm.jsonl'
  root = pathlib.Path(json_files.__file__).parents[1]
  with subprocess.Popen(
    [sys.executable, '-c', code, str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(root)},
  ) as process:
    assert process.stdout.readline() == b'written\n'
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  assert [record['step'] for record in read_lines(path)] == list(range(100))


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path):
  path = tmp_path / 'a.txt'
  json_files.write_text(path, 'old')
  with pytest.raises(OSError, match='full'), json_files.replacing(path) as fresh:
    fresh.write_text('half')
    assert path.read_text() == 'old' and fresh.parent == tmp_path
    raise OSError('full')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
  with json_files.replacing(path) as first, json_files.replacing(path) as second:
    assert first != second  # Two at once do not write into one another's file.
    first.write_text('one')
    second.write_text('two')
  assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path):
  (tmp_path / 'other').write_text('stays')
  (tmp_path / 'a.txt').symlink_to(tmp_path / 'other')
  json_files.write_bytes(tmp_path / 'a.txt', b'new')
  assert (tmp_path / 'other').read_text() == 'stays'
  assert not (tmp_path / 'a.txt').is_symlink() and (tmp_path / 'a.txt').read_text() == 'new'


def test_what_a_kill_leaves_is_removed(tmp_path):
  json_files.write_text(tmp_path / 'kept.partial', 'a file of the user')
  (tmp_path / '.a.txt.0011223344556677.partial').write_text('ha')
  json_files.remove_unfinished(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['kept.partial']
