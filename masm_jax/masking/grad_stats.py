"""Streaming mean and second moment of the task gradient, and the scores read from them.

`docs/methods.md`, Layer masks. [paper v1: layers are masked by the learning state of each subspace]
[paper v3: bias-variance characteristics of layer-wise gradients] [kin: BVG-LS, ACCV 2024,
bias-variance ratios of layer-wise gradients] [ours: the averages, exponential in training and plain
in a probe; their two halves]

Every average is kept as the sum of two, of the odd and of the even batches: two samples that share
no example. Together they are the average of all. Apart they tell whether a score is a signal: what
both halves rank alike is, what they rank by chance is noise.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from masm_jax.masking.groups import Groups

HALVES = 2
_GSNR_FLOOR = 1e-3  # Least variance of an element, as a share of its group's mean variance.


@flax.struct.dataclass
class GradStats:
  """Running averages of a gradient and of its square, in two halves.

  Attributes:
    count: int32 [], number of gradients seen, t.
    weight: float32 [2], what the weights of each half's gradients add up to; together 1 - a^t.
    mean: m of each half, a pair of trees shaped like the grouped trainable leaves, float32.
    square: s of each half, likewise.
  """

  count: jax.Array
  weight: jax.Array
  mean: tuple[Any, ...]
  square: tuple[Any, ...]


def init_stats(params: Mapping[str, Any]) -> GradStats:
  """Statistics that have seen nothing, for the grouped leaves `params`."""
  # Calls of their own: trees must not share buffers that a jitted step donates.
  zeros = lambda: tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(HALVES))
  return GradStats(
    count=jnp.zeros((), jnp.int32),
    weight=jnp.zeros(HALVES, jnp.float32),
    mean=zeros(),
    square=zeros(),
  )


def update_stats(stats: GradStats, grads: Mapping[str, Any], decay: float | None) -> GradStats:
  """`m <- a m + (1-a) g` and `s <- a s + (1-a) g^2`, with a = decay; g goes to one half.

  Args:
    stats: the statistics so far.
    grads: gradient of the task loss alone (no regularizer), shaped like a tree of `stats.mean`.
    decay: a, in [0, 1); None averages all gradients alike, `a = t / (t + 1)` after t of them.
  """
  if decay is None:
    decay = stats.count.astype(jnp.float32) / (stats.count + 1).astype(jnp.float32)
  share = (1 - decay) * jax.nn.one_hot(stats.count % HALVES, HALVES, dtype=jnp.float32)

  def add(half: int, old: Any, values: Any) -> Any:
    its_share = share[half]
    return jax.tree.map(lambda x, v: decay * x + its_share * v, old, values)

  squares = jax.tree.map(jnp.square, grads)
  return GradStats(
    count=stats.count + 1,
    weight=decay * stats.weight + share,
    mean=tuple(add(half, old, grads) for half, old in enumerate(stats.mean)),
    square=tuple(add(half, old, squares) for half, old in enumerate(stats.square)),
  )


def averages(stats: GradStats, half: int | None = None) -> tuple[Any, Any]:
  """The mean gradient and the mean square, corrected for what the weights lack to 1.

  Args:
    stats: the statistics.
    half: of the first (0) or the second (1) half alone; None for all gradients.
  """
  tiny = jnp.finfo(jnp.float32).tiny
  if half is not None:
    correction = 1.0 / jnp.maximum(stats.weight[half], tiny)
    return jax.tree.map(lambda x: x * correction, (stats.mean[half], stats.square[half]))
  correction = 1.0 / jnp.maximum(jnp.sum(stats.weight), tiny)
  pooled = lambda halves: jax.tree.map(lambda a, b: (a + b) * correction, *halves)
  return pooled(stats.mean), pooled(stats.square)


def group_scores(
  stats: GradStats,
  groups: Groups,
  params: Mapping[str, Any],
  *,
  kind: str,
  eps: float,
  half: int | None = None,
) -> jax.Array:
  """Scores every group by the gradients it has seen.

  With the averages m^ and s^, summed over a group:

  - `bvr`: `sum m^^2 / max(sum (s^ - m^^2), eps sum s^)`, the bias-variance ratio [kin: BVG-LS].
    Pure noise scores the noise floor, not 0: `noise_floor`.
  - `bvr_unbiased`: the same with the product of both halves' means in the place of `m^^2`. Pure
    noise scores 0 on average, of either sign [ours]. A half alone has no such product: `bvr`.
  - `gsnr`: the ratio per element, averaged over the group; the least variance of an element is a
    thousandth of the group's mean one.
  - `grad_norm`: `sqrt(sum s^)`, the root mean square norm of the gradient.
  - `rgn`: `grad_norm` over the norm of the group's weights [kin: Surgical Fine-Tuning, ICLR 2023].

  Args:
    stats: statistics of t gradients; at t = 0 all scores are 0.
    groups: the groups, [L, K].
    params: the grouped leaves themselves (for `rgn`).
    kind: `bvr`, `bvr_unbiased`, `gsnr`, `grad_norm` or `rgn`.
    eps: least variance, as a share of the mean square.
    half: see `averages`.

  Returns:
    float32 `[L, K]`.
  """
  tiny = jnp.finfo(jnp.float32).tiny
  mean, square = averages(stats, half)
  if kind in ('bvr', 'bvr_unbiased'):
    if kind == 'bvr_unbiased' and half is None:
      first, second = averages(stats, 0)[0], averages(stats, 1)[0]
      bias = groups.reduce(jax.tree.map(jnp.multiply, first, second))
    else:
      bias = groups.reduce(jax.tree.map(jnp.square, mean))
    total = groups.reduce(square)
    return bias / jnp.maximum(total - bias, jnp.maximum(eps * total, tiny))
  if kind == 'gsnr':
    variance = jax.tree.map(lambda m, s: jnp.maximum(s - m * m, 0.0), mean, square)
    sizes = groups.sizes(params)
    floor = groups.spread(_GSNR_FLOOR * groups.reduce(variance) / sizes, params)
    ratio = jax.tree.map(
      lambda m, v, f: m * m / jnp.maximum(jnp.maximum(v, f), tiny), mean, variance, floor
    )
    return groups.reduce(ratio) / sizes
  norm = jnp.sqrt(groups.reduce(square))
  if kind == 'grad_norm':
    return norm
  if kind == 'rgn':
    weight_norm = jnp.sqrt(groups.reduce(jax.tree.map(jnp.square, params)))
    return norm / jnp.maximum(weight_norm, tiny)
  raise ValueError(f'unknown score {kind!r}: use bvr, bvr_unbiased, gsnr, grad_norm or rgn')


def noise_floor(kind: str, *, decay: float | None, count: int | jax.Array) -> float | jax.Array:
  """What a score of pure noise is expected to be: bvr and gsnr of gradients whose mean is 0.

  With weights w_i of t independent gradients, `E m^2 = rho E g^2` where `rho = sum w_i^2 / (sum
  w_i)^2`: 1/t of a plain average, and `(1-a)/(1+a) (1+a^t)/(1-a^t)` of an exponential one. The
  score is `rho / (1 - rho)`: 1/(t - 1), and 1/18 for a = .9.

  Args:
    kind: of the score.
    decay: a; None for a plain average.
    count: t, above 1.

  Returns:
    The floor; 0 for `bvr_unbiased`; nan for norms, which have none.
  """
  if kind == 'bvr_unbiased':
    return 0.0
  if kind not in ('bvr', 'gsnr'):
    return float('nan')
  if decay is None:
    return 1.0 / (count - 1.0)
  power = decay**count
  rho = (1 - decay) / (1 + decay) * (1 + power) / (1 - power)
  return rho / (1 - rho)
