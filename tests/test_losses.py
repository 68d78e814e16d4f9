"""Cross-entropy against torch."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from masm_jax import losses


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
