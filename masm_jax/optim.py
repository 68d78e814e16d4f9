"""The optimizer chain, its schedule, and the transform that holds masked groups still.

`method.md` section 6. [kin: Effort's Adam with L2 in the gradient] [ours: the masked transform]
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from masm_jax.masking.groups import Groups


class LayerMaskState(NamedTuple):
  """State of `hold_masked`: that of the optimizer inside."""

  inner: optax.OptState


def hold_masked(
  inner: optax.GradientTransformation, groups: Groups
) -> optax.GradientTransformationExtraArgs:
  """Lets a changing layer mask decide which groups an optimizer may touch.

  Masking the gradient is not enough: AdamW moves a weight through its momentum and its decay even
  where the gradient is 0. Here a group that is off keeps its parameters and its moments bit for
  bit: gradients are zeroed before the inner chain (so that clipping sees the active groups alone),
  updates after it, and the inner state is restored. Counters go on for all.

  Args:
    inner: the optimizer, weight decay and learning rate included.
    groups: which leaf slices each entry of the mask switches.

  Returns:
    A transformation whose `update` takes `mask=`, bool [L, K]: an array, so that a new mask
    compiles nothing.
  """
  inner = optax.with_extra_args_support(inner)

  def init(params: optax.Params) -> LayerMaskState:
    return LayerMaskState(inner.init(params))

  def update(
    updates: Any, state: LayerMaskState, params: Any = None, *, mask: jax.Array, **extra: Any
  ) -> tuple[Any, LayerMaskState]:
    on = groups.expand(mask, updates)
    zero = lambda keep, x: jnp.where(keep, x, jnp.zeros_like(x))
    updates = jax.tree.map(zero, on, updates)
    updates, inner_state = inner.update(updates, state.inner, params, **extra)
    updates = jax.tree.map(zero, on, updates)
    on_state = optax.tree_utils.tree_map_params(
      inner,
      lambda _, keep: keep,
      inner_state,
      on,
      transform_non_params=lambda _: jnp.ones((), bool),
    )
    held = jax.tree.map(jnp.where, on_state, inner_state, state.inner)
    return updates, LayerMaskState(held)

  return optax.GradientTransformationExtraArgs(init, update)


def make_schedule(
  config: ml_collections.ConfigDict, total_steps: int, warmup_steps: int
) -> optax.Schedule:
  """Learning rate by step: `constant` or `cosine`, after a linear warm-up.

  Args:
    config: `config.optim`: `learning_rate`, `schedule`, `warmup_from`, `final_learning_rate`.
    total_steps: where the cosine ends.
    warmup_steps: steps of linear warm-up from `warmup_from`; 0 for none.
  """
  peak = config.learning_rate
  if config.schedule == 'cosine':
    main = optax.cosine_decay_schedule(
      peak, max(total_steps - warmup_steps, 1), alpha=config.final_learning_rate / peak
    )
  else:
    main = optax.constant_schedule(peak)
  if not warmup_steps:
    return main
  warmup = optax.linear_schedule(config.warmup_from, peak, warmup_steps)
  return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
  config: ml_collections.ConfigDict, schedule: optax.Schedule, groups: Groups | None
) -> optax.GradientTransformationExtraArgs:
  """The chain `clip -> L2 -> Adam -> (decoupled decay) -> learning rate`, under the layer mask.

  Args:
    config: `config.optim`. `adam` adds weight decay to the gradient, as torch's Adam does (L2);
      `adamw` decouples it.
    schedule: learning rate by step.
    groups: what a mask switches; None for no mask.
  """
  decay = optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None
  chain = [
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else None,
    decay if config.name == 'adam' else None,
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    decay if config.name == 'adamw' else None,
    optax.scale_by_learning_rate(schedule),
  ]
  optimizer = optax.chain(*(part for part in chain if part is not None))
  return hold_masked(optimizer, groups) if groups else optax.with_extra_args_support(optimizer)
