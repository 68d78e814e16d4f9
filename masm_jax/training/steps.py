"""The pure steps of training and evaluation, and the one place where they are jitted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.masking import grad_stats, layer_mask
from masm_jax.masking.groups import Groups
from masm_jax.methods.base import Method
from masm_jax.parallel import sharding
from masm_jax.training import objective as task
from masm_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]

INPUTS = ('image', 'label', 'method')  # What of a batch the steps of training read.


def metrics_class(names: Sequence[str]) -> type[clu.metrics.Collection]:
  """A collection of averages with the given names; it is part of the train state."""
  return clu.metrics.Collection.create(
    **{name: clu.metrics.Average.from_output(name) for name in names}
  )


def make_train_step(
  *,
  detector_config: detector_lib.DetectorConfig,
  method: Method,
  optimizer: optax.GradientTransformationExtraArgs,
  groups: Groups | None,
  mask_config: layer_mask.MaskConfig,
  schedule: optax.Schedule,
  config: ml_collections.ConfigDict,
) -> Callable[[TrainState, Any, Batch], TrainState]:
  """Builds `train_step(state, frozen, batch) -> state`, pure.

  Args:
    detector_config: backbone, precision, feature normalisation.
    method: what is trained and how it is kept in order.
    optimizer: takes `mask=` where there are groups.
    groups: what the layer mask switches; None for no mask.
    mask_config: how it is drawn.
    schedule: learning rate by step, for the report.
    config: the run's config; what the task loss needs and `seed` are read.

  Returns:
    The step. For `batch` see `task.make_task_loss`.
  """
  task_loss_of_params = task.make_task_loss(detector_config, config, method.dense_cls)

  def task_loss(
    trainable: Any, frozen: Any, batch: Batch, step: jax.Array
  ) -> tuple[jax.Array, dict]:
    return task_loss_of_params(tree.combine(trainable, frozen), batch, step)

  def penalty(trainable: Any, frozen: Any) -> tuple[jax.Array, dict]:
    parts = method.regularize(trainable, frozen)
    return sum(parts.values(), start=jnp.zeros((), jnp.float32)), parts

  def train_step(state: TrainState, frozen: Any, batch: Batch) -> TrainState:
    step = state.step + 1
    # Two gradients: the layer mask reads that of the task alone, and the second is cheap.
    (loss, report), grads = jax.value_and_grad(task_loss, has_aux=True)(
      state.trainable, frozen, batch, step
    )
    (extra, parts), penalty_grads = jax.value_and_grad(penalty, has_aux=True)(
      state.trainable, frozen
    )
    stats, mask, extra_args = None, None, {}
    if groups:
      stats = grad_stats.update_stats(state.grad_stats, groups.select(grads), mask_config.decay)
      mask = layer_mask.refresh(
        state.mask,
        stats=stats,
        groups=groups,
        step=step,
        seed=config.seed,
        params=groups.select(state.trainable),
        config=mask_config,
      )
      extra_args = {'mask': mask.mask}
      report['mask_on'] = jnp.mean(mask.mask.astype(jnp.float32))
    grads = jax.tree.map(jnp.add, grads, penalty_grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, **extra_args)
    grad_norm = optax.tree.norm(grads)
    report |= parts | {
      'loss': loss + extra,
      'loss_task': loss,
      'grad_norm': grad_norm,
      'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
    }
    metrics = type(state.metrics).single_from_model_output(**report)
    is_bad = ~jnp.isfinite(loss + extra + grad_norm + optax.tree.norm(updates))
    return TrainState(
      step=step,
      trainable=optax.apply_updates(state.trainable, updates),
      opt_state=opt_state,
      mask=mask,
      grad_stats=stats,
      metrics=state.metrics.merge(metrics),
      nonfinite_step=jnp.where((state.nonfinite_step == 0) & is_bad, step, state.nonfinite_step),
    )

  return train_step


def metric_names(
  method: Method,
  trainable: Any,
  frozen: Any,
  groups: Groups | None,
  config: ml_collections.ConfigDict,
) -> list[str]:
  """Names of what `train_step` reports for this method and config, sorted."""
  parts = jax.eval_shape(method.regularize, trainable, frozen)
  return sorted(
    [
      'loss',
      'loss_task',
      *task.report_names(config),
      'grad_norm',
      'learning_rate',
      *parts,
      *(['mask_on'] if groups else []),
    ]
  )


def jit_train_step(step: Callable, mesh: Mesh, frozen: Any) -> Callable:
  """Compiles a train step: the state is replicated and donated, the batch split over the mesh."""
  everywhere = sharding.replicated(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(
      everywhere,
      sharding.frozen_sharding(frozen, mesh),
      sharding.batch_sharding(mesh),
    ),
    out_shardings=everywhere,
  )


def take_metrics(state: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, float]]:
  """Reads the running metrics (this waits for the device) and empties them.

  Returns:
    The state with fresh sums, and means over the steps since they were last taken.
  """
  values = {name: float(value) for name, value in state.metrics.compute().items()}
  empty = sharding.place(type(state.metrics).empty(), sharding.replicated(mesh))
  return state.replace(metrics=empty), values
