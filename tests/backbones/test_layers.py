import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import torch

from masm_jax.backbones import layers


def test_gelu_is_the_exact_one():
  x = np.array([-2.0, -0.5, 0.0, 1.0, 3.0], np.float32)
  exact = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
  np.testing.assert_allclose(layers.exact_gelu(jnp.asarray(x)), exact, rtol=1e-6)
  tanh = jax.nn.gelu(jnp.asarray(x), approximate=True)
  assert np.abs(np.asarray(tanh) - exact).max() > 1e-4


def test_quick_gelu():
  x = np.array([-2.0, -0.5, 0.0, 1.0, 3.0], np.float32)
  expected = [value / (1 + math.exp(-1.702 * value)) for value in x.tolist()]
  np.testing.assert_allclose(layers.quick_gelu(jnp.asarray(x)), expected, rtol=1e-6)


def test_dense_by_hand():
  params = {'kernel': jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), 'bias': jnp.array([7.0, 8, 9])}
  x = jnp.array([[[1.0, 10.0]]])
  y = layers.Dense(features=3).apply({'params': params}, x)
  np.testing.assert_array_equal(y, [[[48, 60, 72]]])
  half = layers.Dense(features=3, dtype=jnp.bfloat16).apply({'params': params}, x)
  assert half.dtype == jnp.bfloat16


def test_patch_embed_is_torch_convolution():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
  bias = rng.normal(size=5).astype(np.float32)
  images = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
  ours = layers.PatchEmbed(features=5, patch_size=4, use_bias=True).apply(
    {'params': {'kernel': kernel, 'bias': bias}}, jnp.asarray(images)
  )
  theirs = torch.nn.functional.conv2d(
    torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
    torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
    torch.from_numpy(bias),
    stride=4,
  )
  np.testing.assert_allclose(ours, theirs.flatten(2).transpose(1, 2).numpy(), rtol=1e-5, atol=1e-5)


def test_layer_norm_by_hand():
  params = {'scale': jnp.array([10.0, 100.0]), 'bias': jnp.array([7.0, 8.0])}
  # Mean 2, variance 1, eps 3: divided by 2.
  y = layers.LayerNorm(eps=3.0).apply({'params': params}, jnp.array([[1.0, 3.0]]))
  np.testing.assert_allclose(y, [[2, 58]], rtol=1e-6)


def test_layer_norm_keeps_float32_under_a_large_mean():
  """The one-pass variance loses all digits here, and a bfloat16 one has none to begin with."""
  rng = np.random.default_rng(0)
  x = (3000 + rng.normal(size=(4, 64))).astype(np.float32)
  params = {'scale': jnp.ones(64), 'bias': jnp.zeros(64)}
  ours = layers.LayerNorm(1e-6).apply({'params': params}, jnp.asarray(x))
  x64 = x.astype(np.float64)
  exact = (x64 - x64.mean(1, keepdims=True)) / np.sqrt(x64.var(1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(ours, exact, atol=2e-3)

  half = (jnp.asarray(x) - 2990).astype(jnp.bfloat16)
  ours = layers.LayerNorm(1e-6).apply({'params': params}, half)
  assert ours.dtype == jnp.float32
  x64 = np.asarray(half).astype(np.float64)
  exact = (x64 - x64.mean(1, keepdims=True)) / np.sqrt(x64.var(1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(ours, exact, atol=1e-5)


def gradients(fn, *args):
  """Of a weighted sum of what `fn` returns."""
  weights = np.random.default_rng(1).normal(size=fn(*args).shape).astype(np.float32)
  return jax.grad(
    lambda *args: jnp.sum(fn(*args).astype(jnp.float32) * weights), tuple(range(len(args)))
  )(*args)


@pytest.mark.parametrize('leading', [(3,), (2, 5)])
def test_layer_norm_s_gradient_is_the_one_of_its_definition(leading):
  rng = np.random.default_rng(0)
  x = (5 + 3 * rng.normal(size=(*leading, 16))).astype(np.float32)
  scale, bias = rng.normal(size=(2, 16)).astype(np.float32)

  def definition(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-2)
    with jax.numpy_rank_promotion('allow'):
      return y * scale + bias

  ours = gradients(lambda *args: layers.layer_norm(*args, 1e-2), x, scale, bias)
  for name, a, b in zip(
    ('x', 'scale', 'bias'), ours, gradients(definition, x, scale, bias), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
  half = gradients(lambda x: layers.layer_norm(x, scale, bias, 1e-2), x.astype(jnp.bfloat16))
  assert half[0].dtype == jnp.bfloat16
  np.testing.assert_allclose(half[0].astype(np.float32), ours[0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
  ('ours', 'definition'),
  [
    (layers.exact_gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    (layers.quick_gelu, lambda x: x * jax.nn.sigmoid(1.702 * x)),
  ],
)
def test_activations_have_the_gradients_of_their_definitions(ours, definition):
  x = jnp.linspace(-12, 12, 97)
  np.testing.assert_allclose(ours(x), definition(x), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(
    gradients(ours, x)[0], gradients(definition, x)[0], rtol=1e-5, atol=1e-6
  )
  half = x.astype(jnp.bfloat16)
  assert ours(half).dtype == gradients(ours, half)[0].dtype == jnp.bfloat16


def test_gelu_in_bfloat16_has_the_negative_tail():
  """Where `1 + erf` in bfloat16 would be coarse, and soon 0; with its gradient."""
  x = jnp.linspace(-4, -2, 33).astype(jnp.bfloat16)
  x64 = np.asarray(x, np.float64)
  cdf = scipy.special.ndtr(x64)
  np.testing.assert_allclose(np.asarray(layers.exact_gelu(x), np.float64), x64 * cdf, rtol=0.005)
  slope = cdf + x64 * np.exp(-0.5 * x64**2) / math.sqrt(2 * math.pi)
  ours = jax.grad(lambda x: jnp.sum(layers.exact_gelu(x).astype(jnp.float32)))(x)
  np.testing.assert_allclose(np.asarray(ours, np.float64), slope, rtol=0.005)
