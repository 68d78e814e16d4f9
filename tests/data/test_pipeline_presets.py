"""Augmentation presets and self-blending within the pipeline."""

import numpy as np
import pytest

from masm_jax.data.samplers import make_sampler
from masm_jax.errors import UserError

SIZE = 16


@pytest.mark.parametrize('augment', ['deepfakebench', 'effort', 'sbi'])
def test_presets_do_not_depend_on_threads_hosts_or_where_a_run_resumes(
  crops, augment, iterate, assert_same_batches
):
  options = {'augment': augment, 'num_steps': 4}
  sampler = make_sampler('paired', crops.table, 1, self_blending=True) if augment == 'sbi' else None
  options |= {'sampler': sampler} if sampler else {}
  expected = list(iterate(crops, num_threads=0, **options))
  assert_same_batches(list(iterate(crops, num_threads=5, **options)), expected)
  parts = [list(iterate(crops, process_index=p, process_count=2, **options)) for p in (0, 1)]
  for t, batch in enumerate(expected):
    joined = np.concatenate([part[t]['image'] for part in parts])
    np.testing.assert_array_equal(joined, batch['image'])
    again = iterate(crops, **options)
    again.set_state({'next_step': t, 'undecodable': []})
    assert_same_batches([next(again)], [batch])


def test_self_blending_makes_pairs_of_real_records(crops, iterate):
  sampler = make_sampler('paired', crops.table, 1, self_blending=True)
  batches = list(iterate(crops, augment='sbi', sampler=sampler, image_size=20))
  seen = set()
  for batch in batches:
    assert batch['label'].tolist() == [0, 1] * 4
    assert batch['record'][0::2].tolist() == batch['record'][1::2].tolist()
    assert not batch['replaced'].any()
    assert (batch['image'][0::2] != batch['image'][1::2]).any((1, 2, 3)).all()
    seen |= set(batch['record'].tolist())
  assert seen == set(range(10))  # The real ones, and none of the 13 fakes.


def test_landmarks_shape_the_self_blended_face(crops, iterate):
  sampler = make_sampler('paired', crops.table, 1, self_blending=True)
  options = {'augment': 'sbi', 'sampler': sampler, 'num_steps': 3, 'image_size': 20}
  ring = ';'.join(f'{10 + 3 * np.cos(a):.2f},{10 + 3 * np.sin(a):.2f}' for a in range(24))
  with_landmarks = type(crops)(crops.table.assign(landmarks=ring), crops.root, crops.sha256)
  a, b = list(iterate(crops, **options)), list(iterate(with_landmarks, **options))
  for one, other in zip(a, b, strict=True):
    np.testing.assert_array_equal(one['image'][0::2], other['image'][0::2])
    assert (one['image'][1::2] != other['image'][1::2]).any()
  broken = type(crops)(crops.table.assign(landmarks='1;2'), crops.root, crops.sha256)
  with pytest.raises(UserError, match=r'\d\d.png: landmarks are written x,y;x,y'):
    next(iterate(broken, **options))
