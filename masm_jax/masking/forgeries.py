"""How much each artifact subspace of each layer still learns, by forgery. [ours]

The paper's abstract masks layers by "the learning state of each artifact subspace", without an
equation that is known to us. Here that state is a number for each forgery: the mean, over its
examples, of the loss's derivative by a gate on what a subspace adds in a layer. A forgery that is
told apart already, or that a subspace does not serve, has one near 0. The score of a group sums
their sizes, so that every forgery counts alike, however rare it is.

The averages are kept in two halves, as `grad_stats` does, and for the same reason.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from masm_jax import tree
from masm_jax.masking.grad_stats import HALVES
from masm_jax.masking.groups import Groups

NUM_FORGERIES = 64  # Real faces are the first; whatever is beyond shares the last place.


@flax.struct.dataclass
class ForgeryStats:
  """Running averages of the gates' derivatives.

  Attributes:
    count: int32 [], batches seen.
    weight: float32 [2, 1, 1, F], what the weights of each half's batches add up to, by forgery: a
      batch without a forgery says nothing of it.
    mean: float32 [2, L, K, F].
  """

  count: jax.Array
  weight: jax.Array
  mean: jax.Array


def init_stats(groups: Groups) -> ForgeryStats:
  """Statistics that have seen nothing."""
  return ForgeryStats(
    count=jnp.zeros((), jnp.int32),
    weight=jnp.zeros((HALVES, 1, 1, NUM_FORGERIES), jnp.float32),
    mean=jnp.zeros((HALVES, *groups.shape, NUM_FORGERIES), jnp.float32),
  )


def open_gates(groups: Groups, params: Mapping[str, Any], batch_size: int) -> dict:
  """Gates of 1 for the layers of the groups, as `subspaces.layer.SubspaceDense` reads them.

  Args:
    groups: of artifact factors.
    params: the trainable parameters; shapes are enough.
    batch_size: B.

  Returns:
    `{owner: {'artifact': float32 [B, K]}}`, nested as the layers are.
  """
  owners = {
    path.rpartition('/')[0]: len(leaf)
    for path, leaf in tree.flatten(params).items()
    if path in groups.rows
  }
  ones = {f'{owner}/artifact': jnp.ones((batch_size, k)) for owner, k in owners.items()}
  return tree.unflatten(ones)


def update_stats(
  stats: ForgeryStats,
  gate_grads: Mapping[str, Any],
  forgeries: jax.Array,
  groups: Groups,
  decay: float,
) -> ForgeryStats:
  """`m_f <- a m_f + (1-a) d_f` where the batch has examples of f, with a = decay.

  Args:
    stats: the statistics so far.
    gate_grads: of the batch's mean task loss, shaped like `open_gates`.
    forgeries: int [B], 0 real, or the forgery.
    groups: the groups [L, K].
    decay: a, in [0, 1).
  """
  rows = {path.rpartition('/')[0]: row for path, row in groups.rows.items()}
  of_rows = [jnp.zeros((len(forgeries), groups.num_columns)) for _ in groups.names]
  for path, grads in tree.flatten(gate_grads).items():
    row = rows[path.rpartition('/')[0]]
    of_rows[row] += grads if groups.num_columns > 1 else grads.sum(axis=1, keepdims=True)
  is_of = jax.nn.one_hot(jnp.minimum(forgeries, NUM_FORGERIES - 1), NUM_FORGERIES)  # [B, F]
  examples = is_of.sum(axis=0)[None, None]  # [1, 1, F]
  # The gradient of a mean over B examples: of each example's own loss it is a B-th part.
  sums = len(forgeries) * jnp.einsum('lbk,bf->lkf', jnp.stack(of_rows), is_of)
  share = jnp.where(examples > 0, 1 - decay, 0.0)
  half = jax.nn.one_hot(stats.count % HALVES, HALVES)[:, None, None, None]
  add = lambda old, value: (1 - share)[None] * old + half * (share * value)[None]
  return ForgeryStats(
    count=stats.count + 1,
    weight=add(stats.weight, jnp.ones_like(share)),
    mean=add(stats.mean, sums / jnp.maximum(examples, 1.0)),
  )


def states(stats: ForgeryStats, half: int | None = None) -> jax.Array:
  """The learning state of each group, by forgery: float32 [L, K, F]; 0 for forgeries never seen.

  Args:
    stats: the statistics.
    half: of the first (0) or the second (1) half of the batches alone; None for all.
  """
  which = slice(None) if half is None else slice(half, half + 1)
  weight = stats.weight[which].sum(axis=0)
  mean = stats.mean[which].sum(axis=0)
  return jnp.where(weight > 0, mean / jnp.where(weight > 0, weight, 1.0), 0.0)


def group_scores(stats: ForgeryStats, half: int | None = None) -> jax.Array:
  """`sum_f |state_f|` of each group, float32 [L, K]; see `states`."""
  return jnp.abs(states(stats, half)).sum(axis=-1)
