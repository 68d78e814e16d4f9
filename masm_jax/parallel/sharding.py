"""Device mesh, placement rules and batch placement: one path from a laptop to a pod."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from masm_jax import tree
from masm_jax.errors import UserError

# Frozen leaves above this size are split over `fsdp`; smaller ones cost more to gather than keep.
_MIN_SPLIT_BYTES = 4 * 2**20


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh `(data, fsdp, tensor)`; `tensor` has size 1.

  Args:
    fsdp: devices that share one copy of the frozen kernels; batches are split over them too.
    devices: which devices; all of all processes by default.

  Raises:
    UserError: the devices cannot be dealt out so.
  """
  devices = jax.devices() if devices is None else devices
  if fsdp < 1 or len(devices) % fsdp:
    raise UserError(f'mesh.fsdp = {fsdp} does not divide the {len(devices)} devices')
  # Auto: jax's default of explicit axes would ask every operation for its sharding.
  return jax.make_mesh(
    (len(devices) // fsdp, fsdp, 1),
    ('data', 'fsdp', 'tensor'),
    devices=devices,
    axis_types=(AxisType.Auto,) * 3,
  )


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
  """Raises a UserError unless a global batch divides evenly over the devices that split it."""
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size < 1 or batch_size % parts:
    raise UserError(
      f'{field} = {batch_size} does not divide over {parts} devices: use a multiple of {parts}'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same value on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def frozen_sharding(frozen: Mapping[str, Any], mesh: Mesh) -> dict:
  """Shardings of frozen leaves: large ones split over `fsdp` along their longest divisible axis.

  Args:
    frozen: nested dict of arrays or `jax.ShapeDtypeStruct`s.
    mesh: from `make_mesh`.
  """
  size = mesh.shape['fsdp']

  def rule(path: str, leaf: Any) -> NamedSharding:
    del path
    axes = [axis for axis in np.argsort(leaf.shape)[::-1] if leaf.shape[axis] % size == 0]
    if size == 1 or not axes or tree.param_bytes({'leaf': leaf}) < _MIN_SPLIT_BYTES:
      return replicated(mesh)
    spec = [None] * len(leaf.shape)
    spec[axes[0]] = 'fsdp'
    return NamedSharding(mesh, PartitionSpec(*spec))

  return tree.map_with_path(rule, frozen)


def place_frozen(values: Any, mesh: Mesh) -> Any:
  """Puts frozen host leaves, one tree or a tuple of trees, where `frozen_sharding` says."""
  if isinstance(values, tuple):
    return tuple(place_frozen(part, mesh) for part in values)
  return place(values, frozen_sharding(values, mesh))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays `[B, ...]` of this process's rows `[B / processes, ...]`."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()
  }


def agree(values: Any) -> Any:
  """The values of process 0 on every process, leaf by leaf, where they are not the same anyway.

  What each process computes for itself, an SVD say, may differ by rounding or in its signs where
  the machines differ. Sums over processes would then mix different models.

  Args:
    values: a tree of host arrays, of the same shapes on every process.
  """
  if jax.process_count() == 1:
    return values
  leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, order='C'), values))
  sums = np.array([zlib.crc32(leaf.data) for leaf in leaves], np.uint32)
  differs = (multihost_utils.process_allgather(sums) != sums).any(axis=0)
  differs = multihost_utils.process_allgather(differs).any(axis=0)
  if differs.any():
    logging.info('%d arrays differ between the processes: those of process 0 hold', differs.sum())
  for i in np.flatnonzero(differs):
    leaves[i] = np.asarray(multihost_utils.broadcast_one_to_all(leaves[i]))
  return jax.tree.unflatten(structure, leaves)


def place(values: Any, shardings: Any) -> Any:
  """Puts host values, the same on every process, where `shardings` (a tree or one for all) says."""
  if isinstance(shardings, NamedSharding):
    shardings = jax.tree.map(lambda _: shardings, values)

  def put(value: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

  return jax.tree.map(put, values, shardings)
