"""Task losses on logits and features: pure `jax.numpy`, float32."""

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
