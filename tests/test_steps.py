"""What the train step notes. What holds of every method is in `methods/test_contract.py`, what a
step costs in `test_costs.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import sharding, steps

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
