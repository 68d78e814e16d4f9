"""LoRA's layer: start, dropout, precision, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.errors import UserError
from masm_jax.methods import lora
from masm_jax.training import objective as task

pytestmark = pytest.mark.usefixtures('standard_promotion')

SIZE, RANK = 256, 4


def make_leaves(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda scale, *shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
  return {
    'kernel': draw(1 / 16, SIZE, SIZE),
    'bias': draw(1.0, SIZE),
    'lora_a': draw(1 / 16, SIZE, RANK),
    'lora_b': draw(1 / 16, RANK, SIZE),
  }


def test_the_update_begins_at_zero_from_a_seeded_uniform_a(tiny_run):
  run = tiny_run('lora', **{'lora.rank': 5})
  method, params = run.method, run.params
  leaves = tree.flatten(run.trainable)
  a = np.concatenate([np.ravel(x) for path, x in leaves.items() if path.endswith('lora_a')])
  bound = 1 / np.sqrt(24)
  assert np.abs(a).max() <= bound and np.abs(a.mean()) < 0.05 * bound
  np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.05)
  assert not any(np.any(x) for path, x in leaves.items() if path.endswith('lora_b'))
  again, other = (tree.flatten(method.init(params, jax.random.key(i))[0]) for i in (0, 1))
  path = 'backbone/block_01/attn/v/lora_a'
  np.testing.assert_array_equal(again[path], leaves[path])
  assert not np.array_equal(other[path], leaves[path])
  assert not np.array_equal(leaves[path], leaves[path.replace('/v/', '/q/')])


def test_dropout_hides_a_share_of_the_input_from_the_update_alone():
  leaves = jax.tree.map(np.asarray, make_leaves())
  x = np.random.default_rng(1).normal(size=(4, 8, SIZE)).astype(np.float32)

  def apply(key=None, inputs=x, alpha=8.0, **changed):
    layer = lora.LoraDense(features=SIZE, alpha=alpha, dropout=0.25)
    rngs = None if key is None else {'dropout': jax.random.key(key)}
    return np.asarray(layer.apply({'params': leaves | changed}, inputs, rngs=rngs))

  plain = x @ leaves['kernel'] + leaves['bias']
  update = 2.0 * (x @ leaves['lora_a']) @ leaves['lora_b']
  np.testing.assert_allclose(apply(), plain + update, rtol=1e-4, atol=1e-4)  # No key: no dropout.
  np.testing.assert_array_equal(apply(0), apply(0))
  assert not np.array_equal(apply(0), apply(1))
  without = apply(0, lora_b=np.zeros_like(leaves['lora_b']))
  np.testing.assert_allclose(without, plain, rtol=1e-4, atol=1e-4)
  mean = np.mean([apply(key) - without for key in range(100)], axis=0)
  assert np.linalg.norm(mean - update) < 0.1 * np.linalg.norm(update)
  # The share itself, read off an update that copies its input.
  eye, zeros = np.eye(SIZE, dtype=np.float32), np.zeros_like(leaves['kernel'])
  copy = apply(2, np.ones_like(x), SIZE, lora_a=eye, lora_b=eye, kernel=zeros, bias=zeros[0])
  values, counts = np.unique(np.round(copy, 3), return_counts=True)
  np.testing.assert_allclose(values, [0.0, 1.333], atol=1e-3)
  np.testing.assert_allclose(counts / counts.sum(), [0.25, 0.75], atol=0.02)


def test_dropout_is_a_function_of_seed_and_step(tiny_run):
  run = tiny_run('lora', **{'lora.dropout': 0.5})
  trainable = jax.tree.map(lambda leaf: leaf + 0.1, run.trainable)
  params, batch = tree.combine(trainable, run.frozen), run.batch()

  def loss(step, seed=0):
    config = run.make_config('lora', **{'lora.dropout': 0.5, 'seed': seed})
    fn = jax.jit(task.make_task_loss(run.detector_config, config, run.method.dense_cls))
    return float(fn(params, batch, jnp.int32(step))[0])

  assert loss(1) == loss(1)
  assert len({loss(1), loss(2), loss(1, seed=1)}) == 3


def test_bfloat16_errs_no_more_than_a_plain_dense_layer():
  leaves = make_leaves()
  x = jnp.asarray(np.random.default_rng(1).normal(size=(512, SIZE)), jnp.float32)
  kernel = np.asarray(leaves['kernel'], np.float64)
  kernel = kernel + 0.02 * np.asarray(leaves['lora_a'], np.float64) @ np.asarray(leaves['lora_b'])
  exact = np.asarray(x, np.float64) @ kernel + np.asarray(leaves['bias'])
  error = lambda y: np.linalg.norm(np.asarray(y, np.float64) - exact)
  merged = {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': leaves['bias']}
  plain = layers.Dense(features=SIZE, dtype=jnp.bfloat16).apply({'params': merged}, x)
  layer = lora.LoraDense(features=SIZE, dtype=jnp.bfloat16, alpha=0.02 * RANK)
  assert error(layer.apply({'params': leaves}, x)) <= 1.02 * error(plain)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'lora.rank': 25}, r'lora.rank = 25 is more than backbone/block_00/attn/k \[24, 24\]'),
    ({'lora.targets': 'backbone/block_09/.*'}, "lora.targets: 'backbone/block_09/.*' matches no"),
    ({'lora.targets': 'head'}, "lora.targets: 'head' matches head, but only layers of the backb"),
  ],
)
def test_bad_targets_and_ranks_are_named(fields, message, tiny_run):
  with pytest.raises(UserError, match=message):
    tiny_run('lora', **fields)


def test_targets_choose_the_layers(tiny_run):
  run = tiny_run('lora', **{'lora.targets': 'mlp'})
  adapted = {path.rpartition('/')[0] for path in tree.flatten(run.trainable) if 'lora' in path}
  assert adapted == {f'backbone/block_0{i}/mlp/{name}' for i in (0, 1) for name in ('fc1', 'fc2')}
