"""The train state: what a step reads and writes, and how it begins."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from masm_jax import tree
from masm_jax.masking import forgeries, grad_stats, layer_mask
from masm_jax.masking.groups import Groups


@flax.struct.dataclass
class TrainState:
  """Everything that a training step reads and writes; frozen leaves live beside it.

  No random key is kept: every random number is a function of (seed, step, global index).

  Attributes:
    step: int32 [], number of updates done.
    trainable: parameters that are trained.
    opt_state: the optimizer's state, for the trainable leaves alone, in stacks (`tree.Stacks`).
    mask: the layer mask, or None where the method has no groups.
    grad_stats: what the mask's scores are read from, or None: statistics of the grouped leaves'
      task gradient, in stacks too, or of the gates' by forgery.
    metrics: running sums of the training metrics since they were last written.
    nonfinite_step: int32 [], the first step whose loss or gradient was not finite, 0 if none was.
  """

  step: jax.Array
  trainable: Any
  opt_state: optax.OptState
  mask: layer_mask.LayerMask | None
  grad_stats: grad_stats.GradStats | forgeries.ForgeryStats | None
  metrics: Any
  nonfinite_step: jax.Array


def init_state(
  trainable: Mapping[str, Any],
  *,
  optimizer: optax.GradientTransformation,
  groups: Groups | None,
  stacks: tree.Stacks,
  metrics: Any,
  mask_config: layer_mask.MaskConfig | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    trainable: from `Method.init`.
    optimizer: from `optim.make_optimizer`.
    groups: from `Method.groups`; None for no mask.
    stacks: which leaves lie side by side.
    metrics: empty metrics, `steps.metrics_class(...).empty()`.
    mask_config: how the mask is drawn, for what is scored; None for the default.
  """
  stacked = stacks.stack(trainable)
  stats = None
  if groups:
    by_forgery = mask_config is not None and mask_config.score == 'forgery'
    stats = (
      forgeries.init_stats(groups)
      if by_forgery
      else grad_stats.init_stats(groups.stacked(stacks).select(stacked))
    )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    opt_state=optimizer.init(stacked),
    mask=layer_mask.init_mask(groups) if groups else None,
    grad_stats=stats,
    metrics=metrics,
    nonfinite_step=jnp.zeros((), jnp.int32),
  )
