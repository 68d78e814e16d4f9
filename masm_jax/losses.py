"""Task losses on logits and features: pure `jax.numpy`, float32."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


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
    class_weights: C weights; an example counts as much as its class (the mean is weighted, so that
      a constant factor changes nothing). With smoothing, the smoothed target is weighted as a whole
      by the class of its label.

  Returns:
    A float32 scalar.
  """
  logits = logits.astype(jnp.float32)
  num_classes = logits.shape[-1]
  targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
  targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
  losses = optax.softmax_cross_entropy(logits, targets)
  if not class_weights:
    return losses.mean()
  weights = jnp.asarray(class_weights, jnp.float32)[labels]
  return (weights * losses).sum() / weights.sum()
