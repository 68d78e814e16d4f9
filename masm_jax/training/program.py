"""What a training step is put together from: a config and the leaves that a method trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import clu.metrics
import jax
import ml_collections
import optax
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax.masking.groups import Groups
from masm_jax.masking.layer_mask import MaskConfig
from masm_jax.methods.base import Method
from masm_jax.parallel import sharding
from masm_jax.training import optim, state, steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgram:
  """A training step and its parts.

  Attributes:
    groups: what the layer mask switches; None for no mask.
    mask_config: how it is drawn.
    schedule: learning rate by step.
    optimizer: takes `mask=` where there are groups.
    metrics: the collection that the step reports into.
    train_step: `(state, frozen, batch) -> state`, pure; see `steps.make_train_step`.
  """

  groups: Groups | None
  mask_config: MaskConfig
  schedule: optax.Schedule
  optimizer: optax.GradientTransformationExtraArgs
  metrics: type[clu.metrics.Collection]
  train_step: Callable[[state.TrainState, Any, steps.Batch], state.TrainState]

  def init_state(self, trainable: Any) -> state.TrainState:
    """The state before the first step; pure."""
    return state.init_state(
      trainable, optimizer=self.optimizer, groups=self.groups, metrics=self.metrics.empty()
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
  trainable: Any,
  frozen: Any,
  total_steps: int,
  warmup_steps: int = 0,
  restart_steps: int = 0,
) -> TrainProgram:
  """Puts a training step together.

  Args:
    config: the run's config.
    method: what is trained and how it is kept in order.
    detector_config: backbone, precision, feature normalisation.
    trainable: from `method.init`; shapes are enough.
    frozen: as well.
    total_steps: length of the run, which the schedule needs.
    warmup_steps: see `optim.make_schedule`.
    restart_steps: as well.
  """
  mask_config = MaskConfig(**config.mask.to_dict())
  groups = method.groups(trainable) if mask_config.kind != 'none' else None
  schedule = optim.make_schedule(config.optim, total_steps, warmup_steps, restart_steps)
  optimizer = optim.make_optimizer(config.optim, schedule, groups)
  return TrainProgram(
    groups=groups,
    mask_config=mask_config,
    schedule=schedule,
    optimizer=optimizer,
    metrics=steps.metrics_class(steps.metric_names(method, trainable, frozen, groups, config)),
    train_step=steps.make_train_step(
      detector_config=detector_config,
      method=method,
      optimizer=optimizer,
      groups=groups,
      mask_config=mask_config,
      schedule=schedule,
      config=config,
    ),
  )
