"""Where arrays lie on a mesh of eight devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from masm_jax import sharding
from masm_jax.errors import UserError


def test_mesh_axes():
  mesh = sharding.make_mesh(fsdp=4)
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 4, 'tensor': 1}
  with pytest.raises(UserError, match=r'mesh.fsdp = 3 does not divide the 8 devices'):
    sharding.make_mesh(fsdp=3)


def test_batches_divide_over_data_and_fsdp():
  mesh = sharding.make_mesh(fsdp=4)
  batch = sharding.place_batch({'x': np.arange(16.0).reshape(16, 1)}, mesh)['x']
  assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 1)}
  np.testing.assert_array_equal(batch, np.arange(16.0).reshape(16, 1))
  with pytest.raises(UserError, match=r'eval.batch_size = 12 does not divide over 8 devices'):
    sharding.check_batch_size(12, mesh, 'eval.batch_size')


def test_only_large_frozen_leaves_are_split_along_their_longest_divisible_axis():
  shape = lambda *dims: jax.ShapeDtypeStruct(dims, np.float32)
  leaves = {
    'large': shape(1024, 2048),
    'odd': shape(4095, 1024),
    'small': shape(512, 512),
    'none': shape(1023, 2047),
  }
  split = sharding.frozen_sharding(leaves, sharding.make_mesh(fsdp=4))
  specs = {name: value.spec for name, value in split.items()}
  assert specs == {
    'large': PartitionSpec(None, 'fsdp'),
    'odd': PartitionSpec(None, 'fsdp'),
    'small': PartitionSpec(),
    'none': PartitionSpec(),
  }
  whole = sharding.frozen_sharding(leaves, sharding.make_mesh())
  assert {value.spec for value in whole.values()} == {PartitionSpec()}


def test_place_puts_values_where_they_belong():
  mesh = sharding.make_mesh(fsdp=8)
  values = {'w': np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32)}
  placed = sharding.place(values, sharding.frozen_sharding(values, mesh))['w']
  assert {shard.data.shape for shard in placed.addressable_shards} == {(256, 1024)}
  np.testing.assert_array_equal(placed, values['w'])


def test_nothing_is_put_on_a_device_that_it_does_not_belong_to(tiny_run, monkeypatch):
  """Training on the last four devices, kernels split over two of them: the others stay empty."""
  monkeypatch.setattr(sharding, '_MIN_SPLIT_BYTES', 256)  # These kernels are small.
  before = {id(array) for array in jax.live_arrays()}
  with jax.numpy_dtype_promotion('standard'):
    run = tiny_run('masm', sharding.make_mesh(2, devices=jax.devices()[4:]))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(run.trainable))
    run.params = None
    run.step()
  kernel = run.frozen['backbone']['block_00']['attn']['q']['kernel_sem']
  assert {shard.data.shape for shard in kernel.addressable_shards} == {(24, 12)}
  ours = [array for array in jax.live_arrays() if id(array) not in before and array.size > 100]
  assert len(ours) > 50
  assert {device for array in ours for device in array.devices()} == set(jax.devices()[4:])
