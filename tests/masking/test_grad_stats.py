"""Streaming statistics against a float64 replay of every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.masking import grad_stats
from masm_jax.masking.groups import Groups, layer_groups, subspace_groups

GROUPS = Groups(
  {'block_00/q/U': 0, 'block_00/q/S': 0, 'block_01/q/U': 1}, ('block_00', 'block_01'), 2
)
SHAPES = {'block_00': {'q': {'U': (2, 5, 3), 'S': (2, 3)}}, 'block_01': {'q': {'U': (2, 4, 3)}}}
DECAY = 0.9


def random_tree(rng, offset=0.3):
  draw = lambda shape: rng.normal(size=shape) + offset
  return {
    'block_00': {'q': {name: draw(shape) for name, shape in SHAPES['block_00']['q'].items()}},
    'block_01': {'q': {'U': draw(SHAPES['block_01']['q']['U'])}},
  }


def to_float32(tree):
  return {
    k: to_float32(v) if isinstance(v, dict) else jnp.asarray(v, jnp.float32)
    for k, v in tree.items()
  }


def flat_group(tree, row, k):
  leaves = (
    [tree['block_00']['q']['U'], tree['block_00']['q']['S']]
    if row == 0
    else [tree['block_01']['q']['U']]
  )
  return np.concatenate([leaf[k].ravel() for leaf in leaves])


@pytest.mark.parametrize('kind', ['bvr', 'gsnr', 'grad_norm', 'rgn'])
@pytest.mark.parametrize('num_steps', [2, 17])
def test_scores_equal_a_float64_replay(kind, num_steps):
  rng = np.random.default_rng(1)
  params = random_tree(rng)
  history = [random_tree(rng) for _ in range(num_steps)]
  stats = grad_stats.init_stats(to_float32(params))
  for grads in history:
    stats = grad_stats.update_stats(stats, to_float32(grads), DECAY)
  scores = grad_stats.group_scores(stats, GROUPS, to_float32(params), kind=kind, eps=1e-12)
  assert int(stats.count) == num_steps

  weights = (1 - DECAY) * DECAY ** np.arange(num_steps)[::-1] / (1 - DECAY**num_steps)
  for row in range(2):
    for k in range(2):
      grads = np.stack([flat_group(g, row, k) for g in history])
      mean, square = weights @ grads, weights @ grads**2
      expected = {
        'bvr': np.sum(mean**2) / np.sum(square - mean**2),
        'gsnr': gsnr(mean, square),
        'grad_norm': np.sqrt(np.sum(square)),
        'rgn': np.sqrt(np.sum(square)) / np.linalg.norm(flat_group(params, row, k)),
      }[kind]
      np.testing.assert_allclose(scores[row, k], expected, rtol=5e-3 if kind == 'gsnr' else 2e-5)


def test_the_first_gradient_has_no_variance_and_the_floor_holds():
  params = to_float32(random_tree(np.random.default_rng(0)))
  stats = grad_stats.update_stats(grad_stats.init_stats(params), params, DECAY)
  scores = grad_stats.group_scores(stats, GROUPS, params, kind='bvr', eps=0.1)
  np.testing.assert_allclose(scores, 10.0, rtol=1e-5)


def gsnr(mean, square):
  """Float64, with the floor of a thousandth of the mean variance."""
  variance = square - mean**2
  return np.mean(mean**2 / np.maximum(variance, 1e-3 * variance.mean()))


def stats_of(history, decay=DECAY):
  stats = grad_stats.init_stats(to_float32(history[0]))
  for grads in history:
    stats = grad_stats.update_stats(stats, to_float32(grads), decay)
  return stats


@pytest.mark.parametrize('kind', ['bvr', 'bvr_unbiased', 'gsnr', 'grad_norm', 'rgn'])
def test_a_scores_ranking_does_not_depend_on_the_scale_of_gradients(kind):
  """Real ones are near 1e-7: an absolute least variance would decide the ranking there."""
  rng = np.random.default_rng(5)
  history = [random_tree(rng) for _ in range(6)]
  small = [jax.tree.map(lambda g: 1e-7 * g, grads) for grads in history]
  scores = [
    grad_stats.group_scores(stats_of(h), GROUPS, to_float32(history[0]), kind=kind, eps=1e-6)
    for h in (history, small)
  ]
  factor = 1e-7 if kind in ('grad_norm', 'rgn') else 1.0
  np.testing.assert_allclose(scores[1], factor * np.asarray(scores[0]), rtol=1e-3)


@pytest.mark.parametrize('decay', [DECAY, None])
def test_halves_are_averages_of_every_other_gradient(decay):
  rng = np.random.default_rng(6)
  history = [random_tree(rng) for _ in range(7)]
  stats = stats_of(history, decay)
  weights = np.ones(7) if decay is None else decay ** np.arange(7)[::-1]
  for half in range(2):
    mean, square = grad_stats.averages(stats, half)
    for row, k in ((0, 0), (0, 1), (1, 0)):
      grads = np.stack([flat_group(g, row, k) for g in history[half::2]])
      share = weights[half::2] / weights[half::2].sum()
      np.testing.assert_allclose(flat_group(mean, row, k), share @ grads, rtol=2e-4, atol=1e-6)
      np.testing.assert_allclose(flat_group(square, row, k), share @ grads**2, rtol=1e-4)


def test_the_unbiased_ratio_is_that_of_the_two_halves():
  rng = np.random.default_rng(7)
  history = [random_tree(rng) for _ in range(8)]
  scores = grad_stats.group_scores(
    stats_of(history, None), GROUPS, to_float32(history[0]), kind='bvr_unbiased', eps=1e-6
  )
  grads = np.stack([flat_group(g, 1, 1) for g in history])
  bias = np.sum(grads[::2].mean(axis=0) * grads[1::2].mean(axis=0))
  np.testing.assert_allclose(scores[1, 1], bias / (np.sum(np.mean(grads**2, axis=0)) - bias),
                             rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize('decay', [DECAY, None])
def test_pure_noise_scores_the_floor_and_nothing_where_the_score_is_unbiased(decay):
  rng = np.random.default_rng(8)
  groups = Groups({'block_00/U': 0}, ('block_00',), 1)
  stats = grad_stats.init_stats({'block_00': {'U': jnp.zeros(20_000)}})
  for _ in range(60):
    noise = {'block_00': {'U': jnp.asarray(rng.normal(size=20_000), jnp.float32)}}
    stats = grad_stats.update_stats(stats, noise, decay)
  score = lambda kind: float(
    grad_stats.group_scores(stats, groups, noise, kind=kind, eps=1e-6)[0, 0]
  )
  floor = grad_stats.noise_floor('bvr', decay=decay, count=60)
  assert floor == pytest.approx(1 / 18 if decay else 1 / 59, rel=0.01)
  assert score('bvr') == pytest.approx(floor, rel=0.03)
  assert score('gsnr') == pytest.approx(floor, rel=0.12)  # Of a ratio.
  assert abs(score('bvr_unbiased')) < 0.1 * floor
  assert grad_stats.noise_floor('bvr_unbiased', decay=decay, count=60) == 0.0
  assert np.isnan(grad_stats.noise_floor('grad_norm', decay=decay, count=60))


PATHS = (
  'backbone/block_01/attn/q/U',
  'backbone/block_00/mlp/fc1/S',
  'backbone/block_01/mlp/fc2/V',
)


@pytest.mark.parametrize(
  ('granularity', 'names', 'columns', 'rows'),
  [
    ('block_subspace', ('block_00', 'block_01'), 3, (1, 0, 1)),
    ('block', ('block_00', 'block_01'), 1, (1, 0, 1)),
    (
      'kernel_subspace',
      ('block_00/mlp/fc1', 'block_01/attn/q', 'block_01/mlp/fc2'),
      3,
      (1, 0, 2),
    ),
  ],
)
def test_what_is_a_group_of_artifact_factors(granularity, names, columns, rows):
  groups = subspace_groups(PATHS, 3, granularity)
  assert groups.names == names
  assert groups.shape == (len(names), columns)
  assert dict(groups.rows) == dict(zip(PATHS, rows, strict=True))
  with pytest.raises(ValueError, match='lies in no block'):
    subspace_groups(['head/kernel'], 3, granularity)


def test_plain_leaves_are_grouped_by_layer():
  owner = {
    'backbone/cls_token': 'embeddings',
    'backbone/ln_pre/scale': 'embeddings',
    'backbone/patch_embed/kernel': 'embeddings',
    'backbone/block_00/ln_1/bias': 'block_00',
    'backbone/block_01/attn/q/kernel': 'block_01',
    'backbone/ln_post/scale': 'block_01',
  }
  groups = layer_groups(owner, 'block')
  assert groups.names == ('embeddings', 'block_00', 'block_01') and groups.shape == (3, 1)
  assert {path: groups.names[row] for path, row in groups.rows.items()} == owner
  groups = layer_groups(owner, 'kernel_subspace')
  assert groups.names == (
    'embeddings',
    'block_00/ln_1',
    'block_01/attn/q',
    'ln_post',
  )


def test_a_group_of_one_column_is_the_whole_leaf():
  params = to_float32(random_tree(np.random.default_rng(3)))
  groups = Groups(GROUPS.rows, GROUPS.names, 1)
  columns = GROUPS.reduce(params)
  np.testing.assert_allclose(groups.reduce(params), columns.sum(axis=1, keepdims=True), rtol=1e-5)
  np.testing.assert_array_equal(groups.sizes(params), [[36], [24]])
  expanded = groups.expand(jnp.array([[True], [False]]), params)
  assert expanded['block_00']['q']['U'].shape == (1, 1, 1)
  assert bool(expanded['block_00']['q']['S'].all()) and not expanded['block_01']['q']['U'].any()


@pytest.mark.parametrize('kind', ['bvr', 'gsnr', 'grad_norm', 'rgn'])
def test_plain_averages_equal_a_float64_replay(kind):
  """As a probe takes them: all gradients count alike, and nothing needs a correction."""
  rng = np.random.default_rng(4)
  params, history = random_tree(rng), [random_tree(rng) for _ in range(5)]
  stats = grad_stats.init_stats(to_float32(params))
  for grads in history:
    stats = grad_stats.update_stats(stats, to_float32(grads), None)
  scores = grad_stats.group_scores(stats, GROUPS, to_float32(params), kind=kind, eps=1e-12)
  for row in range(2):
    for k in range(2):
      grads = np.stack([flat_group(g, row, k) for g in history])
      norm = np.sqrt(np.sum(np.mean(grads**2, axis=0)))
      expected = {
        'bvr': np.sum(grads.mean(axis=0) ** 2) / np.sum(grads.var(axis=0)),
        'gsnr': gsnr(grads.mean(axis=0), np.mean(grads**2, axis=0)),
        'grad_norm': norm,
        'rgn': norm / np.linalg.norm(flat_group(params, row, k)),
      }[kind]
      np.testing.assert_allclose(scores[row, k], expected, rtol=5e-3 if kind == 'gsnr' else 2e-5)


def test_expand_and_reduce():
  params = to_float32(random_tree(np.random.default_rng(2))) | {
    'head': {'kernel': jnp.ones((4, 2))}
  }
  mask = jnp.array([[True, False], [False, True]])
  expanded = GROUPS.expand(mask, params)
  assert expanded['head']['kernel'].all() and expanded['head']['kernel'].ndim == 2
  np.testing.assert_array_equal(expanded['block_00']['q']['U'].ravel(), [True, False])
  np.testing.assert_array_equal(expanded['block_01']['q']['U'].ravel(), [False, True])
  assert expanded['block_00']['q']['U'].shape == (2, 1, 1)
  np.testing.assert_array_equal(GROUPS.sizes(params), [[18, 18], [12, 12]])
  assert 'head' not in GROUPS.select(params)
