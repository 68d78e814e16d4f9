"""Which groups a mask keeps, and when it is drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.masking import grad_stats, layer_mask
from masm_jax.masking.groups import Groups

SCORES = jnp.array([[1.0, 9.0], [5.0, 2.0], [3.0, 2.0], [4.0, 8.0]])


def test_per_subspace_keeps_the_top_share_of_each_column():
  mask = layer_mask.select_top(SCORES, keep=0.5, select='per_subspace')
  np.testing.assert_array_equal(mask, [[0, 1], [1, 0], [0, 0], [1, 1]])


def test_per_layer_keeps_the_top_share_of_each_row():
  mask = layer_mask.select_top(SCORES, keep=0.5, select='per_layer')
  np.testing.assert_array_equal(mask, [[0, 1], [1, 0], [1, 0], [0, 1]])


def test_global_ranks_all_groups_together():
  mask = layer_mask.select_top(SCORES, keep=0.375, select='global')
  np.testing.assert_array_equal(mask, [[0, 1], [1, 0], [0, 0], [0, 1]])


def test_ties_go_to_the_lower_index_and_one_always_stays():
  mask = layer_mask.select_top(jnp.ones((4, 2)), keep=0.5, select='per_subspace')
  np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [0, 0], [0, 0]])
  mask = layer_mask.select_top(SCORES, keep=0.01, select='per_subspace')
  np.testing.assert_array_equal(mask.sum(axis=0), [1, 1])


def test_a_count_stands_in_for_the_share():
  mask = layer_mask.select_top(SCORES, keep=0.5, select='global', keep_count=1)
  np.testing.assert_array_equal(mask, [[0, 1], [0, 0], [0, 0], [0, 0]])
  mask = layer_mask.select_top(SCORES, keep=0.5, select='per_layer', keep_count=9)
  assert bool(mask.all())


@pytest.mark.parametrize(
  ('kind', 'expected'),
  [
    ('oneshot', [1, 0, 0, 1]),
    ('dynamic', [1, 0, 0, 1]),
    ('inverse', [0, 1, 1, 0]),
    ('all', [1, 1, 1, 1]),
    ('none', [1, 1, 1, 1]),
  ],
)
def test_what_each_kind_makes_of_scores(kind, expected):
  scores = jnp.array([[5.0], [1.0], [2.0], [3.0]])
  config = layer_mask.MaskConfig(kind=kind, granularity='block')
  mask = layer_mask.draw(scores, config=config, seed=0, step=0)
  np.testing.assert_array_equal(mask[:, 0], expected)


@pytest.mark.parametrize(
  ('keep', 'num_layers', 'expected'),
  [(0.5, 5, 3), (0.1, 10, 1), (0.3, 10, 3), (1.0, 7, 7), (2 / 3, 3, 2)],
)
def test_the_share_is_rounded_up_exactly(keep, num_layers, expected):
  mask = layer_mask.select_top(
    jnp.arange(float(num_layers))[:, None], keep=keep, select='per_subspace'
  )
  assert int(mask.sum()) == expected


def test_refresh_steps():
  config = layer_mask.MaskConfig(warmup_steps=5, refresh_steps=3)
  drawn = [step for step in range(1, 16) if layer_mask.is_refresh(step, config)]
  assert drawn == [5, 8, 11, 14]


GROUPS = Groups({'block_00/U': 0, 'block_01/U': 1}, ('block_00', 'block_01'), 2)


def run(kind, num_steps, seed=0, **fields):
  """The masks after each of `num_steps` steps of fixed gradients, under one jit."""
  fields = {'score': 'bvr', 'decay': 0.9, 'hysteresis': 0.0} | fields
  config = layer_mask.MaskConfig(kind=kind, warmup_steps=2, refresh_steps=2, **fields)
  rng = np.random.default_rng(0)
  params = {
    name: {'U': jnp.asarray(rng.normal(size=(2, 3, 1)), jnp.float32)}
    for name in ('block_00', 'block_01')
  }
  # Group (0, 0) and (1, 1) have a steady gradient, the others a noisy one.
  steady = {'block_00': {'U': jnp.array([1.0, 0.0])}, 'block_01': {'U': jnp.array([0.0, 1.0])}}
  traces = []

  @jax.jit
  def step_fn(mask, stats, grads, step):
    traces.append(1)
    stats = grad_stats.update_stats(stats, grads, config.decay)
    score = layer_mask.score_of(stats, GROUPS, params, config)
    mask = layer_mask.refresh(mask, score=score, step=step, seed=seed, config=config)
    return mask, stats

  mask, stats = layer_mask.init_mask(GROUPS), grad_stats.init_stats(params)
  masks = []
  for step in range(1, num_steps + 1):
    grads = jax.tree.map(
      lambda s: (
        jnp.asarray(s[:, None, None] + rng.normal(size=(2, 3, 1)), jnp.float32)
        * jnp.where(s[:, None, None] > 0, 0.1, 1.0)
        + s[:, None, None]
      ),
      steady,
    )
    mask, stats = step_fn(mask, stats, grads, jnp.asarray(step, jnp.int32))
    masks.append(np.asarray(mask.mask))
  assert len(traces) == 1  # A new mask compiles nothing.
  return masks, mask


def test_dynamic_keeps_the_steady_groups_and_inverse_the_noisy_ones():
  masks, last = run('dynamic', 12)
  assert masks[0].all()  # Warm-up: everything is on.
  np.testing.assert_array_equal(last.steps_on, np.sum(masks, axis=0))
  np.testing.assert_array_equal(masks[-1], [[1, 0], [0, 1]])
  assert last.scores[0, 0] > last.scores[1, 0] and last.scores[1, 1] > last.scores[0, 1]
  masks, _ = run('inverse', 12)
  np.testing.assert_array_equal(masks[-1], [[0, 1], [1, 0]])


def test_a_share_of_the_score_is_kept_by_the_fewest_groups():
  keep = lambda share, **kw: layer_mask.select_top(
    SCORES, keep=share, select='per_subspace', keep_by='score', **kw
  )
  # Columns 1 5 3 4 and 9 2 2 8: 5 + 4 + 3 is 12 of 13, 9 + 8 is 17 of 21.
  np.testing.assert_array_equal(keep(12 / 13), [[0, 1], [1, 1], [1, 1], [1, 1]])
  np.testing.assert_array_equal(keep(0.8), [[0, 1], [1, 0], [1, 0], [1, 1]])
  np.testing.assert_array_equal(keep(0.01), [[0, 1], [1, 0], [0, 0], [0, 0]])
  assert bool(keep(1.0).all())
  np.testing.assert_array_equal(keep(0.9, keep_count=1), keep(0.01))
  negative = layer_mask.select_top(
    jnp.array([[-1.0], [2.0], [-3.0]]), keep=1.0, select='global', keep_by='score'
  )
  np.testing.assert_array_equal(negative[:, 0], [0, 1, 0])


def test_masks_close_slowly_after_the_warm_up():
  config = layer_mask.MaskConfig(keep=0.5, warmup_steps=10, close_steps=40, refresh_steps=10)
  shares = [float(layer_mask.keep_at(step, config)) for step in (10, 20, 30, 50, 90)]
  np.testing.assert_allclose(shares, [1.0, 0.875, 0.75, 0.5, 0.5])
  at_once = layer_mask.MaskConfig(keep=0.5, warmup_steps=10, close_steps=0)
  assert float(layer_mask.keep_at(10, at_once)) == 0.5


def churn(**fields):
  """How many groups each new mask switches, where scores are nearly equal."""
  masks, _ = run('dynamic', 60, score='grad_norm', decay=0.5, **fields)
  return sum(int((a != b).sum()) for a, b in itertools.pairwise(masks[2:]))


def test_hysteresis_keeps_what_is_on_until_another_group_is_better_by_a_margin():
  assert churn(hysteresis=0.0) > 2 * churn(hysteresis=0.5)


_update = jax.jit(lambda stats, grads: grad_stats.update_stats(stats, grads, 0.97))


def stats_of(draw, num_steps):
  """Statistics of gradients of 6 layers with 2 subspaces, 40 elements each."""
  groups = Groups(
    {f'block_{i:02d}/U': i for i in range(6)}, tuple(f'block_{i:02d}' for i in range(6)), 2
  )
  params = {f'block_{i:02d}': {'U': jnp.ones((2, 40))} for i in range(6)}
  stats = grad_stats.init_stats(params)
  for _ in range(num_steps):
    stats = _update(stats, draw())
  return stats, groups, params


def agreements(score, scale):
  """Agreement of the halves in ten trials of 60 noisy gradients."""
  rng, found = np.random.default_rng(0), []
  config = layer_mask.MaskConfig(score=score, keep=0.5)
  for _ in range(10):
    draw = lambda: {
      f'block_{i:02d}': {'U': jnp.asarray(scale(i) * rng.normal(size=(2, 40)), jnp.float32)}
      for i in range(6)
    }
    score = layer_mask.score_of(*stats_of(draw, 60), config)
    found.append(float(layer_mask.agreement(score, config)))
  return np.mean(found)


def test_two_halves_agree_on_a_signal_and_by_chance_on_noise():
  """Gradients without a mean: their norm tells layers apart, their bias-variance ratio cannot."""
  depth = lambda i: 1.0 + 0.3 * i
  beyond = lambda score: layer_mask.beyond_chance(agreements(score, depth), 0.5)
  assert beyond('grad_norm') >= layer_mask.SIGNAL and abs(beyond('bvr')) < 0.3
  assert layer_mask.MaskConfig().score == 'grad_norm'  # The default is one that is a signal.


def test_random_masks_are_a_function_of_seed_and_step_and_all_keeps_everything():
  first, _ = run('random', 16, seed=1)
  again, _ = run('random', 16, seed=1)
  other, _ = run('random', 16, seed=2)
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  assert len({mask.tobytes() for mask in first[1:]}) > 1
  assert all(mask.sum() == 2 for mask in first[1:])
  masks, last = run('all', 8)
  assert np.all(masks) and float(last.scores.min()) > 0


def test_masks_that_came_by_chance_or_never_are_told():
  config = layer_mask.MaskConfig(kind='dynamic', score='bvr', warmup_steps=30)
  assert 'ended before its first layer mask (mask.warmup_steps = 30)' in layer_mask.find_doubt(
    config, [], []
  )
  doubt = layer_mask.find_doubt(config, [0.5, 0.7], [0.5, 0.5])
  assert 'mask.score = bvr is noise here: two halves of the batches agree on 0.60' in doubt
  assert 'where 0.50 is chance' in doubt
  assert not layer_mask.find_doubt(config, [0.75, 0.95], [0.5, 0.5])
  for kind in ('all', 'oneshot', 'random'):
    assert not layer_mask.find_doubt(layer_mask.MaskConfig(kind=kind), [], [])


@pytest.mark.parametrize('kept', [1, 6, 11, 12])
def test_what_masks_share_by_chance_is_no_agreement(kept):
  """However many groups stay on, masks of noise are told, and masks of a signal are not."""
  rng = np.random.default_rng(0)
  config = layer_mask.MaskConfig(kind='dynamic', keep_by='share', keep=kept / 12)
  draw = lambda scores: layer_mask.draw(jnp.asarray(scores), config=config, seed=0, step=0)
  noise = [rng.normal(size=(2, 12, 4)) for _ in range(20)]
  agreed = [float(np.mean(draw(a) == draw(b))) for a, b in noise]
  share = [kept / 12] * len(agreed)
  assert bool(layer_mask.find_doubt(config, agreed, share)) == (kept < 12)
  assert np.mean(agreed) == pytest.approx(layer_mask.by_chance(kept / 12), abs=0.05)
  assert not layer_mask.find_doubt(config, [1.0] * len(agreed), share)
