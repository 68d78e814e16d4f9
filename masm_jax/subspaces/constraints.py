"""Orthogonality kept exactly: artifact factors are put back where the constraints hold.

[ours] `regularizer.mode = exact`. After each update the artifact bases of a kernel are projected
off the semantic subspace (where `w_sem` is above 0) and made orthonormal, in themselves and between
each other (where `w_self` and `w_cross` are), by Newton's iteration for the polar factor, the
nearest orthonormal basis. What a layer mask holds still stays bit for bit: subspaces that are on
give way to those that are off. A step of training is small, so that three iterations, each of which
squares the error, reach float32's rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from masm_jax import tree
from masm_jax.subspaces.regularizers import RegularizerConfig

_ITERATIONS = 3


def retract(
  basis: jax.Array,
  *,
  off: jax.Array | None = None,
  onto: jax.Array | None = None,
  is_on: jax.Array,
  orthonormal: bool,
) -> jax.Array:
  """Puts the bases that are on back onto the constraints.

  Args:
    basis: Q, float32 [K, d, q], near an orthonormal one: subspace k is spanned by the columns of
      `Q_k`. Those that are off fulfil the constraints.
    off: orthonormal columns (or columns of 0) that the bases are kept off, [d, r].
    onto: in its place, orthonormal columns that the bases are kept within, [d, m].
    is_on: bool [K], which subspaces may be changed.
    orthonormal: whether all columns of all subspaces are kept orthonormal.

  Returns:
    Q again, float32 [K, d, q]; what is off is the same to the bit.
  """
  count, dim, rank = basis.shape
  flat = basis.transpose(1, 0, 2).reshape(dim, count * rank)
  on = jnp.repeat(is_on, rank)
  if off is not None:
    flat = jnp.where(on[None], flat - off @ (off.T @ flat), flat)
  elif onto is not None:
    flat = jnp.where(on[None], onto @ (onto.T @ flat), flat)
  if orthonormal:
    # Each column that is on gives up all that it shares with one that is off, and half of what it
    # shares with another one that is on, which gives up the other half.
    share = jnp.where(on[:, None], 0.5, 1.0) * on[None].astype(jnp.float32)
    eye = jnp.eye(count * rank, dtype=jnp.float32)
    for _ in range(_ITERATIONS):
      flat = jnp.where(on[None], flat - flat @ (share * (flat.T @ flat - eye)), flat)
  return flat.reshape(dim, count, rank).transpose(1, 0, 2)


def constrain(
  trainable: Mapping[str, Any],
  reference: Mapping[str, Any],
  config: RegularizerConfig,
  on: Mapping[str, Any] | None,
) -> dict:
  """Every decomposed kernel's factors, back on the constraints.

  Args:
    trainable: holds `U` and `V` of each decomposed layer, after an update. Of a core there is
      nothing to keep: its bases are frozen. Balanced factors are only projected.
    reference: holds the semantic bases, see `layer.split_params`.
    config: which constraints there are: those whose weights are above 0.
    on: `Groups.expand(mask, trainable)`, which slices of the leaves may move; None for all.

  Returns:
    Trainable leaves again.
  """
  flat, start = tree.flatten(trainable), tree.flatten(reference)
  switches = tree.flatten(on) if on is not None else {}
  # Differences of products near 1: accelerators must not round them to TF32 or bfloat16.
  with jax.default_matmul_precision('float32'):
    for path in [path for path in flat if path.endswith(('/U', '/V'))]:
      owner, _, name = path.rpartition('/')
      if path not in start:
        continue
      side = (lambda x: x) if name == 'U' else (lambda x: jnp.swapaxes(x, -1, -2))
      basis = side(flat[path])
      moved = retract(
        basis,
        **(_semantic(start, path, side) if config.w_sem else {}),
        is_on=jnp.broadcast_to(jnp.ravel(switches.get(path, jnp.ones(1, bool))), basis.shape[:1]),
        orthonormal=bool(config.w_self) and f'{owner}/S' in flat,
      )
      flat[path] = side(moved)
  return tree.unflatten(flat)


def _semantic(
  start: Mapping[str, jax.Array], path: str, side: Callable[[jax.Array], jax.Array]
) -> dict[str, jax.Array]:
  """What the bases of one side are kept off, or where that is not stored, within."""
  if f'{path}_sem' in start:
    return {'off': side(start[f'{path}_sem'])}
  # A square factor in two parts: beside the semantic components there are the initial ones alone.
  initial = side(start[path])
  return {'onto': initial.transpose(1, 0, 2).reshape(initial.shape[1], -1)}
