"""The optimizer chain, its schedule, and the transform that holds masked groups still.

`docs/methods.md`, Optimizer. [kin: Effort's Adam with L2 in the gradient] [ours: the masked
transform]
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from masm_jax.masking.groups import Groups


class GroupAdamState(NamedTuple):
  """State of `scale_by_group_adam`.

  Attributes:
    count: int32, for each leaf of the shape of its mask: updates that each group has had.
    mu: first moments, like the parameters.
    nu: second moments, like the parameters.
  """

  count: Any
  mu: Any
  nu: Any


def scale_by_group_adam(
  groups: Groups, *, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """Adam (arXiv 1412.6980) that corrects the bias of each group by that group's own updates.

  Inside `hold_masked`, a group that was off has moments of few gradients. Corrected by the steps of
  the whole run, its second moment would be far too small and its first steps back many times too
  large. With everything on it is `optax.scale_by_adam`. [ours]
  """

  def init(params: optax.Params) -> GroupAdamState:
    nothing = groups.expand(jnp.zeros(groups.shape, bool), params)
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    count = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.int32), nothing)
    return GroupAdamState(count=count, mu=zeros(), nu=zeros())

  def update(updates: Any, state: GroupAdamState, params: Any = None) -> Any:
    del params
    count = jax.tree.map(lambda n: n + 1, state.count)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)

    def scaled(n: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
      n = n.astype(jnp.float32)
      return (m / (1 - b1**n)) / (jnp.sqrt(v / (1 - b2**n)) + eps)

    return jax.tree.map(scaled, count, mu, nu), GroupAdamState(count, mu, nu)

  return optax.GradientTransformation(init, update)


class StartState(NamedTuple):
  """State of `decay_towards_start`.

  Attributes:
    start: the parameters as they began; 0 where they decay towards 0.
  """

  start: Any


def decay_towards_start(weight_decay: float) -> optax.GradientTransformation:
  """Adds `weight_decay * (parameter - start)`: L2-SP (arXiv 1802.01483).

  Decay towards 0 erases factors that begin as the pretrained weights' own. The classifier head
  begins at random and decays towards 0, as there.
  """

  def init(params: optax.Params) -> StartState:
    def begin(keys: tuple, leaf: jax.Array) -> jax.Array:
      path = jax.tree_util.keystr(keys, simple=True, separator='/')
      # A copy: the step donates the parameters and the state, which must not share buffers.
      return jnp.zeros_like(leaf) if path.startswith('head/') else jnp.array(leaf, copy=True)

    return StartState(jax.tree_util.tree_map_with_path(begin, params))

  def update(updates: Any, state: StartState, params: Any = None) -> Any:
    decayed = jax.tree.map(lambda u, p, s: u + weight_decay * (p - s), updates, params, state.start)
    return decayed, state

  return optax.GradientTransformation(init, update)


class LayerMaskState(NamedTuple):
  """State of `hold_masked`: the state of the optimizer inside."""

  inner: optax.OptState


def hold_masked(
  inner: optax.GradientTransformation, groups: Groups
) -> optax.GradientTransformationExtraArgs:
  """Lets a changing layer mask decide which groups an optimizer may touch.

  Masking the gradient is not enough: AdamW moves a weight through its momentum and its decay even
  where the gradient is 0. Here a group that is off keeps its parameters and its moments bit for
  bit: gradients are zeroed before the inner chain (so that clipping sees the active groups alone),
  updates after it, and the inner state is restored, counts of `scale_by_group_adam` included.

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
  config: ml_collections.ConfigDict,
  total_steps: int,
  warmup_steps: int,
  restart_steps: int = 0,
) -> optax.Schedule:
  """Learning rate by step: `constant` or `cosine`, after a linear warm-up.

  Args:
    config: `config.optim`: `learning_rate`, `schedule`, `warmup_from`, `final_learning_rate`.
    total_steps: where the cosine ends.
    warmup_steps: steps of linear warm-up from `warmup_from`; 0 for none.
    restart_steps: length of a cosine, after which the next one begins at the peak (SGDR, arXiv
      1608.03983); the first begins when the warm-up ends. 0 for one cosine to the last step.
  """
  peak = config.learning_rate
  if config.schedule == 'cosine':
    length = restart_steps or max(total_steps - warmup_steps, 1)
    once = optax.cosine_decay_schedule(peak, length, alpha=config.final_learning_rate / peak)
    main = (lambda step: once(step % length)) if restart_steps else once
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
      `adamw` decouples it. It pulls `decay_towards` zero or the start.
    schedule: learning rate by step.
    groups: what a mask switches; None for no mask.
  """
  decays = {'zero': optax.add_decayed_weights, 'start': decay_towards_start}
  decay = decays[config.decay_towards](config.weight_decay) if config.weight_decay else None
  adam = functools.partial(scale_by_group_adam, groups) if groups else optax.scale_by_adam
  chain = [
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else None,
    decay if config.name == 'adam' else None,
    adam(b1=config.b1, b2=config.b2, eps=config.eps),
    decay if config.name == 'adamw' else None,
    optax.scale_by_learning_rate(schedule),
  ]
  optimizer = optax.chain(*(part for part in chain if part is not None))
  return hold_masked(optimizer, groups) if groups else optax.with_extra_args_support(optimizer)
