"""Nested dictionaries of arrays: path names, patterns, partition and combine, stacks of leaves.

A parameter tree is a nested dict whose leaves are arrays. A leaf's path joins the keys by `/`, as
in `backbone/block_00/attn/q/kernel`; every pattern in the project is a regular expression that
has to match such a path in full.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

Tree = Mapping[str, Any]
Flat = dict[str, Any]


HEAD = 'head/'  # How the paths of the classifier head begin.
# Elements. A larger leaf is work enough by itself, and copying it is no longer cheap.
_MAX_STACKED = 2**17
_BLOCK = re.compile(r'(?:^|/)(block_\d+)(?:/|$)')


def block_of(path: str) -> str | None:
  """The block of the backbone that a leaf belongs to, None for all else.

  >>> block_of('backbone/block_03/attn/q/kernel')
  'block_03'
  >>> block_of('head/bias') is None
  True
  """
  found = _BLOCK.search(path)
  return found[1] if found else None


def flatten(tree: Tree) -> Flat:
  """Returns `{path: leaf}`, in the tree's own order; `unflatten` is its inverse.

  >>> flatten({'head': {'kernel': 1, 'bias': 2}})
  {'head/kernel': 1, 'head/bias': 2}
  """
  return traverse_util.flatten_dict(dict(tree), sep='/')


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested dict of `{path: leaf}`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> dict[str, Any]:
  """Applies `fn(path, leaf, *rest_leaves)` to every leaf; all trees have the same paths."""
  flats = [flatten(r) for r in rest]
  return unflatten(
    {path: fn(path, leaf, *(f[path] for f in flats)) for path, leaf in flatten(tree).items()}
  )


def partition(tree: Tree, predicate: Callable[[str], bool]) -> tuple[dict, dict]:
  """Splits a tree into (leaves whose path fulfils the predicate, the others); no empty branches.

  >>> partition({'a': {'x': 1, 'y': 2}, 'b': {'y': 3}}, lambda path: path.endswith('x'))
  ({'a': {'x': 1}}, {'a': {'y': 2}, 'b': {'y': 3}})
  """
  flat = flatten(tree)
  return (
    unflatten({p: x for p, x in flat.items() if predicate(p)}),
    unflatten({p: x for p, x in flat.items() if not predicate(p)}),
  )


def combine(*trees: Tree) -> dict[str, Any]:
  """Merges trees of disjoint leaves into one: the inverse of `partition`.

  >>> combine({'a': {'x': 1}}, {'a': {'y': 2}})
  {'a': {'x': 1, 'y': 2}}

  Raises:
    ValueError: two trees hold the same path.
  """
  merged: Flat = {}
  for tree in trees:
    flat = flatten(tree)
    if twice := merged.keys() & flat.keys():
      raise ValueError(f'leaves in more than one tree: {sorted(twice)[:5]}')
    merged.update(flat)
  return unflatten(merged)


def match_any(patterns: Iterable[str], path: str) -> bool:
  """True if one of the regular expressions matches the whole path."""
  return any(re.fullmatch(pattern, path) for pattern in patterns)


def param_count(tree: Tree) -> int:
  """Number of scalars in all leaves (arrays or `jax.ShapeDtypeStruct`s)."""
  return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in flatten(tree).values())


def param_bytes(tree: Tree) -> int:
  """Number of bytes in all leaves (arrays or `jax.ShapeDtypeStruct`s)."""
  return sum(
    int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
    for leaf in flatten(tree).values()
  )


def content_hash(tree: Tree) -> str:
  """SHA-256 over every leaf's path, type, shape and values, in hexadecimal; order does not matter.

  Args:
    tree: of arrays that this process can read whole.
  """
  digest = hashlib.sha256()
  for path, leaf in sorted(flatten(tree).items()):
    values = np.asarray(leaf)
    digest.update(f'{path} {values.dtype} {values.shape}\n'.encode())
    digest.update(values.tobytes())
  return digest.hexdigest()


def digests(tree: Any) -> dict[str, str]:
  """SHA-256 of the content of each part of a tree: of every leaf's path, type, shape and values.

  It does not depend on where the leaves lie: one device, eight, or several processes that hold
  each leaf whole give the same text.

  >>> import numpy as np
  >>> sorted(digests({'a': {'x': np.ones(2)}, 'b': np.zeros(3)}))
  ['a', 'b']

  Args:
    tree: of arrays that this process can read whole.

  Returns:
    The first name on the paths -> 64 hexadecimal digits.
  """
  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), np.asarray(leaf))
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]
  parts: dict[str, Any] = {}
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib frees the GIL.
    contents = pool.map(_leaf_digest, [leaf for _, leaf in leaves])
    for (path, _), content in sorted(zip(leaves, contents, strict=True), key=lambda x: x[0][0]):
      parts.setdefault(path.split('/')[0], hashlib.sha256()).update(path.encode() + content)
  return {name: digest.hexdigest() for name, digest in parts.items()}


def _leaf_digest(leaf: np.ndarray) -> bytes:
  digest = hashlib.sha256(f'{leaf.dtype} {leaf.shape}\n'.encode())
  digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
  return digest.digest()


def is_finite(leaf: Any) -> bool:
  """Whether an array holds no nan and no infinity; one of integers holds none.

  >>> import numpy as np
  >>> is_finite(np.array([1.0, np.nan])), is_finite(np.ones(2, int))
  (False, True)
  """
  values = np.asarray(leaf)
  return not jnp.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())


@dataclasses.dataclass(frozen=True)
class Stacks:
  """Leaves of one shape side by side: what is done to each of them is then done once. [ours]

  A model has hundreds of leaves of some ten shapes. An operation on each of them, where one on ten
  arrays would do, is time for tracing, compiling and loading a program, and a kernel of its own on
  an accelerator.

  Attributes:
    paths: name of a stack -> the paths of its leaves, in order; the name is the first of them. A
      leaf that is alone keeps its shape; n leaves of shape `[...]` make a stack `[n, ...]`.
  """

  paths: Mapping[str, tuple[str, ...]]

  def stack(self, params: Mapping[str, Any]) -> dict:
    """`{leaf path: [...]}` -> `{stack name: [n, ...]}`, both nested; no leaf may be missing."""
    flat = flatten(params)
    return unflatten(
      {
        name: jnp.stack([flat[path] for path in paths]) if len(paths) > 1 else flat[name]
        for name, paths in self.paths.items()
      }
    )

  def unstack(self, stacked: Mapping[str, Any]) -> dict:
    """The inverse of `stack`."""
    flat: Flat = {}
    for name, values in flatten(stacked).items():
      paths = self.paths[name]
      flat |= zip(paths, jnp.unstack(values) if len(paths) > 1 else (values,), strict=True)
    return unflatten({path: flat[path] for path in sorted(flat)})


def stacks_of(params: Mapping[str, Any], kind_of: Callable[[str], Hashable]) -> Stacks:
  """Stacks of the leaves that have the same name, shape, type and kind.

  Args:
    params: nested leaves; shapes are enough.
    kind_of: path -> what else must be the same.
  """
  alike = collections.defaultdict(list)
  for path, leaf in sorted(flatten(params).items()):  # In the order of stored states.
    alone = path if leaf.size > _MAX_STACKED else ''
    name = path.rpartition('/')[2]
    alike[kind_of(path), name, leaf.shape, jnp.dtype(leaf.dtype), alone].append(path)
  return Stacks({paths[0]: tuple(paths) for paths in alike.values()})
