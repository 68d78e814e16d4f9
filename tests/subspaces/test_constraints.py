"""Exact orthogonality against its definition, and against a float64 reference of three steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.subspaces import constraints
from tests.positions import Positions

COUNT, DIM, RANK, SEMANTIC = 3, 24, 2, 10


def orthonormal(seed=0):
  """Artifact bases [K, d, q] and a semantic one [d, r], all orthonormal."""
  rng = np.random.default_rng(seed)
  full = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
  bases = full[:, -COUNT * RANK :].reshape(DIM, COUNT, RANK).transpose(1, 0, 2)
  return rng, bases, full[:, :SEMANTIC]


def violation(basis, semantic):
  flat = np.asarray(basis, np.float64).transpose(1, 0, 2).reshape(DIM, -1)
  return max(np.abs(flat.T @ flat - np.eye(COUNT * RANK)).max(), np.abs(semantic.T @ flat).max())


def polar(matrix):
  u, _, vt = np.linalg.svd(matrix, full_matrices=False)
  return u @ vt


def retracted_by_definition(basis, semantic, on):
  """Float64: off the semantic subspace and what is held, then the nearest orthonormal columns."""
  fixed = np.concatenate([semantic, *(basis[k] for k in range(COUNT) if not on[k])], axis=1)
  free = np.concatenate([basis[k] for k in range(COUNT) if on[k]], axis=1)
  free = polar(free - fixed @ (fixed.T @ free))
  result, parts = np.array(basis), iter(np.split(free, free.shape[1] // RANK, axis=1))
  for k in range(COUNT):
    if on[k]:
      result[k] = next(parts)
  return result


@pytest.mark.parametrize('on', [(1, 1, 1), (1, 0, 1), (0, 1, 0)])
def test_a_retraction_is_the_nearest_basis_that_keeps_the_constraints(on):
  rng, bases, semantic = orthonormal()
  on = np.array(on, bool)
  moved = bases + 0.02 * rng.normal(size=bases.shape) * on[:, None, None]
  assert violation(moved, semantic) > 0.02
  actual = constraints.retract(
    jnp.asarray(moved, jnp.float32),
    off=jnp.asarray(semantic, jnp.float32),
    is_on=jnp.asarray(on),
    orthonormal=True,
  )
  assert violation(actual, semantic) <= 2e-6
  expected = retracted_by_definition(moved, semantic, on)
  # Newton's steps give way to what is held in another order than the definition: second order.
  np.testing.assert_allclose(actual, expected, atol=2e-6 if on.all() else 2e-3)
  held = np.asarray(jnp.asarray(moved, jnp.float32))[~on]
  np.testing.assert_array_equal(np.asarray(actual)[~on], held)


def test_projection_alone_leaves_lengths_and_two_parts_stay_in_their_span():
  rng, bases, semantic = orthonormal()
  moved = 1.5 * bases + 0.1 * rng.normal(size=bases.shape)
  everything = jnp.ones(COUNT, bool)
  off = jnp.asarray(semantic, jnp.float32)
  actual = constraints.retract(jnp.asarray(moved, jnp.float32), off=off, is_on=everything,
                               orthonormal=False)  # fmt: skip
  expected = moved - np.einsum('dr,er,keq->kdq', semantic, semantic, moved)
  np.testing.assert_allclose(actual, expected, atol=1e-6)
  span = bases.transpose(1, 0, 2).reshape(DIM, -1)
  actual = constraints.retract(jnp.asarray(moved, jnp.float32), onto=jnp.asarray(span, jnp.float32),
                               is_on=everything, orthonormal=False)  # fmt: skip
  np.testing.assert_allclose(actual, np.einsum('dm,em,keq->kdq', span, span, moved), atol=1e-6)


@pytest.mark.usefixtures('standard_promotion')
def test_three_steps_of_adam_equal_a_float64_reference():
  rng, bases, semantic = orthonormal()
  grads = rng.normal(size=(3, *bases.shape))
  optimizer = optax.adam(1e-2)
  basis = jnp.asarray(bases, jnp.float32)
  state = optimizer.init(basis)
  reference, mean, square = bases.copy(), 0.0, 0.0
  for i, grad in enumerate(grads, start=1):
    updates, state = optimizer.update(jnp.asarray(grad, jnp.float32), state)
    basis = constraints.retract(
      optax.apply_updates(basis, updates),
      off=jnp.asarray(semantic, jnp.float32), is_on=jnp.ones(COUNT, bool), orthonormal=True,
    )  # fmt: skip
    mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
    step = 1e-2 * (mean / (1 - 0.9**i)) / (np.sqrt(square / (1 - 0.999**i)) + 1e-8)
    reference = retracted_by_definition(reference - step, semantic, np.ones(COUNT, bool))
    assert violation(basis, semantic) <= 2e-6
  np.testing.assert_allclose(basis, reference, atol=2e-5)
  assert np.abs(reference - bases).max() > 1e-2


def resume(run, workdir):
  """Saves the run, and begins again from its checkpoint."""
  hashes = {'base_hash': 'a', 'manifest_hash': 'b', 'val_hash': 'c'}
  checkpoints = Checkpoints(workdir, config=run.config, **hashes)
  checkpoints.save(run.state, Positions({'next_step': 101}), Best(101, 0.5))
  checkpoints.close()
  checkpoints = Checkpoints(workdir, config=run.config, **hashes)
  run.start(run.trainable)
  run.state, positions, _ = checkpoints.restore(run.state, Positions())
  checkpoints.close()
  assert int(run.state.step) == 101 and positions.state == {'next_step': 101}


@pytest.mark.usefixtures('standard_promotion')
@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_constraints_hold_after_two_hundred_steps_under_a_mask(tiny_run, devices, dtype, tmp_path):
  """Through the whole training step: three parts, masks that change, a resume in between."""
  from masm_jax import tree
  from masm_jax.parallel import sharding

  fields = {
    'regularizer.mode': 'exact', 'subspace.semantic_rank': 8, 'mask.refresh_steps': 10,
    'mask.warmup_steps': 10, 'mask.kind': 'random', 'backbone.dtype': dtype,
    'optim.learning_rate': 1e-3,
  }  # fmt: skip
  run = tiny_run('masm', sharding.make_mesh(devices=jax.devices()[:devices]), **fields)
  masks = set()
  for i in range(200):
    run.step(i % 10)
    masks.add(np.asarray(run.state.mask.mask).tobytes())
    if i % 5 == 0:
      jax.block_until_ready(run.state.step)
    if i == 100:
      resume(run, tmp_path)
  assert len(masks) > 2
  now, start = tree.flatten(run.state.trainable), tree.flatten(run.reference)
  checked = 0
  for path in now:
    name = path.rpartition('/')[2]
    if name not in ('U', 'V'):
      continue
    flip = (lambda x: x) if name == 'U' else (lambda x: np.swapaxes(x, -1, -2))
    basis = flip(np.asarray(now[path], np.float64))
    flat = basis.transpose(1, 0, 2).reshape(basis.shape[1], -1)
    semantic = flip(np.asarray(start[f'{path}_sem'], np.float64))
    assert semantic.shape[1] == 8
    assert np.abs(flat.T @ flat - np.eye(flat.shape[1])).max() <= 1e-5, path
    assert np.abs(semantic.T @ flat).max() <= 1e-5, path
    begin = flip(np.asarray(start[path], np.float64))
    assert np.abs(basis - begin).max() > 1e-2, path  # It did move.
    checked += 1
  assert checked == 24
