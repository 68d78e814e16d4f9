import pickle
import threading

import numpy as np
import pandas as pd
import pytest

from masm_jax.data.samplers import make_sampler
from masm_jax.errors import UserError

LABELS = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1], np.int32)
TABLE = pd.DataFrame({'label': LABELS})


def test_uniform_covers_each_record_once_per_epoch():
  sampler = make_sampler('uniform', TABLE, seed=3)
  epochs = np.array([sampler(i) for i in range(4 * 11)]).reshape(4, 11)
  for epoch in epochs:
    assert sorted(epoch) == list(range(11))
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert len(sampler) == 11


def test_balanced_alternates_and_covers_each_class_in_rounds():
  sampler = make_sampler('balanced', TABLE, seed=3)
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
  sampler = make_sampler(kind, TABLE, seed=5)
  forward = [sampler(i) for i in range(200)]
  fresh = make_sampler(kind, TABLE, seed=5)
  order = np.random.default_rng(0).permutation(200)
  assert [forward[i] for i in order] == [fresh(int(i)) for i in order]
  copy = pickle.loads(pickle.dumps(sampler))
  assert [copy(i) for i in range(200)] == forward
  assert [make_sampler(kind, TABLE, seed=6)(i) for i in range(200)] != forward


def test_threads_agree_and_old_rounds_are_dropped():
  sampler = make_sampler('balanced', TABLE, seed=5)
  expected = [make_sampler('balanced', TABLE, seed=5)(i) for i in range(2000)]
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
  assert make_sampler('uniform', TABLE, seed=0)(10**12) in range(11)


@pytest.mark.parametrize(
  ('kind', 'labels', 'seed', 'message'),
  [
    ('balanced', [0, 0], 0, 'no fake image among the 2'),
    ('balanced', [1], 0, 'no real image among the 1'),
    ('uniform', [], 0, 'training set is empty'),
    ('uniform', [0], -1, 'negative'),
    ('random', [0], 0, 'no sampler .random.; there are uniform, balanced, per_method, paired'),
    ('per_method', [0], 0, 'no fake image among the 1'),
    ('paired', [1], 0, 'no real image among the 1'),
  ],
)
def test_bad_input(kind, labels, seed, message):
  with pytest.raises(UserError, match=message):
    make_sampler(kind, pd.DataFrame({'label': np.array(labels, np.int32)}), seed)


def _rows(*rows):
  """A table of (label, dataset, method, video, source video, frame)."""
  columns = ['label', 'dataset', 'method', 'video_id', 'source_video_id', 'frame']
  return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def forged():
  """Two source videos of three frames; a third real one of which nothing was made."""
  rows = [(0, 'd', 'real', f'r{v}', f'r{v}', frame) for v in range(3) for frame in (0, 10, 20)]
  rows += [(1, 'd', 'DF', 'df0', 'r0', frame) for frame in (1, 19)]
  rows += [(1, 'd', 'FS', 'fs0', 'r0', frame) for frame in (0, 10, 20)]
  rows += [(1, 'd', 'FS', 'fs1', 'r1', 5)]
  rows += [(1, 'e', 'FS', 'other', 'unknown', 0)]
  return _rows(*rows)


def test_per_method_gives_each_method_of_each_data_set_its_turn(forged):
  sampler = make_sampler('per_method', forged, seed=1)
  assert len(sampler) == len(forged)
  records = np.array([sampler(i) for i in range(6 * 24)])
  drawn = forged.iloc[records]
  assert drawn['label'].tolist() == [0, 1] * 72
  found = list(zip(drawn['dataset'][1::2], drawn['method'][1::2], strict=True))
  assert found == [('d', 'DF'), ('d', 'FS'), ('e', 'FS')] * 24
  # Each group in its own rounds: 9 real records, whose turn comes every second time; 4 of (d, FS).
  for one in records[0::2].reshape(-1, 9):
    assert sorted(one) == list(range(9))
  for one in records[3::6].reshape(-1, 4):
    assert sorted(one) == [11, 12, 13, 14]


def test_paired_puts_a_fake_made_from_it_behind_each_real(forged, caplog):
  sampler = make_sampler('paired', forged, seed=1)
  assert '3 of 9 real images have no fake' in caplog.text
  assert len(sampler) == 6 + 6
  records = [sampler(i) for i in range(2 * 600)]
  reals, fakes = np.array(records[0::2]), np.array(records[1::2])
  for one in reals.reshape(-1, 6):
    assert sorted(one) == list(range(6))
  # Real row -> the nearest frame of each fake video made from its own.
  partners = {0: {9, 11}, 1: {9, 12}, 2: {10, 13}, 3: {14}, 4: {14}, 5: {14}}
  for real, expected in partners.items():
    assert set(fakes[reals == real]) == expected
    for fake in expected:  # Each fake video is as likely as the others.
      assert abs((fakes[reals == real] == fake).mean() - 1 / len(expected)) < 0.2
  fresh = pickle.loads(pickle.dumps(make_sampler('paired', forged, seed=1)))
  assert [fresh(i) for i in (77, 6, 1199)] == [records[i] for i in (77, 6, 1199)]
  assert [make_sampler('paired', forged, seed=2)(i) for i in range(50)] != records[:50]


def test_self_blending_doubles_the_reals_and_needs_no_fake(forged):
  for table in (forged, forged[:9]):
    sampler = make_sampler('paired', table, seed=1, self_blending=True)
    records = [sampler(i) for i in range(18)]
    assert records[0::2] == records[1::2]
    assert sorted(records[0::2]) == list(range(9))
  with pytest.raises(UserError, match='sampler is paired, not uniform'):
    make_sampler('uniform', forged, seed=1, self_blending=True)
  with pytest.raises(UserError, match='no real image'):
    make_sampler('paired', forged[9:], seed=1, self_blending=True)


def test_paired_without_sources_says_so(forged):
  with pytest.raises(UserError, match='no fake names the video of a real row'):
    make_sampler('paired', forged.assign(source_video_id=''), seed=0)
