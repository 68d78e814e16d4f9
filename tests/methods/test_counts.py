"""Exact trainable counts on the published presets, from shapes alone."""

import functools

import jax
import numpy as np
import pytest

from configs import ffpp
from masm_jax import backbones, tree
from masm_jax.methods import METHODS, chosen_layers, make_method

HEAD = {width: 2 * width + 2 for width in (192, 384, 768, 1024, 1152, 1280, 1536)}


@functools.cache
def shapes(preset):
  backbone = {
    path: jax.ShapeDtypeStruct(shape, np.float32)
    for path, shape in backbones.param_shapes(backbones.get_preset(preset).config).items()
  }
  width = backbone['ln_post/scale'].shape[0]
  head = {
    'kernel': jax.ShapeDtypeStruct((width, 2), np.float32),
    'bias': jax.ShapeDtypeStruct((2,), np.float32),
  }
  return {'backbone': tree.unflatten(backbone), 'head': head}


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


def expected(config, full):
  """From the arithmetic of a ViT."""
  depth, width, hidden = config.depth, config.width, config.mlp_dim
  pools = config.pooling == 'attention'
  num_norms = 2 * depth + 1 + config.pre_norm + pools
  up = 2 if config.activation == 'swiglu' else 1  # Kernels [width, hidden] of an MLP.
  # q, k, v, out; gate and fc1; fc2.
  biases = depth * ((3 + config.key_bias) * width + up * hidden + width)
  biases += pools * (4 * width + hidden + width) + config.patch_bias * width
  attention = 4 * (width + width)  # Sum of d_in + d_out over the kernels of a block.
  mlp = (up + 1) * (width + hidden)
  head = HEAD[width]
  decomposed = attention + mlp + 4 + up + 1
  return {
    'linear': head,
    'ln': num_norms * 2 * width + head,
    'gend': num_norms * 2 * width + head,
    'bitfit': biases + num_norms * width + head,
    'effort': depth * (attention + 4) + head,
    'effort_published': depth * (attention + 4) + head,
    'masm': depth * decomposed * 4 * 8 + head,
    'fmsd': -(-depth // 2) * decomposed * 4 * 8 + head,
    'lora': depth * attention * 8 + head,
    'full': full + head,
    'bvg_ls': full + head,
  }


@pytest.mark.parametrize('preset', [name for name in backbones.PRESETS if name != 'demo_vit'])
def test_every_method_on_every_preset(preset):
  config = backbones.get_preset(preset).config
  counts = expected(config, backbones.num_params(config))
  assert set(counts) == set(METHODS)
  assert {name: count(preset, name) for name in METHODS} == counts


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
