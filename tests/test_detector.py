"""The detector: normalisation, head, weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from masm_jax import backbones
from masm_jax import detector as detector_lib
from masm_jax.errors import UserError

BACKBONE = dataclasses.replace(
  backbones.get_preset('demo_vit').config, depth=1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
)
CONFIG = detector_lib.DetectorConfig(BACKBONE)


@pytest.fixture(scope='module')
def params():
  return detector_lib.init_params(CONFIG, jax.random.key(3))


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def test_output_is_the_head_on_normalised_pixels(params, images):
  output = detector_lib.Detector(CONFIG).apply({'params': params}, images)
  pixels = (images / 255.0 - np.array(BACKBONE.mean)) / np.array(BACKBONE.std)
  features = backbones.ViT(BACKBONE).apply(
    {'params': params['backbone']}, jnp.asarray(pixels, jnp.float32)
  )
  np.testing.assert_allclose(output.features, features, rtol=1e-4, atol=1e-5)
  head = params['head']
  expected = np.asarray(output.features) @ np.asarray(head['kernel']) + np.asarray(head['bias'])
  np.testing.assert_allclose(output.logits, expected, rtol=1e-5, atol=1e-6)
  assert output.logits.dtype == output.features.dtype == jnp.float32


def test_normalised_features_have_length_one(params, images):
  config = dataclasses.replace(CONFIG, normalize_features=True)
  features = detector_lib.Detector(config).apply({'params': params}, images).features
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-6)
  plain = detector_lib.Detector(CONFIG).apply({'params': params}, images).features
  np.testing.assert_allclose(features * np.linalg.norm(plain, axis=1)[:, None], plain, rtol=1e-5)


def test_the_head_alone_is_that_of_the_whole(params):
  head = detector_lib.init_head(CONFIG, jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, head, params['head'])
  assert not head['bias'].any() and 0.01 < np.std(head['kernel']) < 0.03


def test_shipped_and_given_weights(tmp_path):
  preset = backbones.get_preset('demo_vit')
  config = detector_lib.DetectorConfig(preset.config)
  shipped, shipped_hash = detector_lib.load_params(preset, '', config, jax.random.key(0))
  path = tmp_path / 'copy.safetensors'
  exported = backbones.export_weights(shipped['backbone'], preset)
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(value, np.float16) for name, value in exported.items()}, path
  )
  given, given_hash = detector_lib.load_params(preset, str(path), config, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, shipped, given)
  assert len(shipped_hash) == len(given_hash) == 64
  with pytest.raises(UserError, match='no weights are given for the backbone clip_b16'):
    clip = backbones.get_preset('clip_b16')
    detector_lib.load_params(clip, '', detector_lib.DetectorConfig(clip.config), jax.random.key(0))


def test_random_weights_are_named_by_their_seed():
  preset = dataclasses.replace(backbones.get_preset('demo_vit'), config=BACKBONE)
  _, name = detector_lib.load_params(preset, 'random', CONFIG, jax.random.key(7))
  assert name == 'random initialisation, seed 7'
