"""Puts a training step together from a config and the parts of a method."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import clu.metrics
import jax
import ml_collections
import optax
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.masking.groups import Groups
from masm_jax.masking.layer_mask import MaskConfig
from masm_jax.methods.base import Method, Parts
from masm_jax.parallel import sharding
from masm_jax.training import optim, state, steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgram:
  """A training step and its parts.

  Attributes:
    groups: what the layer mask switches; None for no mask.
    stacks: which trainable leaves lie side by side in the optimizer and the statistics.
    mask_config: how it is drawn.
    schedule: learning rate by step.
    optimizer: takes `mask=` where there are groups.
    metrics: the collection that the step reports into.
    train_step: `(state, frozen, reference, batch) -> state`, pure; see `steps.make_update`.
  """

  groups: Groups | None
  stacks: tree.Stacks
  mask_config: MaskConfig
  schedule: optax.Schedule
  optimizer: optax.GradientTransformationExtraArgs
  metrics: type[clu.metrics.Collection]
  train_step: Callable[[state.TrainState, Any, Any, steps.Batch], state.TrainState]

  def init_state(self, trainable: Any) -> state.TrainState:
    """The state before the first step; pure."""
    return state.init_state(
      trainable,
      optimizer=self.optimizer,
      groups=self.groups,
      stacks=self.stacks,
      metrics=self.metrics.empty(),
      mask_config=self.mask_config,
    )

  def place_state(self, trainable: Any, mesh: Mesh) -> state.TrainState:
    """The first state, on all devices of the mesh: moments and statistics are made where they lie.

    Args:
      trainable: on the host, the same on every process.
      mesh: where.
    """
    everywhere = sharding.replicated(mesh)
    return jax.jit(self.init_state, out_shardings=everywhere)(sharding.place(trainable, everywhere))


def make_program(
  config: ml_collections.ConfigDict,
  *,
  method: Method,
  detector_config: detector_lib.DetectorConfig,
  parts: Parts,
  total_steps: int,
  warmup_steps: int = 0,
  restart_steps: int = 0,
  mesh: Mesh | None = None,
) -> TrainProgram:
  """Puts a training step together.

  Args:
    config: the run's config.
    method: what is trained and how it is kept in order.
    detector_config: backbone, precision, feature normalisation.
    parts: from `method.init`; shapes are enough.
    total_steps: length of the run, which the schedule needs.
    warmup_steps: see `optim.make_schedule`.
    restart_steps: see `optim.make_schedule`.
    mesh: where the step will run, if that is known: it is then traced once, not twice.
  """
  mask_config = MaskConfig(**config.mask.to_dict())
  groups = method.groups(parts.trainable) if mask_config.kind != 'none' else None
  rows = groups.rows if groups else {}
  stacks = tree.stacks_of(parts.trainable, lambda path: (path in rows, path.startswith(tree.HEAD)))
  schedule = optim.make_schedule(config.optim, total_steps, warmup_steps, restart_steps)
  optimizer = optim.make_optimizer(
    config.optim, schedule, groups.stacked(stacks) if groups else None
  )
  update = steps.make_update(
    detector_config=detector_config,
    method=method,
    optimizer=optimizer,
    groups=groups,
    stacks=stacks,
    mask_config=mask_config,
    schedule=schedule,
    config=config,
  )
  # Traced for the names in its report, and remembered for the step that it is a part of.
  update = jax.jit(update, inline=True)
  bare = functools.partial(
    state.init_state,
    optimizer=optimizer,
    groups=groups,
    stacks=stacks,
    metrics=None,
    mask_config=mask_config,
  )
  batch = steps.batch_shapes(config.train.batch_size, detector_config.backbone.image_size)
  arguments = (jax.eval_shape(bare, parts.trainable), parts.frozen, parts.reference, batch)
  if mesh is not None:
    place = sharding.replicated(mesh)
    arguments = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments
    )
  _, report = jax.eval_shape(update, *arguments)
  metrics = steps.metrics_class(report)
  return TrainProgram(
    groups=groups,
    stacks=stacks,
    mask_config=mask_config,
    schedule=schedule,
    optimizer=optimizer,
    metrics=metrics,
    train_step=steps.with_metrics(update, metrics),
  )
