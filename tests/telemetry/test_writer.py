"""Files of a resumed run equal those of an undisturbed one; TensorBoard's format is kept."""

import json
import math
import os
import pathlib
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

import masm_jax
from masm_jax.telemetry import MetricWriter, read_lines


def events(workdir):
  """TFRecords of every event file, by name of file."""
  found = []
  for path in sorted((workdir / 'tensorboard').iterdir(), key=lambda p: int(p.name.split('.')[-1])):
    data, at, records = path.read_bytes(), 0, []
    while at < len(data):
      (length,) = struct.unpack('Q', data[at : at + 8])
      records.append(Event.FromString(data[at + 12 : at + 12 + length]))
      at += 12 + length + 4
    found.append(records)
  return found


def write_steps(writer, steps):
  for step in steps:
    writer.write(step, {'train/loss': jnp.float32(1) / (step + 1), 'accuracy': np.float64(0.1)})
    writer.write_perf(step, {'images_per_second': 100.0 + step})


def test_line_format(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(3, {'b': jnp.float32(0.1), 'a': np.array([2]), 'c': math.nan, 'd': True})
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert text == f'{{"step": 3, "a": 2, "b": {float(np.float32(0.1))!r}, "c": "nan", "d": 1}}\n'
  assert math.isnan(read_lines(tmp_path / 'metrics.jsonl')[0]['c'])


def test_killed_and_resumed_files_equal_undisturbed_ones(tmp_path):
  straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
  with MetricWriter(straight) as writer:
    write_steps(writer, range(1, 9))
  first = MetricWriter(resumed)
  write_steps(first, range(1, 7))  # Never closed: killed, with a line half written.
  with (resumed / 'metrics.jsonl').open('ab') as file:
    file.write(b'{"step": 7, "acc')
  with MetricWriter(resumed) as writer:
    writer.truncate(4)
    write_steps(writer, range(5, 9))
  for name in ('metrics.jsonl', 'perf.jsonl'):
    assert (resumed / name).read_bytes() == (straight / name).read_bytes()
  assert 'images_per_second' not in (straight / 'metrics.jsonl').read_text()
  first.close()


def test_tensorboard_scalars_images_text_and_purge(tmp_path):
  image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
  with MetricWriter(tmp_path) as writer:
    writer.write(1, {'train/loss': 0.5})
    writer.write_perf(1, {'seconds': 2.0})
    writer.write_image(1, 'mask', image)
    writer.write_text(1, 'overview', 'a | b\nc')
    writer.truncate(0)
    writer.write(1, {'train/loss': 0.25})
  before, after = events(tmp_path)  # Two files although both were made within one second.
  assert before[0].file_version == 'brain.Event:2'
  values = [(event.step, event.summary.value[0]) for event in before[1:]]
  assert [(step, value.tag) for step, value in values] == [
    (1, 'train/loss'),
    (1, 'seconds'),
    (1, 'mask'),
    (1, 'overview/text_summary'),
  ]
  assert values[0][1].simple_value == 0.5
  assert (values[2][1].image.height, values[2][1].image.width) == (4, 5)
  assert values[3][1].tensor.string_val[0] == b'    a | b\n    c\n'
  assert after[1].session_log.status == SessionLog.START
  assert after[1].step == 1  # Hides what was written for step 1 and later before.
  assert after[2].summary.value[0].simple_value == 0.25


def test_bad_values_are_refused_by_name_and_leave_no_line(tmp_path):
  with MetricWriter(tmp_path) as writer:
    with pytest.raises(TypeError, match=r"'grad' has shape \(2,\)"):
      writer.write(1, {'grad': np.zeros(2)})
    with pytest.raises(TypeError, match="'name' is 'x'"):
      writer.write(1, {'name': 'x'})
    with pytest.raises(ValueError, match="'step' is not a metric's name"):
      writer.write(1, {'step': 2})
    with pytest.raises(ValueError, match='uint8'):
      writer.write_image(1, 'mask', np.zeros((4, 4, 3), np.float32))
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''


def test_disabled_writer_touches_nothing(tmp_path):
  with MetricWriter(tmp_path / 'run', enabled=False) as writer:
    writer.write(1, {'loss': 0.5})
    writer.write_perf(1, {'seconds': 0.5})
    writer.write_text(1, 'a', 'b')
    writer.write_image(1, 'a', np.zeros((2, 2, 3), np.uint8))
    writer.truncate(0)
    writer.flush()
  assert not list(tmp_path.iterdir())


def test_no_tensorflow_is_imported(tmp_path):
  code = (
    'import sys\n'
    'sys.modules["tensorflow"] = None\n'
    'sys.modules["torch"] = None\n'  # Slow, and not what is tested.
    'from masm_jax.telemetry import MetricWriter, parameter_overview\n'
    'import numpy as np\n'
    f'with MetricWriter({str(tmp_path)!r}) as writer:\n'
    '  writer.write(1, {"loss": 0.5})\n'
    'parameter_overview({"a": np.zeros(2)}, {})\n'
    'print([m for m in sys.modules if m.startswith("tensorflow.")])'
  )
  root = pathlib.Path(masm_jax.__file__).parents[1]
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(root)},
    check=False,
  )
  assert done.stdout == '[]\n', done.stderr
  assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 1, 'loss': 0.5}
