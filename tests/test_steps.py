"""The train step: what it leaves alone, what it costs, and that devices do not change it."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from masm_jax import detector as detector_lib
from masm_jax import optim, sharding, state, steps, tree
from masm_jax.backbones import ViTConfig
from masm_jax.masking.layer_mask import MaskConfig
from masm_jax.methods import METHODS, make_method

# optax raises a float to an integer power, which strict promotion refuses.
pytestmark = pytest.mark.usefixtures('standard_promotion')

BACKBONE = ViTConfig(
  image_size=16,
  patch_size=8,
  width=24,
  depth=2,
  num_heads=3,
  mlp_dim=48,
  activation='gelu',
  pre_norm=False,
  patch_bias=True,
  norm_eps=1e-6,
  mean=(0.5,) * 3,
  std=(0.5,) * 3,
)
DETECTOR = detector_lib.DetectorConfig(BACKBONE)
HEAD = ml_collections.ConfigDict({'label_smoothing': 0.1, 'class_weights': (1.0, 2.0)})
MASK = MaskConfig(warmup_steps=2, refresh_steps=2)


def make_config(method):
  return ml_collections.ConfigDict(
    {
      'method': method,
      'subspace': {
        'num_subspaces': 2,
        'rank': 2,
        'split': 'interleaved',
        'targets': 'all',
        'forward': 'auto',
        'keep_factors': False,
        'cache_dir': '',
      },
      'regularizer': {
        'orthogonality': 1.0,
        'spectral': 1.0,
        'w_self': 1.0,
        'w_cross': 2.0,
        'w_sem': 2.0,
        'spectral_kind': 'energy',
        'relative_energy': True,
      },
    }
  )


OPTIM = ml_collections.ConfigDict(
  {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.01, 'clip_norm': 1.0}
)


@functools.cache
def make_batch(seed=0, size=8):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8),
    'label': rng.integers(0, 2, size).astype(np.int32),
  }


class Setup:
  """One method, ready to step on some devices."""

  def __init__(self, name, mesh=None, optimizer=None):
    self.method = make_method(make_config(name))
    self.params = detector_lib.init_params(DETECTOR, jax.random.key(0))
    self.trainable, self.frozen = self.method.init(self.params, jax.random.key(0))
    self.groups = self.method.groups(self.trainable)
    schedule = optax.constant_schedule(1e-2)
    self.optimizer = optimizer or optim.make_optimizer(OPTIM, schedule, self.groups)
    names = steps.metric_names(self.method, self.trainable, self.frozen, self.groups)
    self.mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    self.frozen = sharding.place(self.frozen, sharding.frozen_sharding(self.frozen, self.mesh))
    fresh = state.init_state(
      self.trainable,
      optimizer=self.optimizer,
      groups=self.groups,
      metrics=steps.metrics_class(names).empty(),
    )
    self.state = sharding.place(fresh, sharding.replicated(self.mesh))
    self.traces = 0
    step = steps.make_train_step(
      detector_config=DETECTOR,
      method=self.method,
      optimizer=self.optimizer,
      groups=self.groups,
      mask_config=MASK,
      head=HEAD,
      schedule=schedule,
      seed=0,
    )

    def counted(*args):
      self.traces += 1
      return step(*args)

    self.jitted = steps.jit_train_step(counted, self.mesh, self.frozen)

  def step(self, seed=0):
    self.state = self.jitted(
      self.state, self.frozen, sharding.place_batch(make_batch(seed), self.mesh)
    )


@pytest.fixture(params=sorted(METHODS))
def setup(request):
  return Setup(request.param)


def test_merge_is_the_inverse_of_init(setup):
  merged = setup.method.merge(setup.trainable, setup.frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(setup.params)
  for path, leaf in tree.flatten(setup.params).items():
    np.testing.assert_allclose(tree.flatten(merged)[path], leaf, rtol=1e-5, atol=1e-6)


def test_steps_train_what_is_trainable_and_nothing_else(setup):
  before = jax.tree.map(np.array, (setup.state.trainable, setup.frozen))
  for i in range(6):
    setup.step(i)
  assert setup.traces == 1  # Refreshing the mask compiles nothing.
  assert int(setup.state.step) == 6 and int(setup.state.nonfinite_step) == 0
  jax.tree.map(np.testing.assert_array_equal, before[1], setup.frozen)
  moved = tree.map_with_path(
    lambda _, a, b: float(np.abs(a - b).max()), before[0], setup.state.trainable
  )
  assert min(tree.flatten(moved).values()) > 0

  # The adapted model and its merged form still agree.
  model = detector_lib.Detector(DETECTOR, dense_cls=setup.method.dense_cls)
  images = make_batch(9)['image']
  adapted = model.apply({'params': tree.combine(setup.state.trainable, setup.frozen)}, images)
  merged = setup.method.merge(setup.state.trainable, setup.frozen)
  plain = detector_lib.Detector(DETECTOR).apply({'params': merged}, images)
  np.testing.assert_allclose(adapted.logits, plain.logits, rtol=1e-5, atol=1e-5)


def test_optimizer_state_is_for_trainable_leaves_alone(setup):
  moments = tree.param_count(
    {
      'mu': optax.tree_utils.tree_get(setup.state.opt_state, 'mu'),
      'nu': optax.tree_utils.tree_get(setup.state.opt_state, 'nu'),
    }
  )
  assert moments == 2 * tree.param_count(setup.trainable)


EXPECTED_TRAINABLE = {
  'linear': 24 * 2 + 2,
  # 2 blocks x (4 x (24 + 24) + 2 x (24 + 48)) x 4 components, 12 x 4 singular values, the head.
  'masm': 2 * (4 * 48 + 2 * 72) * 4 + 12 * 4 + 50,
  'full': 50
  + (8 * 8 * 3 * 24 + 24)
  + 24
  + 5 * 24
  + 2 * (4 * (24 * 24 + 24) + 4 * 24 + 24 * 48 + 48 + 48 * 24 + 24)
  + 48,
}


def test_exact_trainable_counts_and_no_method_left_out(setup):
  assert set(EXPECTED_TRAINABLE) == set(METHODS)
  assert tree.param_count(setup.trainable) == EXPECTED_TRAINABLE[setup.method.name]


@pytest.mark.parametrize(('fsdp', 'moved_by'), [(1, 1.0), (4, 1.0), (4, 1.05)])
def test_one_device_and_eight_give_the_same_loss_and_gradients(setup, fsdp, moved_by, monkeypatch):
  """At the start, and off it, where the regularizers pull.

  Compared before Adam: plain gradient descent with rate 1, so that updates are gradients."""
  monkeypatch.setattr(sharding, '_MIN_SPLIT_BYTES', 256)  # These kernels are small.
  results = []
  for mesh in (sharding.make_mesh(devices=jax.devices()[:1]), sharding.make_mesh(fsdp)):
    descent = optax.with_extra_args_support(optax.sgd(1.0))
    run = Setup(setup.method.name, mesh, descent)
    moved = jax.tree.map(lambda x: x * moved_by, run.trainable)
    run.state = run.state.replace(trainable=sharding.place(moved, sharding.replicated(mesh)))
    split = [leaf for leaf in jax.tree.leaves(run.frozen) if not leaf.is_fully_replicated]
    assert len(split) >= 3 * (fsdp > 1 and mesh.size > 1 and run.method.name != 'full')
    before = jax.tree.map(np.array, run.state.trainable)
    run.step()
    after = jax.tree.map(np.array, run.state.trainable)
    grads = jax.tree.map(np.subtract, before, after)
    results.append((run.state.metrics.compute(), grads))
  (metrics_1, grads_1), (metrics_8, grads_8) = results
  assert 'loss' in metrics_1
  for name, value in metrics_1.items():
    rtol = 5e-5 if name == 'grad_norm' else 1e-5  # A sum over all gradients, which follow.
    np.testing.assert_allclose(value, metrics_8[name], rtol=rtol, atol=1e-6, err_msg=name)
  scale = float(optax.tree.norm(grads_1))
  assert scale > 1e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale), grads_1, grads_8
  )


def test_statistics_are_those_of_the_task_gradient_alone():
  """After one step the mean is (1 - a) times the gradient of the cross-entropy, no regularizer."""
  run = Setup('masm')
  moved = jax.tree.map(lambda x: x * 1.1, run.trainable)  # Off the start, where regularizers pull.
  run.state = run.state.replace(trainable=sharding.place(moved, sharding.replicated(run.mesh)))
  batch = make_batch()
  model = detector_lib.Detector(DETECTOR, dense_cls=run.method.dense_cls)

  def cross_entropy(trainable):
    logits = model.apply({'params': tree.combine(trainable, run.frozen)}, batch['image']).logits
    target = jax.nn.one_hot(batch['label'], 2) * 0.9 + 0.05
    weight = jnp.array([1.0, 2.0])
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.sum(target * weight[None] * log_probs) / jnp.sum(weight[batch['label']])

  expected = run.groups.select(jax.grad(cross_entropy)(moved))
  run.step()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, 0.1 * b, rtol=1e-4, atol=1e-7),
    run.state.grad_stats.mean,
    expected,
  )


def test_masked_groups_stand_still_in_a_real_run():
  run = Setup('masm')
  for i in range(2):
    run.step(i)
  mask = np.array(run.state.mask.mask)
  np.testing.assert_array_equal(mask.sum(axis=0), [1, 1])  # Half of two blocks.
  before = jax.tree.map(np.array, run.state.trainable)
  run.step(2)  # No refresh in the third step: the same mask holds.
  on = tree.flatten(run.groups.expand(jnp.asarray(mask), before))
  num_moved = 0
  for path, old in tree.flatten(before).items():
    new = np.asarray(tree.flatten(run.state.trainable)[path])
    still = np.broadcast_to(~np.asarray(on[path]), old.shape)
    np.testing.assert_array_equal(new[still], old[still])
    if not still.all():  # Both subspaces may have chosen the same block: all of the other rests.
      assert np.abs(new - old)[~still].max() > 0
      num_moved += 1
  assert num_moved > 2  # More than the head.


def test_a_broken_number_is_noted_once():
  run = Setup('linear')
  run.step()
  broken = jax.tree.map(lambda x: x * jnp.nan, run.state.trainable)
  run.state = run.state.replace(trainable=sharding.place(broken, sharding.replicated(run.mesh)))
  run.step()
  run.step()
  assert int(run.state.nonfinite_step) == 2


def test_frozen_gradients_are_never_formed():
  """Counted: masm must stay far from the operations of full fine-tuning."""
  flops = {}
  for name in ('masm', 'full', 'linear'):
    run = Setup(name)
    batch = sharding.place_batch(make_batch(size=64), run.mesh)
    compiled = run.jitted.lower(run.state, run.frozen, batch).compile()
    flops[name] = compiled.cost_analysis()['flops']
  model = detector_lib.Detector(DETECTOR)
  params = detector_lib.init_params(DETECTOR, jax.random.key(0))
  forward = jax.jit(model.apply).lower({'params': params}, make_batch(size=64)['image'])
  one_pass = forward.compile().cost_analysis()['flops']
  assert flops['linear'] < 1.1 * one_pass
  assert flops['full'] > 2.4 * one_pass
  assert flops['masm'] < 0.87 * flops['full']
