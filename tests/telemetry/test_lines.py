"""Files of lines stay readable whatever moment the process dies at, and whatever bit flips."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.telemetry import JsonLines, read_lines


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=r'cannot write .*m\.jsonl: .*give a folder that can be'):
    JsonLines(tmp_path / 'file' / 'm.jsonl')


def test_lines_round_trip_in_full_precision(tmp_path):
  lines = JsonLines(tmp_path / 'm.jsonl')
  lines.append({'step': 1, 'loss': 1 / 3, 'n': 2})
  lines.append({'step': 2, 'loss': math.inf, 'n': np.array([[-0.0, -math.inf]])})
  lines.close()
  assert [json.loads(line) for line in lines.path.read_text().splitlines()] == [
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
    {'step': 2},  # Once: two runs at once, of an earlier version, had written it twice.
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
    'import sys; from masm_jax.telemetry import JsonLines\n'
    'lines = JsonLines(sys.argv[1])\n'
    'for step in range(100): lines.append({"step": step})\n'
    'print("written", flush=True)\n'
    'sys.stdin.read()'
  )
  path = tmp_path / 'm.jsonl'
  root = pathlib.Path(telemetry.__file__).parents[2]
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


def test_every_bit_that_flips_is_undone_by_the_spare(tmp_path):
  path = tmp_path / 'm.jsonl'
  lines = JsonLines(path, spare=True)
  for step in (1, 2, 3):
    lines.append({'step': step, 'loss': step / 7})
  lines.close()
  whole, spare = path.read_bytes(), (tmp_path / '.m.jsonl.spare').read_bytes()
  records = read_lines(path)
  for file, data in ((path, whole), (tmp_path / '.m.jsonl.spare', spare)):
    for i in range(0, 8 * len(data), 5):
      damaged = bytearray(data)
      damaged[i // 8] ^= 1 << i % 8
      file.write_bytes(damaged)
      assert read_lines(path) == records, i
    JsonLines(path, spare=True).close()
    assert (path.read_bytes(), (tmp_path / '.m.jsonl.spare').read_bytes()) == (whole, spare)


def test_a_kill_between_a_line_and_its_spare_damages_nothing(tmp_path, caplog):
  shorter = '.m.jsonl.spare'
  lines = JsonLines(tmp_path / 'm.jsonl', spare=True)
  lines.append({'step': 1})
  kept = (tmp_path / shorter).read_bytes()
  lines.append({'step': 2})
  lines.close()
  (tmp_path / shorter).write_bytes(kept)
  lines = JsonLines(tmp_path / 'm.jsonl', spare=True)
  lines.truncate(1)
  lines.append({'step': 2})
  lines.close()
  assert [record['step'] for record in read_lines(tmp_path / 'm.jsonl')] == [1, 2]
  assert 'damaged' not in caplog.text
