import pickle
import threading

import numpy as np
import pytest

from masm_jax.data.samplers import make_sampler
from masm_jax.errors import UserError

LABELS = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1], np.int32)


def test_uniform_covers_each_record_once_per_epoch():
  sampler = make_sampler('uniform', LABELS, seed=3)
  epochs = np.array([sampler(i) for i in range(4 * 11)]).reshape(4, 11)
  for epoch in epochs:
    assert sorted(epoch) == list(range(11))
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert len(sampler) == 11


def test_balanced_alternates_and_covers_each_class_in_rounds():
  sampler = make_sampler('balanced', LABELS, seed=3)
  records = np.array([sampler(i) for i in range(2 * 48)])
  assert LABELS[records].tolist() == [0, 1] * 48
  for label, size in ((0, 3), (1, 8)):
    rounds = records[label::2][: 48 // size * size].reshape(-1, size)
    expected = [i for i, found in enumerate(LABELS) if found == label]
    for one in rounds:
      assert sorted(one) == expected
    assert len({tuple(one) for one in rounds}) > 1


@pytest.mark.parametrize('kind', ['uniform', 'balanced'])
def test_position_alone_decides(kind):
  sampler = make_sampler(kind, LABELS, seed=5)
  forward = [sampler(i) for i in range(200)]
  fresh = make_sampler(kind, LABELS, seed=5)
  order = np.random.default_rng(0).permutation(200)
  assert [forward[i] for i in order] == [fresh(int(i)) for i in order]
  copy = pickle.loads(pickle.dumps(sampler))
  assert [copy(i) for i in range(200)] == forward
  assert [make_sampler(kind, LABELS, seed=6)(i) for i in range(200)] != forward


def test_threads_agree_and_old_rounds_are_dropped():
  sampler = make_sampler('balanced', LABELS, seed=5)
  expected = [make_sampler('balanced', LABELS, seed=5)(i) for i in range(2000)]
  found = {}

  def read(start):
    found[start] = [sampler(i) for i in range(start, 2000, 4)]

  threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert all(found[start] == expected[start::4] for start in range(4))
  sampler(10**6)
  assert len(sampler._rounds) < 20


def test_huge_positions_are_reached_at_once():
  assert make_sampler('uniform', LABELS, seed=0)(10**12) in range(11)


@pytest.mark.parametrize(
  ('kind', 'labels', 'seed', 'message'),
  [
    ('balanced', [0, 0], 0, 'no fake image among the 2'),
    ('balanced', [1], 0, 'no real image among the 1'),
    ('uniform', [], 0, 'training set is empty'),
    ('uniform', [0], -1, 'negative'),
    ('random', [0], 0, 'no sampler'),
  ],
)
def test_bad_input(kind, labels, seed, message):
  with pytest.raises(UserError, match=message):
    make_sampler(kind, np.array(labels, np.int32), seed)
