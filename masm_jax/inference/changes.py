"""What training added to a pretrained detector, in K parts that can be switched off one by one.

`W(g) = W_0 + sum_k g_k D_k`: `W_0` is the pretrained kernel, and `D_k = U_k S_k V_k - (U_k S_k
V_k)_0` is what training added in artifact subspace k. [ours] A method without subspaces has one
part, `D = W - W_0`. The head began at random: it is part of every `W(g)`, and no gate switches it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from masm_jax import tree
from masm_jax.inference.trained import AdaptedRun
from masm_jax.subspaces import layer as subspace
from masm_jax.subspaces import parametrization


class LowRank(NamedTuple):
  """The K changes of one kernel as products, `D_k = left_k right_k`.

  Attributes:
    left: float32 [K, d_in, m].
    right: float32 [K, m, d_out].
  """

  left: jax.Array
  right: jax.Array

  def total(self, gates: jax.Array) -> jax.Array:
    """`sum_k gates_k D_k`, float32 [d_in, d_out]; gates [K]."""
    gated = self.left * gates[:, None, None]
    return jnp.einsum('kdm,kmf->df', gated, self.right, precision='highest')


class Dense(NamedTuple):
  """The K changes of one parameter as they are.

  Attributes:
    values: float32 [K, *shape of the parameter].
  """

  values: jax.Array

  def total(self, gates: jax.Array) -> jax.Array:
    """`sum_k gates_k D_k`, of the parameter's shape; gates [K]."""
    return jnp.tensordot(gates, self.values, axes=1, precision='highest')


class Changes(NamedTuple):
  """A pretrained detector and what training added to it.

  Attributes:
    base: plain parameters `{'backbone': ..., 'head': ...}`: the pretrained backbone under the
      trained head.
    parts: path of a parameter -> its K changes.
    num_parts: K.
  """

  base: dict[str, Any]
  parts: dict[str, LowRank | Dense]
  num_parts: int

  def at(self, gates: jax.Array) -> dict[str, Any]:
    """Plain parameters with change k switched to `gates_k`; gates float32 [K]."""
    return apply(self.base, self.parts, gates)


def apply(base: Mapping[str, Any], parts: Mapping[str, Any], gates: jax.Array) -> dict[str, Any]:
  """`W_0 + sum_k g_k D_k` for every changed parameter, the others as they are. Pure."""
  flat = tree.flatten(base)
  return tree.unflatten(
    {path: x + parts[path].total(gates) if path in parts else x for path, x in flat.items()}
  )


def learned_changes(run: AdaptedRun) -> Changes:
  """What a run's training added to the pretrained backbone.

  With artifact subspaces there is a part for each of the K; for every other method, and where
  parameters beside the factors were trained, one part for all.

  Args:
    run: as its method keeps it; leaves placed on a mesh or not.
  """
  initial, final = tree.flatten(run.initial), tree.flatten(run.trainable)
  frozen = tree.flatten(run.frozen)
  owners = subspace.decomposed_layers(run.frozen)
  beside = [
    path
    for path in final
    if path.rpartition('/')[0] not in owners and not path.startswith(tree.HEAD)
  ]
  base = _plain(run, run.initial) | {'head': _plain(run, run.trainable)['head']}
  if owners and not beside:
    parts: dict[str, LowRank | Dense] = {
      f'{owner}/kernel': _low_rank(
        *(subspace.layer_factors({**frozen, **leaves}, owner) for leaves in (initial, final))
      )
      for owner in owners
    }
    return Changes(base, parts, next(iter(parts.values())).left.shape[0])
  before = tree.flatten(base['backbone'])
  after = tree.flatten(_plain(run, run.trainable)['backbone'])
  parts = {
    f'backbone/{path}': Dense((x - before[path])[None])
    for path, x in after.items()
    if np.any(x != before[path])
  }
  return Changes(base, parts, 1)


def _plain(run: AdaptedRun, trainable: Any) -> dict[str, Any]:
  """Merged parameters, on the host."""
  return jax.device_get(jax.jit(run.method.merge)(jax.device_get(trainable), run.frozen))


def _low_rank(before: Mapping[str, Any], after: Mapping[str, Any]) -> LowRank:
  """`left_1 right_1 - left_0 right_0` as one product of twice the rank."""
  lefts = [np.asarray(parametrization.left_factor(factors)) for factors in (after, before)]
  rights = [np.asarray(factors['V']) for factors in (after, before)]
  return LowRank(np.concatenate([lefts[0], -lefts[1]], axis=2), np.concatenate(rights, axis=1))


def to_arrays(parts: Mapping[str, LowRank | Dense]) -> dict[str, np.ndarray]:
  """The changes as named arrays, for a file: `PATH/left` and `PATH/right`, or `PATH/values`."""
  return {
    f'{path}/{name}': np.asarray(value, np.float32)
    for path, part in parts.items()
    for name, value in part._asdict().items()
  }


def array_shapes(
  names: Mapping[str, tuple[int, ...]], params: Mapping[str, Any], num_parts: int
) -> dict[str, tuple[int, ...]]:
  """The shapes that arrays of these names must have, given the parameters that they change.

  Args:
    names: name -> shape, as a file claims; of low ranks the rank is taken from it.
    params: plain parameters.
    num_parts: K.

  Returns:
    Name -> shape. What belongs to no parameter is left out, the partner of a product is not.
  """
  flat = tree.flatten(params)
  wanted: dict[str, tuple[int, ...]] = {}
  for name, shape in names.items():
    path, _, kind = name.rpartition('/')
    if path not in flat or path.startswith(tree.HEAD):
      continue
    of = flat[path].shape
    if kind == 'values':
      wanted[name] = (num_parts, *of)
    elif kind in ('left', 'right') and len(of) == 2 and len(shape) == 3:
      rank = shape[2] if kind == 'left' else shape[1]
      rank = min(rank, sum(of))
      wanted.setdefault(f'{path}/left', (num_parts, of[0], rank))
      wanted.setdefault(f'{path}/right', (num_parts, rank, of[1]))
  return wanted


def parts_of(arrays: Mapping[str, np.ndarray]) -> dict[str, LowRank | Dense]:
  """The changes that `to_arrays` named; arrays of other names are left out.

  Args:
    arrays: by name, of the shapes that `array_shapes` asks for.
  """
  parts: dict[str, LowRank | Dense] = {}
  for name, value in arrays.items():
    path, _, kind = name.rpartition('/')
    if kind == 'values':
      parts[path] = Dense(value)
    elif kind == 'left':
      parts[path] = LowRank(value, arrays[f'{path}/right'])
  return parts


def from_arrays(
  arrays: Mapping[str, np.ndarray], params: Mapping[str, Any], num_parts: int
) -> Changes:
  """What training added to a detector with these (final) parameters.

  Args:
    arrays: of the shapes that `array_shapes` asks for.
    params: plain parameters of the detector, every change switched on.
    num_parts: K.
  """
  parts = parts_of(arrays)
  off = jax.jit(apply)(params, parts, jnp.full((num_parts,), -1.0, jnp.float32))
  return Changes(jax.device_get(off), parts, num_parts)
