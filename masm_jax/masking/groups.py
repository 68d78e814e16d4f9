"""Groups: the sets of parameters that a layer mask switches on and off together."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from masm_jax import tree

Granularity = Literal['block', 'block_subspace', 'kernel_subspace']

EMBEDDINGS = 'embeddings'  # The layer of everything before the first block.


@dataclasses.dataclass(frozen=True)
class Groups:
  """Maps the leaves of a parameter tree to the entries of a mask `[L, K]`.

  With K > 1, a leaf in row l has a leading axis of K subspaces, and its slice k belongs to the
  group (l, k). With K = 1 the whole leaf belongs to (l, 0), whatever its axes are. Leaves without a
  row (the head) are never masked. A stack of n leaves (`tree.Stacks`) has n rows, and an axis of n
  before the others.

  Attributes:
    rows: leaf path -> row l, or name of a stack -> the rows of its leaves.
    names: the name of each row, L of them.
    num_columns: K.
  """

  rows: Mapping[str, int | tuple[int, ...]]
  names: tuple[str, ...]
  num_columns: int

  @property
  def shape(self) -> tuple[int, int]:
    """`(L, K)`."""
    return len(self.names), self.num_columns

  def select(self, params: Mapping[str, Any]) -> dict:
    """The leaves of `params` that belong to a group."""
    return tree.partition(params, self.rows.__contains__)[0]

  def stacked(self, stacks: tree.Stacks) -> 'Groups':
    """The same groups, of leaves in stacks; no stack mixes grouped leaves with others."""
    rows = {}
    for name, paths in stacks.paths.items():
      if name in self.rows:
        rows[name] = tuple(self.rows[path] for path in paths) if len(paths) > 1 else self.rows[name]
    return dataclasses.replace(self, rows=rows)

  def expand(self, mask: jax.Array, params: Mapping[str, Any]) -> dict:
    """Bool arrays that broadcast over the leaves of `params`: True where a parameter may move."""

    def leaf_mask(keys: tuple, leaf: jax.Array) -> jax.Array:
      path = jax.tree_util.keystr(keys, simple=True, separator='/')
      if path not in self.rows:
        return jnp.ones((1,) * leaf.ndim, bool)
      return self._on_leaf(mask, path, leaf)

    # Not `tree.map_with_path`: optax probes an optimizer with a tree that is no dict.
    return jax.tree_util.tree_map_with_path(leaf_mask, params)

  def reduce(self, params: Mapping[str, Any]) -> jax.Array:
    """Sums each group's leaves: `{path: leaf}` -> `[L, K]`; leaves without a row are left out."""
    nothing = jnp.zeros((1, self.num_columns), jnp.float32)
    parts: list[jax.Array] = [nothing]
    places: list[list[int]] = [[] for _ in self.names]  # Of each row's parts among all.
    for path, leaf in tree.flatten(params).items():
      if path in self.rows:
        own = np.atleast_1d(self.rows[path])
        for place, row in enumerate(own, start=sum(map(len, parts))):
          places[row].append(place)
        parts.append(leaf.reshape(len(own), self.num_columns, -1).sum(axis=-1))
    # Not a scattered sum, whose order is not the same every time on every device.
    most = max(map(len, places))
    padded = np.array([own + [0] * (most - len(own)) for own in places])
    return jnp.concatenate(parts)[padded].sum(axis=1)

  def spread(self, values: jax.Array, params: Mapping[str, Any]) -> dict:
    """Each group's value on its leaves, as `expand` does with a mask; 0 on leaves without a row."""

    def leaf_value(path: str, leaf: jax.Array) -> jax.Array:
      if path not in self.rows:
        return jnp.zeros((1,) * leaf.ndim, values.dtype)
      return self._on_leaf(values, path, leaf)

    return tree.map_with_path(leaf_value, params)

  def sizes(self, params: Mapping[str, Any]) -> jax.Array:
    """Number of parameters in each group, float32 `[L, K]`."""
    sums = [0] * len(self.names)
    for path, leaf in tree.flatten(params).items():
      if path in self.rows:
        rows = np.atleast_1d(self.rows[path])
        for row in rows:
          sums[row] += leaf.size // (len(rows) * self.num_columns)
    return jnp.asarray([[n] * self.num_columns for n in sums], jnp.float32)

  def _on_leaf(self, values: jax.Array, path: str, leaf: jax.Array) -> jax.Array:
    """What of `values [L, K]` is a leaf's, with axes that broadcast over it."""
    rows = self.rows[path]
    if isinstance(rows, tuple):
      own = values[np.asarray(rows)]  # [n, K]
      shape = own.shape if self.num_columns > 1 else own.shape[:1]
      return own.reshape(*shape, *(1,) * (leaf.ndim - len(shape)))
    return values[rows].reshape(-1, *(1,) * (leaf.ndim - 1))


def subspace_groups(paths: Iterable[str], num_subspaces: int, granularity: Granularity) -> Groups:
  """Groups of artifact factors, whose leaves `[K, ...]` lie in `backbone/block_NN/LAYER/`.

  Args:
    paths: paths of the leaves that a mask may switch.
    num_subspaces: K.
    granularity: what is switched as one: a `block` with all its subspaces (a mask `[L, 1]`), one
      subspace of all kernels of a block (`block_subspace`, `[L, K]`) or one subspace of one kernel
      (`kernel_subspace`, a row per kernel).

  Raises:
    ValueError: a path lies in no block.
  """
  row_of = {}
  for path in paths:
    if not (block := tree.block_of(path)):
      raise ValueError(f'{path} lies in no block, so that no layer mask can switch it')
    row_of[path] = block
    if granularity == 'kernel_subspace':
      row_of[path] = path[path.index(block) :].rpartition('/')[0]
  return _grouped(row_of, 1 if granularity == 'block' else num_subspaces)


def layer_groups(paths: Iterable[str], granularity: Granularity) -> Groups:
  """Groups of plain leaves: each layer of the backbone is one, a mask `[L, 1]`.

  A layer is a block; all before the first block is a layer too, and the last LayerNorm belongs to
  the last block. With `kernel_subspace` each module is a layer: a dense layer with its bias, a
  LayerNorm. [ours]

  Args:
    paths: paths of all leaves of `backbone/` that a mask may switch.
    granularity: see `subspace_groups`; leaves that are not decomposed have one column.
  """
  paths = list(paths)
  blocks = sorted({block for path in paths if (block := tree.block_of(path))})
  row_of = {}
  for path in paths:
    within = path.removeprefix('backbone/')
    if not within.startswith(('block_', 'ln_post/')):
      row_of[path] = EMBEDDINGS
    elif granularity == 'kernel_subspace':
      row_of[path] = within.rpartition('/')[0]
    else:
      row_of[path] = within.partition('/')[0] if within.startswith('block_') else blocks[-1]
  return _grouped(row_of, 1)


def _grouped(row_of: Mapping[str, str], num_columns: int) -> Groups:
  """Rows in the order of depth, then of names."""
  names = tuple(sorted(set(row_of.values()), key=lambda name: (name != EMBEDDINGS, name)))
  return Groups({path: names.index(row) for path, row in row_of.items()}, names, num_columns)
