"""Exact trainable counts on the published presets, from shapes alone."""

import functools

import jax
import pytest

from configs import ffpp
from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.methods import METHODS, chosen_layers, make_method

HEAD = {width: 2 * width + 2 for width in (192, 384, 768, 1024)}


@functools.cache
def shapes(preset):
  detector = detector_lib.DetectorConfig(backbones.get_preset(preset).config)
  return jax.eval_shape(lambda: detector_lib.init_params(detector, jax.random.key(0)))


def count(preset, name):
  """Trainable parameters as `configs/ffpp.py:method=...` sets the method up."""
  config = ffpp.get_config(f'method={name}')
  method = chosen_layers.assume_deepest(make_method(config), shapes(preset), config)
  trainable, frozen, _ = jax.eval_shape(method.init, shapes(preset), jax.random.key(0))
  merged = jax.eval_shape(method.merge, trainable, frozen)
  assert {path: leaf.shape for path, leaf in tree.flatten(merged).items()} == {
    path: leaf.shape for path, leaf in tree.flatten(shapes(preset)).items()
  }
  return tree.param_count(trainable)


def expected(preset, depth, width, has_ln_pre, has_patch_bias):
  """From the arithmetic of a ViT with an MLP of four times its width."""
  num_norms = 2 * depth + 1 + has_ln_pre
  dense_biases = depth * (4 * width + 4 * width + width)  # q, k, v, out; fc1; fc2.
  attention = 4 * (width + width)  # Sum of d_in + d_out over the kernels of a block.
  mlp = 2 * (width + 4 * width)
  head = HEAD[width]
  full = backbones.num_params(backbones.get_preset(preset).config) + head
  return {
    'linear': head,
    'ln': num_norms * 2 * width + head,
    'gend': num_norms * 2 * width + head,
    'bitfit': dense_biases + (num_norms + has_patch_bias) * width + head,
    'effort': depth * (attention + 4) + head,
    'effort_published': depth * (attention + 4) + head,
    'masm': depth * (attention + mlp + 6) * 4 * 8 + head,
    'fmsd': depth // 2 * (attention + mlp + 6) * 4 * 8 + head,
    'lora': depth * attention * 8 + head,
    'full': full,
    'bvg_ls': full,
  }


@pytest.mark.parametrize(
  ('preset', 'depth', 'width'),
  [
    ('clip_l14', 24, 1024), ('clip_l14_336', 24, 1024), ('clip_b16', 12, 768),
    ('clip_b32', 12, 768),
    ('augreg_ti16', 12, 192), ('augreg_s16', 12, 384), ('augreg_b16', 12, 768),
    ('augreg_l16', 24, 1024),
  ],
)  # fmt: skip
def test_every_method_on_every_preset(preset, depth, width):
  is_clip = preset.startswith('clip')  # A LayerNorm before the blocks, and no patch bias.
  counts = expected(preset, depth, width, has_ln_pre=is_clip, has_patch_bias=not is_clip)
  assert set(counts) == set(METHODS)
  assert {name: count(preset, name) for name in METHODS} == counts


def test_no_preset_is_untested():
  (mark,) = test_every_method_on_every_preset.pytestmark
  tested = {preset for preset, *_ in mark.args[1]}
  assert tested | {'demo_vit'} == set(backbones.PRESETS)


def test_the_counts_of_the_specification():
  """ViT-L/14, head of 2,050 included."""
  assert {name: count('clip_l14', name) - 2_050 for name in METHODS} == {
    'linear': 0,
    'effort': 196_704,  # 24 blocks x 4 kernels x (1024 + 1024 + 1)
    'effort_published': 196_704,
    'gend': 102_400,  # 50 LayerNorms x 2 x 1024
    'ln': 102_400,
    'bitfit': 272_384,  # 24 blocks x (9 x 1024 of dense layers + 2 x 1024) + 2 x 1024
    'lora': 1_572_864,  # 24 blocks x 4 kernels x rank 8 x (1024 + 1024)
    'masm': 14_160_384,  # 24 blocks x 32 components x (4 x 2049 + 2 x 5121)
    'fmsd': 7_080_192,  # The same for 12 blocks.
    'full': 303_179_776,
    'bvg_ls': 303_179_776,
  }
