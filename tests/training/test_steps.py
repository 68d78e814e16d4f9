"""What the train step notes. What holds of every method is in `methods/test_contract.py`, what a
step costs in `test_costs.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
