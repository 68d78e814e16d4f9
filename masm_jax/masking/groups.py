"""Groups: the (block, subspace) pairs that a layer mask switches on and off."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from masm_jax import tree


@dataclasses.dataclass(frozen=True)
class Groups:
  """Maps the leaves of a trainable tree to the rows of a mask `[L, K]`.

  A leaf in row l has a leading axis of K subspaces, and its slice k belongs to the group (l, k):
  all decomposed kernels of one block share a row. Leaves without a row (the head) are never masked.

  Attributes:
    rows: leaf path -> row l.
    names: the name of each row, L of them.
    num_subspaces: K.
  """

  rows: Mapping[str, int]
  names: tuple[str, ...]
  num_subspaces: int

  @property
  def shape(self) -> tuple[int, int]:
    """`(L, K)`."""
    return len(self.names), self.num_subspaces

  def select(self, params: Mapping[str, Any]) -> dict:
    """The leaves of `params` that belong to a group."""
    return tree.partition(params, self.rows.__contains__)[0]

  def expand(self, mask: jax.Array, params: Mapping[str, Any]) -> dict:
    """Bool arrays that broadcast over the leaves of `params`: True where a parameter may move."""

    def leaf_mask(path: str, leaf: jax.Array) -> jax.Array:
      if path not in self.rows:
        return jnp.ones((1,) * leaf.ndim, bool)
      return mask[self.rows[path]].reshape(-1, *(1,) * (leaf.ndim - 1))

    return tree.map_with_path(leaf_mask, params)

  def reduce(self, params: Mapping[str, Any]) -> jax.Array:
    """Sums each group's leaves: `{path: [K, ...]}` -> `[L, K]`; leaves without a row are not."""
    sums = [jnp.zeros(self.num_subspaces, jnp.float32) for _ in self.names]
    for path, leaf in tree.flatten(params).items():
      if path in self.rows:
        sums[self.rows[path]] += leaf.sum(axis=tuple(range(1, leaf.ndim)))
    return jnp.stack(sums)

  def sizes(self, params: Mapping[str, Any]) -> jax.Array:
    """Number of parameters in each group, float32 `[L, K]`."""
    sums = [0] * len(self.names)
    for path, leaf in tree.flatten(params).items():
      if path in self.rows:
        sums[self.rows[path]] += leaf.size // self.num_subspaces
    return jnp.asarray([[n] * self.num_subspaces for n in sums], jnp.float32)


def block_groups(paths: list[str], num_subspaces: int) -> Groups:
  """Groups of (block l, subspace k) for leaves whose paths hold a `block_NN`.

  Args:
    paths: paths of the leaves `[K, ...]` that a mask may switch.
    num_subspaces: K.

  Raises:
    ValueError: a path lies in no block.
  """
  block_of = {}
  for path in paths:
    found = re.search(r'block_\d+', path)
    if not found:
      raise ValueError(f'{path} lies in no block, so that no layer mask can switch it')
    block_of[path] = found.group()
  names = tuple(sorted(set(block_of.values())))
  return Groups(
    {path: names.index(block) for path, block in block_of.items()}, names, num_subspaces
  )
