"""What `configs/ablations.py` says of its rows: without a mask, only K*q matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import backbones, detector, tree
from masm_jax.methods import masm
from masm_jax.subspaces import decompose, regularizers
from masm_jax.training import losses

SHAPE = dict(image_size=16, patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=32)
INPUT = dict(activation='gelu', pre_norm=False, patch_bias=True, norm_eps=1e-6)
CONFIG = detector.DetectorConfig(
  backbones.ViTConfig(**SHAPE, **INPUT, mean=(0.5,) * 3, std=(0.5,) * 3)
)


@functools.cache
def total_loss(count, rank, split):
  """Loss and artifact kernels' gradients of K subspaces at a point off the start."""
  method = masm.Masm(
    subspace=decompose.SubspaceConfig(num_subspaces=count, rank=rank, split=split),
    regularizer=regularizers.RegularizerConfig(),
  )
  params = detector.init_params(CONFIG, jax.random.key(0))
  trainable, frozen, reference = method.init(params, jax.random.key(0))
  # Moved by a function of each component alone, whichever array it lies in.
  moved = lambda path, x: x if path.startswith('head') else x * 1.01 + 0.1 * jnp.sin(40.0 * x)
  trainable = tree.map_with_path(moved, trainable)
  images = jax.random.randint(jax.random.key(1), (4, 16, 16, 3), 0, 256).astype(jnp.uint8)
  model = detector.Detector(CONFIG, dense_cls=method.dense_cls)

  @jax.jit
  @jax.value_and_grad
  def loss_fn(trainable):
    logits = model.apply({'params': tree.combine(trainable, frozen)}, images).logits
    extra = sum(method.regularize(trainable, frozen, reference).values())
    return losses.cross_entropy(logits, jnp.array([0, 1, 0, 1])) + extra

  loss, grads = loss_fn(trainable)
  name = 'backbone/block_00/mlp/fc1'
  flat, flat_grads = tree.flatten(trainable), tree.flatten(grads)
  # By component, in the order of the singular values.
  columns = lambda leaves: np.asarray(leaves[f'{name}/U']).transpose(0, 2, 1).reshape(-1, 16)
  order = np.argsort(decompose.component_order(16, method.subspace).ravel())
  return float(loss), columns(flat)[order], columns(flat_grads)[order]


@pytest.mark.parametrize(('count', 'split'), [(4, 'interleaved'), (2, 'contiguous')])
def test_without_a_mask_k_subspaces_are_one_of_k_times_the_rank(count, split):
  loss, components, grads = total_loss(1, 8, 'interleaved')
  assert np.abs(grads).max() > 1e-3
  other_loss, other_components, other_grads = total_loss(count, 8 // count, split)
  np.testing.assert_array_equal(components, other_components)
  assert other_loss == pytest.approx(loss, rel=1e-6)
  np.testing.assert_allclose(other_grads, grads, rtol=1e-4, atol=1e-6)
