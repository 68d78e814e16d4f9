"""What the train step notes. What holds of every method is in `methods/test_contract.py`, what a
step costs in `test_costs.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from masm_jax import tree
from masm_jax.parallel import sharding
from masm_jax.training import steps

# optax raises a float to an integer power, which strict promotion refuses.
pytestmark = pytest.mark.usefixtures('standard_promotion')


def test_a_broken_number_is_noted_once(tiny_run):
  run = tiny_run('linear')
  run.step()
  assert int(run.state.nonfinite_step) == 0
  broken = jax.tree.map(lambda x: x * jnp.nan, run.state.trainable)
  run.state = run.state.replace(trainable=sharding.place(broken, sharding.replicated(run.mesh)))
  run.step()
  run.step()
  assert int(run.state.nonfinite_step) == 2


def test_metrics_are_means_over_the_steps_since_they_were_taken(tiny_run):
  run = tiny_run('linear', **{'optim.learning_rate': 1e-12})  # Nothing moves: steps are alike.
  single = []
  for i in range(3):
    run.step(i)
    run.state, values = steps.take_metrics(run.state, run.mesh)
    single.append(values)
  assert set(values) == {'accuracy', 'grad_norm', 'learning_rate', 'loss', 'loss_task'}
  for i in range(3):
    run.step(i)
  _, mean = steps.take_metrics(run.state, run.mesh)
  for name, value in mean.items():
    assert value == pytest.approx(np.mean([values[name] for values in single]), rel=1e-5), name


def test_a_refreshed_mask_compiles_nothing_and_is_the_same_on_eight_devices(tiny_run):
  fields = {'mask.refresh_steps': 1, 'mask.granularity': 'kernel_subspace', 'mask.keep': 0.25}
  fields |= {'mask.score': 'bvr', 'mask.decay': 0.5, 'mask.hysteresis': 0.0}  # Masks that change.
  fields |= {'regularizer.orthogonality': 0.0, 'regularizer.spectral': 0.0}  # Compiles sooner.
  runs = [tiny_run('masm', mesh, **fields) for mesh in (None, sharding.make_mesh(fsdp=2))]
  masks = [[], []]
  for run, drawn in zip(runs, masks, strict=True):
    for i in range(4):
      run.step(i)
      drawn.append(np.asarray(run.state.mask.mask))
    assert run.traces == 1
  np.testing.assert_array_equal(*masks)
  assert masks[0][0].all()  # The warm-up.
  assert all((mask.sum(axis=0) == 3).all() for mask in masks[0][1:])  # Of twelve kernels.
  assert len({mask.tobytes() for mask in masks[0]}) > 2  # It does change.
  np.testing.assert_array_equal(runs[0].state.mask.steps_on, np.sum(masks[0], axis=0))


def artifact_norms(leaves):
  """Norms of U and V of all decomposed layers together."""
  flat = tree.flatten(leaves)
  return np.sqrt(sum(float(np.sum(np.square(x))) for path, x in flat.items() if path[-1] in 'UV'))


def test_factors_survive_training_by_the_default_recipe(tiny_run):
  """Coupled L2 takes whole steps of Adam towards 0 where the task's gradient is small."""
  recipe = {name: common.get_config().optim[name] for name in ('name', 'weight_decay')}
  kept = {}
  for name, decay in {'default': recipe['weight_decay'], 'coupled': 5e-4}.items():
    fields = {'optim.name': recipe['name'], 'optim.weight_decay': decay, 'mask.kind': 'none',
              'regularizer.orthogonality': 0.0, 'regularizer.spectral': 0.0,
              'optim.learning_rate': 5e-3}  # fmt: skip
    run = tiny_run('masm', **fields)
    # The task's gradient of most factors is small: here none is left of the images.
    run.start(tree.map_with_path(lambda path, x: 0 * x if path == 'head/kernel' else x,
                                 run.trainable))  # fmt: skip
    before = artifact_norms(run.trainable)
    for i in range(100):
      run.step(0)
      if i % 5 == 0:
        jax.block_until_ready(run.state.step)
    kept[name] = artifact_norms(run.state.trainable) / before
  assert kept['default'] > 0.9
  assert kept['coupled'] < 0.85, kept


def test_decoupled_penalties_move_beside_adam_and_only_what_is_on(tiny_run):
  """An update is the task's alone, less the learning rate times each kernel's own slope."""
  fields = {'regularizer.mode': 'decoupled', 'regularizer.spectral': 0.0, 'optim.name': 'adam',
            'optim.weight_decay': 0.0, 'subspace.semantic_rank': 8, 'mask.kind': 'random',
            'mask.refresh_steps': 1, 'optim.learning_rate': 1e-2}  # fmt: skip
  weighted, plain = (
    tiny_run('masm', **fields | {'regularizer.orthogonality': weight}) for weight in (3.0, 0.0)
  )
  shifted = jax.tree.map(lambda x: x * np.float32(1.1), weighted.trainable)
  for run in (weighted, plain):
    run.start(shifted)
    run.step()
  slope = jax.grad(
    lambda t: weighted.method.regularize(t, weighted.frozen, weighted.reference)['orthogonality']
  )(shifted)
  pulls = tree.map_with_path(lambda _, x: 1e-2 * 12 * np.asarray(x), slope)  # Of twelve kernels.
  first = jax.tree.map(np.array, weighted.state.trainable)
  jax.tree.map(
    lambda a, b, pull: np.testing.assert_allclose(b - a, pull, atol=1e-6),
    first, jax.tree.map(np.array, plain.state.trainable), pulls,
  )  # fmt: skip
  assert np.abs(pulls['backbone']['block_00']['attn']['q']['U']).max() > 1e-2
  weighted.step(1)  # Now a mask is drawn.
  on = weighted.groups.expand(weighted.state.mask.mask, weighted.state.trainable)
  moved = jax.tree.map(lambda a, b: np.abs(a - b), first, weighted.state.trainable)
  held = tree.flatten(jax.tree.map(lambda m, keep: np.where(keep, 0, m).max(), moved, on))
  free = tree.flatten(jax.tree.map(lambda m, keep: np.where(keep, m, 0).max(), moved, on))
  assert max(held.values()) == 0 and sum(value > 0 for value in free.values()) > len(free) / 3


def test_the_tasks_share_of_a_normalised_step_by_hand():
  task = {'a': jnp.array([3.0, -1.0, 0.0]), 'b': jnp.array([0.0, 0.0])}
  penalty = {'a': jnp.array([1.0, 1.0, 2.0]), 'b': jnp.array([0.0, -5.0])}
  # 3/4, 1/2, 0, and of b nothing (no gradient) and 0: four elements that move.
  assert float(steps.task_share(task, penalty)) == pytest.approx((0.75 + 0.5) / 4)
  nothing = jax.tree.map(jnp.zeros_like, penalty)
  assert float(steps.task_share(task, nothing)) == 1.0
  assert float(steps.task_share(nothing, nothing)) == 0.0
