"""Leaves of one shape side by side: the same values, groups and steps as with each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import tree
from masm_jax.masking.groups import layer_groups, subspace_groups

RNG = np.random.default_rng(0)
FACTORS = {
  f'backbone/block_{block:02d}/attn/{name}/{leaf}': shape
  for block in range(3)
  for name in ('q', 'v')
  for leaf, shape in (('U', (2, 6, 3)), ('S', (2, 3)), ('V', (2, 3, 6)))
}
PLAIN = {'backbone/cls_token': (1, 1, 6), 'backbone/ln_post/scale': (6,)} | {
  f'backbone/block_{block:02d}/ln_1/{leaf}': (6,)
  for block in range(3)
  for leaf in ('scale', 'bias')
}
HEAD = {'head/kernel': (6, 2), 'head/bias': (2,)}


def leaves_of(shapes):
  return tree.unflatten(
    {path: RNG.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
  )


def stacks_for(params, groups):
  return tree.stacks_of(params, lambda path: (path in groups.rows, path.startswith(tree.HEAD)))


def test_leaves_of_one_name_shape_and_kind_lie_side_by_side(monkeypatch):
  params = leaves_of(FACTORS | HEAD | {'head/scale': (6,)} | PLAIN)
  stacks = tree.stacks_of(params, lambda path: path.startswith(tree.HEAD))
  stacked = tree.flatten(stacks.stack(params))
  first = 'backbone/block_00/attn/q/U'
  assert stacked[first].shape == (6, 2, 6, 3)
  for i, path in enumerate(stacks.paths[first]):
    np.testing.assert_array_equal(stacked[first][i], tree.flatten(params)[path])
  assert len(stacks.paths['head/scale']) == 1 and stacked['head/scale'].shape == (6,)
  assert set(stacks.paths['backbone/block_00/ln_1/scale']) == {
    path for path in PLAIN if path.endswith('/scale')
  }
  jax.tree.map(np.testing.assert_array_equal, stacks.unstack(stacks.stack(params)), params)
  backwards = tree.unflatten(dict(reversed(tree.flatten(params).items())))
  assert tree.stacks_of(backwards, lambda path: path.startswith(tree.HEAD)) == stacks
  monkeypatch.setattr(tree, '_MAX_STACKED', 17)  # U and V have 36 elements, S has six.
  names = tree.stacks_of(params, lambda path: '').paths
  assert len(names[first]) == 1 and len(names['backbone/block_00/attn/q/S']) == 6


@pytest.mark.parametrize('kind', ['kernel_subspace', 'block_subspace', 'block', 'layers'])
def test_groups_of_stacks_are_those_of_their_leaves(kind):
  params = leaves_of((PLAIN if kind == 'layers' else FACTORS) | HEAD)
  paths = [path for path in tree.flatten(params) if not path.startswith(tree.HEAD)]
  groups = layer_groups(paths, 'block') if kind == 'layers' else subspace_groups(paths, 2, kind)
  stacks = stacks_for(params, groups)
  in_stacks, stacked = groups.stacked(stacks), stacks.stack(params)
  assert len(tree.flatten(stacked)) < len(tree.flatten(params))

  np.testing.assert_allclose(in_stacks.reduce(stacked), groups.reduce(params), rtol=1e-5)
  np.testing.assert_array_equal(in_stacks.sizes(stacked), groups.sizes(params))
  selected = stacks.unstack(in_stacks.select(stacked))
  jax.tree.map(np.testing.assert_array_equal, selected, groups.select(params))
  values = jnp.asarray(RNG.standard_normal(groups.shape), jnp.float32)
  for of, found in (
    (groups.expand(values > 0, params), in_stacks.expand(values > 0, stacked)),
    (groups.spread(values, params), in_stacks.spread(values, stacked)),
  ):
    whole = jax.tree.map(lambda x, leaf: np.broadcast_to(x, leaf.shape), of, params)
    apart = jax.tree.map(lambda x, leaf: np.broadcast_to(x, leaf.shape), found, stacked)
    jax.tree.map(np.testing.assert_array_equal, stacks.unstack(apart), whole)


def test_a_group_that_is_not_finite_leaves_the_others_as_they_are():
  params = leaves_of(FACTORS)
  groups = subspace_groups(tree.flatten(params), 2, 'block_subspace')
  params['backbone']['block_01']['attn']['q']['U'][0] = np.nan
  stacks = stacks_for(params, groups)
  broken = np.isnan(groups.stacked(stacks).reduce(stacks.stack(params)))
  np.testing.assert_array_equal(broken, [[0, 0], [1, 0], [0, 0]])


@pytest.mark.parametrize(
  ('method', 'fields'),
  [
    (
      'masm',
      {
        'mask.kind': 'dynamic',
        'mask.score': 'gsnr',
        'mask.warmup_steps': 2,
        'mask.refresh_steps': 2,
      },
    ),
    ('bvg_ls', {'mask.refresh_steps': 1}),
  ],
)
@pytest.mark.usefixtures('standard_promotion')
def test_training_is_as_with_each_leaf_by_itself(tiny_run, monkeypatch, method, fields):
  # A large eps: where a gradient is 0 but for roundings (a key's bias), Adam would walk by them.
  fields = fields | {
    'optim.eps': 1e-3,
    'optim.name': 'adamw',
    'optim.weight_decay': 0.1,
    'optim.clip_norm': 1.0,
  }
  run = tiny_run(method, **fields)
  monkeypatch.setattr(tree, '_MAX_STACKED', 0)
  single = tiny_run(method, **fields)
  assert len(single.program.stacks.paths) > 2 * len(run.program.stacks.paths)
  for i in range(5):
    run.step(i)
    single.step(i)
  for found, expected in (
    (run.state.trainable, single.state.trainable),
    (run.state.mask.mask, single.state.mask.mask),
    (run.state.mask.scores, single.state.mask.scores),
    (run.program.stacks.unstack(run.state.grad_stats.square[0]), single.state.grad_stats.square[0]),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )
