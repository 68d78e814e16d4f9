"""Masked groups stand still bit for bit; the chain equals torch's Adam."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import torch

from masm_jax.masking.groups import Groups
from masm_jax.training import optim

# optax raises a float to an integer power, which strict promotion refuses.
pytestmark = pytest.mark.usefixtures('standard_promotion')

GROUPS = Groups({'block_00/U': 0, 'block_01/U': 1}, ('block_00', 'block_01'), 2)


def config(**fields):
  base = {
    'name': 'adamw',
    'learning_rate': 1e-2,
    'b1': 0.9,
    'b2': 0.999,
    'eps': 1e-8,
    'weight_decay': 0.1,
    'decay_towards': 'zero',
    'clip_norm': 1.0,
    'schedule': 'constant',
    'warmup_from': 0.0,
    'final_learning_rate': 0.0,
  }
  return ml_collections.ConfigDict(base | fields)


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'block_00': {'U': draw(2, 3, 2)},
    'block_01': {'U': draw(2, 4, 2)},
    'head': {'kernel': draw(3, 2)},
  }


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_masked_groups_do_not_drift_over_twenty_steps_with_decay(name):
  optimizer = optim.make_optimizer(config(name=name), optax.constant_schedule(1e-2), GROUPS)
  params = make_params()
  state = optimizer.init(params)
  traces = []

  @jax.jit
  def step(params, state, grads, mask):
    traces.append(1)
    updates, state = optimizer.update(grads, state, params, mask=mask)
    return optax.apply_updates(params, updates), state

  everything = jnp.ones((2, 2), bool)
  for i in range(3):  # Momentum builds up in every group.
    params, state = step(params, state, make_params(100 + i), everything)
  before, adam_before = params, optax.tree_utils.tree_get(state, 'mu')
  nu_before = optax.tree_utils.tree_get(state, 'nu')
  mask = jnp.array([[True, False], [False, True]])
  for i in range(20):
    params, state = step(params, state, make_params(i), mask)
  mu, nu = optax.tree_utils.tree_get(state, 'mu'), optax.tree_utils.tree_get(state, 'nu')
  for block, off, on in (('block_00', 1, 0), ('block_01', 0, 1)):
    for now, then in ((params, before), (mu, adam_before), (nu, nu_before)):
      np.testing.assert_array_equal(now[block]['U'][off], then[block]['U'][off])
      assert np.abs(now[block]['U'][on] - then[block]['U'][on]).min() > 0
  assert np.abs(params['head']['kernel'] - before['head']['kernel']).min() > 1e-3
  assert len(traces) == 1
  # A group comes back to life with the moments that it had.
  again, _ = step(params, state, make_params(50), everything)
  assert np.abs(again['block_00']['U'][1] - params['block_00']['U'][1]).min() > 0


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_decay_towards_the_start_is_a_float64_replay_of_l2_sp(name):
  """Three steps of gradients that are 0: only the decay moves, and it pulls back to the start."""
  fields = {'weight_decay': 0.1, 'decay_towards': 'start', 'clip_norm': 0.0, 'b1': 0.0, 'b2': 0.0}
  optimizer = optim.make_optimizer(config(name=name, **fields), lambda _: 1e-2, None)
  start = make_params()
  state = optimizer.init(start)
  params = jax.tree.map(lambda x: x + 1.0, start)
  expected = {
    'U': np.asarray(params['block_00']['U'], np.float64),
    'head': np.asarray(params['head']['kernel'], np.float64),
  }
  origin = {'U': np.asarray(start['block_00']['U'], np.float64), 'head': 0.0}
  for _ in range(3):
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = optimizer.update(zeros, state, params)
    params = optax.apply_updates(params, updates)
    for key, value in expected.items():
      pull = 0.1 * (value - origin[key])
      if name == 'adam':  # Through Adam's normaliser, here the sign of what it sees.
        pull = pull / (np.abs(pull) + 1e-8)
      expected[key] = value - 1e-2 * pull
  np.testing.assert_allclose(params['block_00']['U'], expected['U'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(params['head']['kernel'], expected['head'], rtol=1e-5, atol=1e-6)


def test_a_group_that_comes_back_goes_on_as_if_it_had_slept():
  """It moves as if Adam had seen its own gradients alone; for it the clock stood still."""
  settings = config(name='adam', clip_norm=0.0, weight_decay=0.0)
  optimizer = optim.make_optimizer(settings, optax.constant_schedule(1e-2), GROUPS)
  alone = optax.adam(1e-2)
  start = make_params()
  params, own = start, start['block_00']['U'][1]
  state, own_state = optimizer.init(params), alone.init(own)
  for i in range(60):
    is_on = i < 5 or i >= 50
    grads = make_params(i)
    mask = jnp.array([[True, is_on], [True, True]])
    updates, state = optimizer.update(grads, state, params, mask=mask)
    params = optax.apply_updates(params, updates)
    if is_on:
      updates, own_state = alone.update(grads['block_00']['U'][1], own_state)
      own = optax.apply_updates(own, updates)
  np.testing.assert_allclose(params['block_00']['U'][1], own, rtol=1e-5, atol=1e-6)


def test_with_everything_on_the_mask_changes_nothing():
  params, grads = make_params(), make_params(1)
  plain = optim.make_optimizer(config(), optax.constant_schedule(1e-2), None)
  masked = optim.make_optimizer(config(), optax.constant_schedule(1e-2), GROUPS)
  expected, _ = plain.update(grads, plain.init(params), params)
  actual, _ = masked.update(grads, masked.init(params), params, mask=jnp.ones((2, 2), bool))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)


def test_clipping_sees_the_active_groups_alone():
  params = make_params()
  grads = make_params(1)
  huge = grads | {'block_00': {'U': grads['block_00']['U'].at[1].set(1e6)}}
  optimizer = optim.make_optimizer(config(weight_decay=0.0), optax.constant_schedule(1e-2), GROUPS)
  mask = jnp.array([[True, False], [True, True]])
  one, _ = optimizer.update(grads, optimizer.init(params), params, mask=mask)
  two, _ = optimizer.update(huge, optimizer.init(params), params, mask=mask)
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
  ('name', 'torch_class'), [('adam', torch.optim.Adam), ('adamw', torch.optim.AdamW)]
)
def test_chain_equals_torch(name, torch_class):
  settings = config(name=name, clip_norm=0.5, weight_decay=0.05)
  optimizer = optim.make_optimizer(settings, optax.constant_schedule(1e-2), None)
  params = make_params()
  state = optimizer.init(params)
  leaves, structure = jax.tree.flatten(params)
  tensors = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in leaves]
  reference = torch_class(tensors, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
  for i in range(5):
    grads = make_params(10 + i)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
      tensor.grad = torch.tensor(np.asarray(grad))
    torch.nn.utils.clip_grad_norm_(tensors, 0.5)
    reference.step()
  expected = structure.unflatten([t.detach().numpy() for t in tensors])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected
  )


def test_schedules():
  constant = optim.make_schedule(config(), total_steps=100, warmup_steps=0)
  assert float(constant(99)) == pytest.approx(1e-2)
  warm = optim.make_schedule(config(warmup_from=1e-3), total_steps=100, warmup_steps=10)
  np.testing.assert_allclose(
    [warm(0), warm(5), warm(10), warm(99)], [1e-3, 5.5e-3, 1e-2, 1e-2], rtol=1e-6
  )
  cosine = optim.make_schedule(
    config(schedule='cosine', final_learning_rate=1e-4), total_steps=110, warmup_steps=10
  )
  np.testing.assert_allclose(
    [cosine(0), cosine(10), cosine(60), cosine(110)], [0, 1e-2, (1e-2 + 1e-4) / 2, 1e-4], rtol=1e-5
  )


def test_cosine_with_restarts_is_torchs():
  """GenD's recipe: linear warm-up, then cosines of a fixed length, each from the peak."""
  settings = config(
    schedule='cosine', learning_rate=3e-4, warmup_from=1e-5, final_learning_rate=1e-5
  )
  schedule = optim.make_schedule(settings, total_steps=75, warmup_steps=5, restart_steps=20)
  parameter = torch.nn.Parameter(torch.zeros(1))
  reference = torch.optim.SGD([parameter], lr=3e-4)
  warmup = torch.optim.lr_scheduler.LinearLR(reference, start_factor=1e-5 / 3e-4, total_iters=5)
  cosines = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(reference, T_0=20, eta_min=1e-5)
  sequence = torch.optim.lr_scheduler.SequentialLR(reference, [warmup, cosines], milestones=[5])
  expected = []
  for _ in range(75):
    expected.append(reference.param_groups[0]['lr'])
    reference.step()
    sequence.step()
  np.testing.assert_allclose([schedule(i) for i in range(75)], expected, rtol=1e-5)
  assert max(expected[24:26]) == pytest.approx(3e-4)  # The second cosine begins.
