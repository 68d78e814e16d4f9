"""Where arrays lie on a mesh of eight devices."""

import zlib

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from masm_jax.errors import UserError
from masm_jax.parallel import sharding


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
  mesh = sharding.make_mesh(2, devices=jax.devices()[4:])
  with jax.numpy_dtype_promotion('standard'):
    run = tiny_run('masm')
    params = jax.device_get(run.params)
    parts = run.method.init(params, jax.random.key(0))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(parts))
    before = {id(array) for array in jax.live_arrays()}
    frozen, reference = sharding.place_frozen((parts.frozen, parts.reference), mesh)
    state = run.program.place_state(parts.trainable, mesh)
  kernel = frozen['backbone']['block_00']['attn']['q']['kernel_sem']
  assert {shard.data.shape for shard in kernel.addressable_shards} == {(24, 12)}
  ours = [array for array in jax.live_arrays() if id(array) not in before and array.size > 16]
  assert len(ours) > len(jax.tree.leaves(state.trainable))
  assert {device for array in ours for device in array.devices()} == set(jax.devices()[4:])
  jax.tree.map(np.testing.assert_array_equal, state.trainable, parts.trainable)
  assert jax.tree.leaves(reference)


def test_processes_agree_on_the_leaves_that_differ(monkeypatch):
  """Two processes of which this is the second; what they send each other is written down here."""
  theirs = {'same': np.arange(3.0), 'sign': np.array([1.0, -2.0]), 'far': np.zeros((), np.float32)}
  ours = theirs | {'sign': np.array([-1.0, 2.0])}
  asked = []

  def allgather(value):
    if value.dtype == bool:
      return np.stack([value, value])
    sums = [zlib.crc32(np.ascontiguousarray(theirs[name]).data) for name in sorted(theirs)]
    return np.stack([np.array(sums, np.uint32), value])

  def broadcast(value):
    asked.append(value)
    return theirs['sign']

  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(sharding.multihost_utils, 'process_allgather', allgather)
  monkeypatch.setattr(sharding.multihost_utils, 'broadcast_one_to_all', broadcast)
  agreed = sharding.agree(ours)
  assert len(asked) == 1
  jax.tree.map(np.testing.assert_array_equal, agreed, theirs)
  assert {name: value.shape for name, value in agreed.items()} == {
    'same': (3,),
    'sign': (2,),
    'far': (),
  }
