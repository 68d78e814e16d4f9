"""Batches over files: full ones, no starving, errors that reach who asked."""

import threading
import time

import numpy as np
import pytest

from masm_jax.prediction.scorer import Scorer


class Device:
  """Scores a crop by its first pixel; notes what it was given."""

  def __init__(self):
    self.batches = []
    self.gate = threading.Event()
    self.gate.set()

  def __call__(self, batch):
    self.gate.wait(20)
    self.batches.append(batch[:, 0, 0, 0].tolist())
    if batch.max() == 255:
      raise RuntimeError('out of memory')
    values = batch[:, 0, 0, 0].astype(np.float32)
    return {'logit': values, 'feature': values[:, None] * 2}


@pytest.fixture
def device():
  return Device()


@pytest.fixture
def scorer(device):
  made = Scorer(device, batch_size=8, small_batch=2)
  yield made
  made.close()


def crops(*values):
  return np.array(values, np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)


def test_faces_of_several_files_share_batches(scorer, device):
  device.gate.clear()
  scorer.more_will_come(1)
  first = scorer.submit(crops(1), single=False)
  time.sleep(0.1)
  futures = [first, *(scorer.submit(crops(*range(i, i + 3)), single=False) for i in (2, 5, 8))]
  scorer.more_will_come(-1)
  device.gate.set()
  found = [future.result(10) for future in futures]
  assert np.concatenate([one.logits for one in found]).tolist() == list(range(1, 11))
  assert found[1].features.tolist() == [[4], [6], [8]] and found[1].logits.dtype == np.float64
  assert device.batches == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 0, 0, 0, 0, 0, 0]]
  assert (scorer.num_rows, scorer.num_batches) == (10, 2)


def test_pictures_go_in_small_batches_and_at_once(scorer, device):
  assert scorer.submit(crops(7), single=True).result(10).logits.tolist() == [7]
  assert device.batches == [[7, 0]]


def test_a_chunk_larger_than_a_batch(scorer):
  found = scorer.submit(crops(*range(20)), single=False).result(10)
  assert found.logits.tolist() == list(range(20)) and found.seconds > 0


def test_a_picture_is_not_starved_by_videos(scorer):
  scorer.more_will_come(1)  # A long video that is being cut all the time.
  picture = scorer.submit(crops(3), single=True)
  began = time.monotonic()
  while not picture.done() and time.monotonic() - began < 10:
    scorer.submit(crops(*range(8)), single=False)
    time.sleep(0.02)
  assert picture.result(0).logits.tolist() == [3]
  assert time.monotonic() - began < 5
  scorer.more_will_come(-1)


def test_an_error_of_the_device_reaches_those_of_its_batch_alone(scorer):
  scorer.more_will_come(1)
  bad = scorer.submit(crops(*[255] * 8), single=False)
  good = scorer.submit(crops(*range(8)), single=False)
  scorer.more_will_come(-1)
  with pytest.raises(RuntimeError, match='out of memory'):
    bad.result(10)
  assert good.result(10).logits.tolist() == list(range(8))
