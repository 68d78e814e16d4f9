"""Cross-entropy against torch, alignment and uniformity against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from masm_jax.parallel import sharding
from masm_jax.training import losses


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_equals_torch(label_smoothing):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(16, 2)).astype(np.float32), rng.integers(0, 2, 16)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), label_smoothing=label_smoothing
  )
  actual = losses.cross_entropy(
    jnp.asarray(logits), jnp.asarray(labels, jnp.int32), label_smoothing=label_smoothing
  )
  np.testing.assert_allclose(actual, expected.item(), rtol=1e-6)


@pytest.mark.parametrize('label_smoothing', [0.0, 0.2])
def test_class_weights_equal_torch_and_forget_a_common_factor(label_smoothing):
  rng = np.random.default_rng(1)
  logits, labels = rng.normal(size=(16, 2)).astype(np.float32), rng.integers(0, 2, 16)
  weights = np.array([1.0, 3.0], np.float32)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits),
    torch.tensor(labels),
    weight=torch.tensor(weights),
    label_smoothing=label_smoothing,
  )
  for factor in (1.0, 10.0):
    actual = losses.cross_entropy(
      jnp.asarray(logits),
      jnp.asarray(labels, jnp.int32),
      class_weights=tuple(factor * weights),
      label_smoothing=label_smoothing,
    )
    np.testing.assert_allclose(actual, expected.item(), rtol=1e-6)


def test_bfloat16_logits_are_computed_in_float32():
  loss = losses.cross_entropy(jnp.array([[0.0, 8.0]], jnp.bfloat16), jnp.array([1]))
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, np.log1p(np.exp(-8.0)), rtol=1e-4)


def unit_features(size, dim=7, seed=0):
  z = np.random.default_rng(seed).normal(size=(size, dim))
  return z / np.linalg.norm(z, axis=1, keepdims=True)


def alignment_by_definition(z, labels):
  pairs = [(i, j) for i, j in itertools.combinations(range(len(z)), 2) if labels[i] == labels[j]]
  return np.mean([np.sum((z[i] - z[j]) ** 2) for i, j in pairs])


def uniformity_by_definition(z):
  kernel = [np.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(z, 2)]
  return np.log(max(1e-6, np.mean(kernel)))


@pytest.mark.parametrize('size', [2, 3, 16, 33])
def test_alignment_and_uniformity_equal_their_definitions_in_float64(size):
  z, labels = unit_features(size), (np.arange(size) % 3 == 0).astype(int)
  labels[:2] = 1  # At least one pair.
  actual = losses.alignment(jnp.asarray(z, jnp.float32), jnp.asarray(labels, jnp.int32))
  np.testing.assert_allclose(actual, alignment_by_definition(z, labels), rtol=1e-6)
  actual = losses.uniformity(jnp.asarray(z, jnp.float32))
  np.testing.assert_allclose(actual, uniformity_by_definition(z), rtol=1e-6)
  assert actual.dtype == jnp.float32


def test_alignment_and_uniformity_by_hand():
  # Two real faces at a right angle (squared distance 2), a fake opposite to the first (4, and 2).
  z = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
  np.testing.assert_allclose(losses.alignment(z, jnp.array([0, 0, 1])), 2.0, rtol=1e-6)
  np.testing.assert_allclose(losses.alignment(z, jnp.array([0, 1, 0])), 4.0, rtol=1e-6)
  np.testing.assert_allclose(losses.alignment(z, jnp.array([1, 1, 1])), 8.0 / 3.0, rtol=1e-6)
  expected = np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3)
  np.testing.assert_allclose(losses.uniformity(z), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.uniformity(jnp.ones((4, 1))), 0.0, atol=1e-6)


def test_alignment_and_uniformity_without_pairs_are_zero_and_have_no_slope():
  z, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
  assert losses.alignment(z, labels) == 0.0
  assert not jax.grad(losses.alignment)(z, labels).any()
  assert losses.alignment(z[:1], labels[:1]) == losses.uniformity(z[:1]) == 0.0


def test_uniformity_has_a_floor():
  # Opposite pairs: exp(-8) is above 1e-6, so that only a lower mean could reach the floor.
  spread = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  np.testing.assert_allclose(losses.uniformity(spread), -8.0, rtol=1e-6)
  np.testing.assert_allclose(losses.uniformity(3.0 * spread), np.log(1e-6), rtol=1e-6)


def test_alignment_and_uniformity_are_the_same_on_one_device_and_eight():
  z = jnp.asarray(unit_features(32), jnp.float32)
  labels = jnp.asarray(np.arange(32) % 3 == 0, jnp.int32)

  def loss(z, labels):
    return 0.1 * losses.alignment(z, labels) + 0.5 * losses.uniformity(z)

  step = jax.jit(jax.value_and_grad(loss))
  one = step(z, labels)
  mesh = sharding.make_mesh()
  assert mesh.size == 8
  eight = step(*jax.device_put((z, labels), sharding.batch_sharding(mesh)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), one, eight)
