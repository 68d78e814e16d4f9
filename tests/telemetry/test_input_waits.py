"""Steps that wait for their batch are counted, and told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.telemetry import InputWaits, read_lines
from masm_jax.training import writer


class Running:
  """A result that is there when the test says so."""

  def __init__(self, ready=False):
    self.ready = ready

  def is_ready(self):
    return self.ready


def ask(waits, *, before=False, after=False):
  running = Running(before)
  with waits.watch(running):
    running.ready = after


def test_a_batch_is_late_where_the_device_ended_meanwhile():
  waits = InputWaits()
  for _ in range(15):
    ask(waits)  # Busy before and after.
  for _ in range(100):
    ask(waits, before=True, after=True)  # Idle for another reason, as after an evaluation.
  for _ in range(4):
    ask(waits, after=True)
  assert waits.take_share() is None  # 19 count.
  ask(waits, after=True)
  assert waits.take_share() == 5 / 20
  assert waits.take_share() is None  # From here on anew.
  for _ in range(20):
    ask(waits, after=True)
  assert waits.take_share() == 1


def test_with_arrays_of_jax():
  @jax.jit
  def step(x):
    return jax.lax.fori_loop(0, 400, lambda _, x: x @ x / jnp.linalg.norm(x), x)

  x = jnp.eye(200) + 0.1
  jax.block_until_ready(step(x))  # Compiles.
  waits = InputWaits()
  for _ in range(20):
    running = step(x)
    with waits.watch(running):
      pass
    running = step(running)
    with waits.watch(running):
      running.block_until_ready()
  # A short step may end early on a machine that is busy otherwise, but half of them waited.
  assert 0.4 <= waits.take_share() <= 0.9


def test_a_run_that_waits_says_so_once(tmp_path, caplog):
  batch = {'image': np.zeros(2, np.uint8), 'record': np.zeros(2, np.int64)}
  with writer.RunReport(tmp_path, enabled=True, groups=None) as report:
    for step, share in enumerate((None, 0.25, 0.9, 0.95), 1):
      report.write_training(step, {'loss': 1.0}, batch, 7.0 if step > 1 else None, share)
  (line,) = [record.getMessage() for record in caplog.records]
  assert line.startswith('training waits for images: 90 % of the last batches came when the device')
  perf = [
    {name: value for name, value in line.items() if name != 'step'}
    for line in read_lines(tmp_path / 'perf.jsonl')
  ]
  assert perf == [
    {'train/images_per_second': 7.0, 'train/late_batches': share} for share in (0.25, 0.9, 0.95)
  ]
  with writer.RunReport(tmp_path / 'other', enabled=False, groups=None) as report:
    report.write_training(1, {'loss': 1.0}, batch, 7.0, 0.9)
  assert len(caplog.records) == 1


@pytest.mark.parametrize('ready', [True, False])
def test_an_error_in_the_iterator_counts_nothing(ready):
  waits = InputWaits()
  for _ in range(30):
    with pytest.raises(StopIteration), waits.watch(Running(ready)):
      raise StopIteration
  assert waits.take_share() is None
