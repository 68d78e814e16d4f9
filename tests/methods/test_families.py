"""Methods with layers of their own on every kind of backbone: gates, no biases, pooling.

What the adapted detector computes is what its merged parameters compute, wherever training is. The
methods that train plain parameters have nothing to merge; `test_counts.py` has all.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.methods import chosen_layers, make_method

pytestmark = pytest.mark.usefixtures('standard_promotion')


@functools.cache
def _start(name):
  config = dataclasses.replace(
    backbones.get_preset(name).config,
    image_size=16, patch_size=8, width=24, depth=2, num_heads=2, mlp_dim=32, pool_heads=2,
  )  # fmt: skip
  detector = detector_lib.DetectorConfig(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf) + 0.05 * rng.normal(size=leaf.shape).astype(np.float32),
    detector_lib.init_params(detector, jax.random.key(0)),
  )
  images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  plain = jax.jit(lambda params: detector_lib.Detector(detector).apply({'params': params}, images))
  return detector, params, images, plain


@pytest.mark.parametrize(
  ('name', 'family'),
  [
    ('masm', 'dinov3_hplus16'),
    ('effort', 'pe_core_l14'),
    ('effort', 'siglip_l16'),
    ('lora', 'dinov3_hplus16'),
    ('lora', 'siglip_l16'),
  ],
)
def test_merged_parameters_compute_what_the_method_does(name, family, tiny_run):
  detector, params, images, plain = _start(family)
  config = tiny_run.make_config(name)
  method = chosen_layers.assume_deepest(make_method(config), params, config)
  parts = method.init(params, jax.random.key(0))
  rng = np.random.default_rng(1)
  trainable = jax.tree.map(
    lambda leaf: np.asarray(leaf) + 0.03 * rng.normal(size=leaf.shape).astype(np.float32),
    parts.trainable,
  )
  module = detector_lib.Detector(detector, dense_cls=method.dense_cls)

  def logits(trainable):
    return module.apply({'params': tree.combine(trainable, parts.frozen)}, images).logits

  merged = method.merge(trainable, parts.frozen)
  assert jax.tree.map(np.shape, merged) == jax.tree.map(np.shape, params)
  adapted = jax.jit(logits)(trainable)
  np.testing.assert_allclose(adapted, plain(merged).logits, atol=2e-5)
  assert np.abs(adapted - plain(params).logits).max() > 1e-3
  if name in ('masm', 'effort'):
    decomposed = {path.rpartition('/')[0] for path in tree.flatten(trainable) if path[-2:] == '/U'}
    assert len(decomposed) == 2 * (4 if name == 'effort' else 7)  # 7: with the gate.


@pytest.mark.parametrize(
  ('name', 'family'),
  [
    ('bitfit', 'dinov3_hplus16'),  # Keys without a bias.
    ('ln', 'pe_core_l14'),  # Norms before the blocks and in the pooling.
    ('fmsd', 'dinov2_reg_g14'),
    ('full', 'siglip_l16'),  # No class token.
  ],
)
def test_a_training_step_moves_what_the_method_trains(name, family, tiny_run):
  """Each step compiles for seconds: the families are dealt among the methods not seen above."""
  run = tiny_run(name, None, _start(family)[0].backbone)
  before = jax.tree.map(np.array, run.frozen)
  run.step()
  assert int(run.state.step) == 1 and int(run.state.nonfinite_step) == 0
  jax.tree.map(np.testing.assert_array_equal, before, run.frozen)
  change = jax.tree.map(lambda a, b: np.abs(a - b).max(), run.trainable, run.state.trainable)
  moved = tree.flatten(change)
  assert moved['head/kernel'] > 0
  assert max(value for path, value in moved.items() if path.startswith('backbone')) > 0
