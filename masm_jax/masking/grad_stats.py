"""Streaming mean and second moment of the task gradient, and the scores read from them.

`docs/methods.md`, Layer masks. [paper v1: layers are masked by the learning state of each subspace]
[paper v3: bias-variance characteristics of layer-wise gradients] [kin: BVG-LS, ACCV 2024,
bias-variance ratios of layer-wise gradients] [ours: the averages, exponential in training and plain
in a probe]
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from masm_jax.masking.groups import Groups


@flax.struct.dataclass
class GradStats:
  """Running averages of a gradient and of its square.

  Attributes:
    count: int32 [], number of gradients seen, t.
    mean: m, shaped like the grouped trainable leaves, float32.
    square: s, likewise.
  """

  count: jax.Array
  mean: Any
  square: Any


def init_stats(params: Mapping[str, Any]) -> GradStats:
  """Statistics that have seen nothing, for the grouped leaves `params`."""
  # Two calls of zeros_like: mean and square must not share buffers that a jitted step donates.
  return GradStats(
    count=jnp.zeros((), jnp.int32),
    mean=jax.tree.map(jnp.zeros_like, params),
    square=jax.tree.map(jnp.zeros_like, params),
  )


def update_stats(stats: GradStats, grads: Mapping[str, Any], decay: float | None) -> GradStats:
  """`m <- a m + (1-a) g` and `s <- a s + (1-a) g^2`, with a = decay.

  Args:
    stats: the statistics so far.
    grads: gradient of the task loss alone (no regularizer), shaped like `stats.mean`.
    decay: a, in [0, 1); None averages all gradients alike, `a = t / (t + 1)` after t of them.
  """
  if decay is None:
    decay = stats.count.astype(jnp.float32) / (stats.count + 1).astype(jnp.float32)
  mean = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, stats.mean, grads)
  square = jax.tree.map(lambda s, g: decay * s + (1 - decay) * g * g, stats.square, grads)
  return GradStats(count=stats.count + 1, mean=mean, square=square)


def group_scores(
  stats: GradStats,
  groups: Groups,
  params: Mapping[str, Any],
  *,
  kind: str,
  decay: float | None,
  eps: float,
) -> jax.Array:
  """Scores every group by the gradients it has seen.

  With the bias-corrected `m^ = m / (1 - a^t)` and `s^ = s / (1 - a^t)` (plain averages have no
  such bias), summed over a group:

  - `bvr`: `sum m^^2 / max(sum (s^ - m^^2), eps)`, the bias-variance ratio [kin: BVG-LS].
  - `gsnr`: the same ratio per element, averaged over the group.
  - `grad_norm`: `sqrt(sum s^)`, the root mean square norm of the gradient.
  - `rgn`: `grad_norm` over the norm of the group's weights [kin: Surgical Fine-Tuning, ICLR 2023].

  Args:
    stats: statistics of t gradients; at t = 0 all scores are 0.
    groups: the groups, [L, K].
    params: the grouped leaves themselves (for `rgn`).
    kind: `bvr`, `gsnr`, `grad_norm` or `rgn`.
    decay: a, as given to `update_stats`.
    eps: least variance (and least weight norm).

  Returns:
    float32 `[L, K]`.
  """
  mean, square = stats.mean, stats.square
  if decay is not None:
    count = jnp.maximum(stats.count, 1).astype(jnp.float32)
    correction = 1.0 / (1.0 - jnp.asarray(decay, jnp.float32) ** count)
    mean, square = jax.tree.map(lambda x: x * correction, (mean, square))
  variance = jax.tree.map(lambda m, s: s - m * m, mean, square)
  if kind == 'bvr':
    bias = groups.reduce(jax.tree.map(jnp.square, mean))
    return bias / jnp.maximum(groups.reduce(variance), eps)
  if kind == 'gsnr':
    ratio = jax.tree.map(lambda m, v: m * m / jnp.maximum(v, eps), mean, variance)
    return groups.reduce(ratio) / groups.sizes(params)
  norm = jnp.sqrt(groups.reduce(square))
  if kind == 'grad_norm':
    return norm
  if kind == 'rgn':
    weight_norm = jnp.sqrt(groups.reduce(jax.tree.map(jnp.square, params)))
    return norm / jnp.maximum(weight_norm, eps)
  raise ValueError(f'unknown score {kind!r}: use bvr, gsnr, grad_norm or rgn')
