"""Losses on logits and features: pure `jax.numpy`, float32."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  label_smoothing: float = 0.0,
  class_weights: Sequence[float] | None = None,
) -> jax.Array:
  """Mean cross-entropy, as `torch.nn.CrossEntropyLoss` defines it.

  Args:
    logits: `[B, C]` float.
    labels: `[B]` int, in `[0, C)`.
    label_smoothing: share of the target that is spread evenly over the C classes, in `[0, 1)`.
    class_weights: C weights, one for each class's part of the target; the mean is over the weights
      of the labels, so that a constant factor changes nothing.

  Returns:
    A float32 scalar.
  """
  logits = logits.astype(jnp.float32)
  num_classes = logits.shape[-1]
  targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
  targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
  log_probs = jax.nn.log_softmax(logits)
  if not class_weights:
    return -(targets * log_probs).sum(axis=-1).mean()
  weights = jnp.asarray(class_weights, jnp.float32)
  return -(targets * weights[None] * log_probs).sum() / weights[labels].sum()


def alignment(features: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean of `|z_i - z_j|^2` over pairs i < j of equal label (arXiv 2005.10242; GenD, 2508.06248).

  Args:
    features: z, `[B, D]` float, of length 1. Squared distances are taken as `2 - 2 z_i . z_j`.
    labels: `[B]` int.

  Returns:
    A float32 scalar; 0 where no two labels are equal.
  """
  pairs = _pairs(len(features)) * (labels[:, None] == labels[None]).astype(jnp.float32)
  total = jnp.sum(_squared_distances(features) * pairs)
  return total / jnp.maximum(jnp.sum(pairs), 1.0)


def uniformity(features: jax.Array) -> jax.Array:
  """`log max(1e-6, mean over pairs i < j of exp(-2 |z_i - z_j|^2))` (2005.10242; GenD, 2508.06248).

  Args:
    features: z, `[B, D]` float, of length 1.

  Returns:
    A float32 scalar, at most 0 up to rounding; 0 for a single example, which has no pair.
  """
  size = len(features)
  if size < 2:
    return jnp.zeros((), jnp.float32)
  kernel = jnp.exp(-2.0 * _squared_distances(features))
  mean = jnp.sum(kernel * _pairs(size)) / (size * (size - 1) / 2)
  return jnp.log(jnp.maximum(mean, 1e-6))


def _pairs(size: int) -> jax.Array:
  """1 for i < j, float32 `[B, B]`."""
  return jnp.triu(jnp.ones((size, size), jnp.float32), k=1)


def _squared_distances(features: jax.Array) -> jax.Array:
  """`2 - 2 z z^T`, float32 `[B, B]`: a difference of numbers near 1, hence no TF32 or bfloat16."""
  z = features.astype(jnp.float32)
  return 2.0 - 2.0 * jnp.matmul(z, z.T, precision='highest')
