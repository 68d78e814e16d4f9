"""The training step, on one screen: loss, gradient, statistics, mask, update."""

from collections.abc import Callable, Mapping
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.masking import forgeries, grad_stats, layer_mask
from masm_jax.masking.groups import Groups
from masm_jax.methods.base import Method
from masm_jax.parallel import sharding
from masm_jax.training import objective
from masm_jax.training.state import TrainState

Batch = objective.Batch
Report = dict[str, jax.Array]

INPUTS = ('image', 'label', 'method')  # What of a batch the steps of training read.


def make_update(
  *,
  detector_config: detector_lib.DetectorConfig,
  method: Method,
  optimizer: optax.GradientTransformationExtraArgs,
  groups: Groups | None,
  stacks: tree.Stacks,
  mask_config: layer_mask.MaskConfig,
  schedule: optax.Schedule,
  config: ml_collections.ConfigDict,
) -> Callable[[TrainState, Any, Any, Batch], tuple[TrainState, Report]]:
  """Builds `update(state, frozen, reference, batch) -> (state, report)`, pure.

  Args:
    detector_config: backbone, precision, feature normalisation.
    method: what is trained and how it is kept in order.
    optimizer: takes `mask=` where there are groups.
    groups: what the layer mask switches; None for no mask.
    stacks: which trainable leaves lie side by side for all that follows the gradients.
    mask_config: how it is drawn.
    schedule: learning rate by step, for the report.
    config: the run's config; what the task loss needs and `seed` are read.

  Returns:
    The update. `frozen` and `reference` are those of `methods.base.Parts`; for `batch` see
    `objective.make_task_loss`. The report maps names to float32 scalars; the state's own running
    metrics stay as they are.
  """
  task_loss = objective.make_task_loss(detector_config, config, method.dense_cls)
  in_stacks = groups.stacked(stacks) if groups else None
  by_forgery = groups is not None and mask_config.score == 'forgery'

  def task(
    trainable: Any, gates: Any, frozen: Any, batch: Batch, step: jax.Array
  ) -> tuple[jax.Array, Report]:
    return task_loss(tree.combine(trainable, frozen), batch, step, gates)

  def penalty(trainable: Any, frozen: Any, reference: Any) -> tuple[jax.Array, Report]:
    terms = method.regularize(trainable, frozen, reference)
    return sum(terms.values(), start=jnp.zeros((), jnp.float32)), terms

  def update(
    state: TrainState, frozen: Any, reference: Any, batch: Batch
  ) -> tuple[TrainState, Report]:
    step = state.step + 1

    # Loss and gradient: two gradients, because the layer mask reads the task's alone, and the
    # second is cheap.
    gates = None
    if by_forgery:
      gates = forgeries.open_gates(groups, state.trainable, len(batch['label']))
    (loss, report), (grads, gate_grads) = jax.value_and_grad(task, (0, 1), has_aux=True)(
      state.trainable, gates, frozen, batch, step
    )
    (extra, terms), penalty_grads = jax.value_and_grad(penalty, has_aux=True)(
      state.trainable, frozen, reference
    )

    grads, penalty_grads = stacks.stack(grads), stacks.stack(penalty_grads)
    params = stacks.stack(state.trainable)

    # Statistics and mask.
    stats, mask, on, extra_args = None, None, None, {}
    if groups:
      decay = mask_config.decay
      if by_forgery:
        stats = forgeries.update_stats(state.grad_stats, gate_grads, batch['method'], groups, decay)
      else:
        stats = grad_stats.update_stats(state.grad_stats, in_stacks.select(grads), decay)
      score = layer_mask.score_of(stats, in_stacks, in_stacks.select(params), mask_config)
      mask = layer_mask.refresh(
        state.mask, score=score, step=step, seed=config.seed, config=mask_config
      )
      on = groups.expand(mask.mask, state.trainable)
      extra_args = {'mask': mask.mask}
      report['mask_on'] = jnp.mean(mask.mask.astype(jnp.float32))
      report['mask_agreement'] = mask.agreement

    # Update.
    pull = method.penalty_pull(reference)
    if not pull:
      if terms:
        report['task_share'] = task_share(grads, penalty_grads)
      grads = jax.tree.map(jnp.add, grads, penalty_grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, params, **extra_args)
    if pull:
      can_move = in_stacks.expand(mask.mask, params) if groups else None
      updates = _pulled(updates, penalty_grads, pull * schedule(state.step), can_move)
    grad_norm = optax.tree.norm(grads)
    report |= terms | {
      'loss': loss + extra,
      'loss_task': loss,
      'grad_norm': grad_norm,
      'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
    }
    is_bad = ~jnp.isfinite(loss + extra + grad_norm + optax.tree.norm(updates))
    trainable = stacks.unstack(optax.apply_updates(params, updates))
    new_state = state.replace(
      step=step,
      trainable=method.constrain(trainable, reference, on),
      opt_state=opt_state,
      mask=mask,
      grad_stats=stats,
      nonfinite_step=jnp.where((state.nonfinite_step == 0) & is_bad, step, state.nonfinite_step),
    )
    return new_state, report

  return update


