"""Exact trainable counts on the published presets, from shapes alone."""

import functools

import jax
import ml_collections
import pytest

from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.methods import make_method

HEAD = {width: 2 * width + 2 for width in (192, 384, 768, 1024)}


def config(method, num_subspaces=4, rank=8, targets='all'):
  return ml_collections.ConfigDict({
    'method': method,
    'subspace': {'num_subspaces': num_subspaces, 'rank': rank, 'split': 'interleaved',
                 'targets': targets, 'forward': 'auto', 'keep_factors': False, 'cache_dir': ''},
    'regularizer': {'orthogonality': 1.0},
  })  # fmt: skip


@functools.cache
def shapes(preset):
  detector = detector_lib.DetectorConfig(backbones.get_preset(preset).config)
  return jax.eval_shape(lambda: detector_lib.init_params(detector, jax.random.key(0)))


def counts(preset, *args, **fields):
  method = make_method(config(*args, **fields))
  trainable, frozen = jax.eval_shape(method.init, shapes(preset), jax.random.key(0))
  merged = jax.eval_shape(method.merge, trainable, frozen)
  assert {path: leaf.shape for path, leaf in tree.flatten(merged).items()} == {
    path: leaf.shape for path, leaf in tree.flatten(shapes(preset)).items()
  }
  return tree.param_count(trainable)


def subspaces(depth, width, mlp_dim, components):
  """U, S and V of every dense kernel: attention (D, D) four times, the MLP's two."""
  per_block = 4 * (2 * width + 1) + 2 * (width + mlp_dim + 1)
  return depth * per_block * components


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
  head = HEAD[width]
  assert counts(preset, 'linear') == head
  assert counts(preset, 'full') == backbones.num_params(backbones.get_preset(preset).config) + head
  assert counts(preset, 'masm') == subspaces(depth, width, 4 * width, 4 * 8) + head


def test_the_figures_of_the_specification():
  """`performance.md`: masm K=4 q=8 on all kernels, and Effort's preset, on ViT-L/14."""
  assert counts('clip_l14', 'masm') == 14_160_384 + 2_050
  effort = {'num_subspaces': 1, 'rank': 1, 'targets': 'attention'}
  assert counts('clip_l14', 'masm', **effort) == 196_704 + 2_050
  assert counts('clip_l14', 'linear') == 2_050
  assert counts('clip_l14', 'full') == 303_179_776 + 2_050
