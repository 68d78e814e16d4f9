"""Caches the factors of a decomposition on disk, so that a run starts in a second."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from masm_jax import files, tree
from masm_jax.backbones import mapped

Factors = dict[str, np.ndarray]


class ReadOnly(str):
  """The folder of a cache that is another's: it is read and never written."""

  __slots__ = ()


class FactorCache:
  """One file of a cache, named after all that its factors depend on.

  Args:
    folder: of the cache; a `ReadOnly` one is not written.
    kernels: path -> W, float32 [d_in, d_out].
    fields: what of the config decides how they are split.
    shapes: path -> the shapes of the factors that every entry has.
  """

  def __init__(
    self,
    folder: str,
    kernels: Mapping[str, jax.Array],
    *,
    fields: tuple,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
  ):
    self._is_read_only = isinstance(folder, ReadOnly)
    self._path = pathlib.Path(folder) / f'{_key(kernels, fields)[:32]}.safetensors'
    self._shapes = shapes

  def read(self) -> dict[str, Factors] | None:
    """The factors, mapped into memory; None if there are none.

    They are held to the digest that the file holds, and are finite. A damaged file is set aside, or
    left where it is in a `ReadOnly` folder. One that is whole is never replaced, so that what is
    mapped stays as it is.
    """
    if not self._path.is_file():  # Opening a pipe would wait for ever.
      return None
    try:
      factors, digest = self._map()
      is_whole = _is_whole(factors, digest)
    except (OSError, OverflowError, ValueError, KeyError, TypeError,
            AttributeError, safetensors.SafetensorError):  # fmt: skip
      is_whole = False
    if is_whole:
      return factors
    if self._is_read_only:
      logging.warning('%s is damaged: the kernels are decomposed anew', self._path)
    else:
      files.set_aside(self._path)
    return None

  def _map(self) -> tuple[dict[str, Factors], str]:
    """The factors of a file whose header makes sense, and their digest, '' if it has none.

    Raises:
      Many types of errors, if it does not.
    """
    with safetensors.safe_open(self._path, 'np') as file:  # Checks all sizes, offsets and types.
      digest = (file.metadata() or {}).get('digest', '')
    factors: dict[str, Factors] = {}
    for name, array in mapped.arrays(self._path).items():
      owner, _, leaf = name.rpartition('/')
      factors.setdefault(owner, {})[leaf] = array
    for path, shapes in self._shapes.items():
      if any(factors[path][name].shape != shape for name, shape in shapes.items()):
        raise ValueError(f'{path} has factors of other shapes')
    if factors.keys() != self._shapes.keys():
      raise ValueError('it holds other kernels')
    return factors, digest

  def write(self, factors: Mapping[str, Factors]) -> None:
    """Keeps the factors, if that can be: without them a run is only slower to start."""
    if self._is_read_only:
      return
    flat = {
      f'{owner}/{leaf}': value
      for owner, leaves in factors.items()
      for leaf, value in leaves.items()
    }
    try:
      if self.read() is not None:  # What another process wrote meanwhile may be mapped already.
        return
      # Whole or not at all, also among several processes and on a disk that fills up.
      files.write_arrays(self._path, flat, {'digest': _digest(factors)})
    except OSError as error:
      logging.warning('the decomposition cannot be kept in %s: %s', self._path.parent, error)


def _is_whole(factors: Mapping[str, Factors], digest: str) -> bool:
  """Whether factors are what was written; of a file without a digest, whether they are finite."""
  if digest:
    return digest == _digest(factors)
  return all(tree.is_finite(leaf) for leaves in factors.values() for leaf in leaves.values())


def _digest(factors: Mapping[str, Factors]) -> str:
  """Of the names, shapes and values of all factors."""
  return tree.digests({'factors': factors})['factors']


def each_kernel(work: Callable[..., Any], *operands: Iterable[Any]) -> Iterable[Any]:
  """`map`, a kernel per core at a time; one after the other where they are only traced."""
  operands = [list(operand) for operand in operands]
  if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(operands)):
    yield from map(work, *operands)
    return
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    yield from pool.map(work, *operands)


def _key(kernels: Mapping[str, jax.Array], fields: tuple) -> str:
  digest = hashlib.sha256()
  digest.update(repr(('decomposition', 2, fields)).encode())
  contents = each_kernel(
    lambda kernel: hashlib.sha256(np.ascontiguousarray(kernel, np.float32).data).digest(),
    kernels.values(),
  )
  for (path, kernel), content in zip(kernels.items(), contents, strict=True):
    digest.update(f'{path} {kernel.shape} {kernel.dtype}'.encode() + content)
  return digest.hexdigest()