def task_share(task_grads: Any, penalty_grads: Any) -> jax.Array:
  """The task's share of a normalised step, float32 []: 1 where no penalty pulls, 0 without a task.

  Adam moves every element by about the learning rate, however small its gradient is: a penalty that
  is small beside the task in all may decide where most elements go. So shares `|g| / (|g| + |p|)`
  are taken element by element, and averaged over those that have any gradient. [ours]

  Args:
    task_grads: g, of the task loss.
    penalty_grads: p, of the penalties, a tree of the same shape.
  """

  def parts(task: jax.Array, penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = jnp.abs(task) + jnp.abs(penalty)
    share = jnp.where(total > 0, jnp.abs(task) / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.sum(share), jnp.sum((total > 0).astype(jnp.float32))

  found = [
    parts(task, penalty)
    for task, penalty in zip(
      jax.tree.leaves(task_grads), jax.tree.leaves(penalty_grads), strict=True
    )
  ]
  shares, counts = (
    sum(column, start=jnp.zeros((), jnp.float32)) for column in zip(*found, strict=True)
  )
  return shares / jnp.maximum(counts, 1.0)


def metrics_class(report: Mapping[str, Any]) -> type[clu.metrics.Collection]:
  """A collection of averages by the names of an update's report (shapes are enough)."""
  return clu.metrics.Collection.create(
    **{name: clu.metrics.Average.from_output(name) for name in sorted(report)}
  )


def with_metrics(update: Callable, metrics: type[clu.metrics.Collection]) -> Callable:
  """`train_step(state, frozen, reference, batch) -> state`, which averages the reports of `update`.

  Args:
    update: from `make_update`.
    metrics: from `metrics_class`; the state begins with `metrics.empty()`.
  """

  def train_step(state: TrainState, frozen: Any, reference: Any, batch: Batch) -> TrainState:
    new_state, report = update(state.replace(metrics=None), frozen, reference, batch)
    found = metrics.single_from_model_output(**report)
    return new_state.replace(metrics=state.metrics.merge(found))

  return train_step


def batch_shapes(batch_size: int, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of what a step reads of a batch [B, H, W, 3], for tracing without data."""
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  image = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.uint8)
  return {name: labels for name in INPUTS} | {'image': image}


def _pulled(updates: Any, penalty_grads: Any, rate: float | jax.Array, on: Any | None) -> Any:
  """Updates with the penalties' gradient beside the optimizer's; what a mask holds stays."""
  rate = jnp.asarray(rate, jnp.float32)
  updates = jax.tree.map(lambda u, g: u - rate * g, updates, penalty_grads)
  if on is None:
    return updates
  return jax.tree.map(lambda keep, u: jnp.where(keep, u, jnp.zeros_like(u)), on, updates)


def jit_train_step(step: Callable, mesh: Mesh, frozen: Any, reference: Any) -> Callable:
  """Compiles a train step: the state is replicated and donated, the batch split over the mesh."""
  everywhere = sharding.replicated(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(
      everywhere,
      sharding.frozen_sharding(frozen, mesh),
      sharding.frozen_sharding(reference, mesh),
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
