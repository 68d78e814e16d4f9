"""The task loss of one batch; the regularizers of the method come beside it."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from masm_jax import detector as detector_lib
from masm_jax.backbones import layers
from masm_jax.subspaces import layer
from masm_jax.training import losses, lsda

Batch = Mapping[str, jax.Array]
TaskLoss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

# Keep the random numbers of dropout and of the latent augmentation apart from others of the seed.
_DROPOUT_STREAM, _LSDA_STREAM = 0xD09, 0x15DA


def make_task_loss(
  detector_config: detector_lib.DetectorConfig,
  config: ml_collections.ConfigDict,
  dense_cls: Callable[..., nn.Module] = layers.Dense,
) -> TaskLoss:
  """Builds `task_loss(params, batch, step, gates=None) -> (loss, report)`, pure.

  The loss is the cross-entropy, plus what `config.loss` weighs above 0 of alignment and uniformity
  [kin: GenD, 2508.06248] and `config.lsda` of the cross-entropy on augmented features [kin: LSDA,
  2311.11278]. Pairs of examples are those of the global batch, also where devices share it. Every
  random number is a function of (seed, step, place in the global batch).

  Args:
    detector_config: backbone, precision, feature normalisation.
    config: the run's config; `head`, `loss`, `lsda` and `seed` are read.
    dense_cls: builds the backbone's dense layers, as the method wants them.

  Returns:
    The loss. `params` are those that `dense_cls` reads; `batch` holds `image` uint8 [B, H, W, 3],
    `label` int32 [B] and, where `lsda.weight` is above 0, `method` int32 [B] (0 real, or the
    forgery); `step` is an int32 scalar; `gates` are those of `subspaces.layer.SubspaceDense`. The
    report maps `accuracy`, and each term beside the cross-entropy, unweighted, to float32 scalars.
  """
  model = detector_lib.Detector(detector_config, dense_cls=dense_cls)
  head, weights, latent = config.head, config.loss, lsda.LsdaConfig(**config.lsda.to_dict())
  class_weights = tuple(head.class_weights)

  def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return losses.cross_entropy(
      logits,
      labels,
      label_smoothing=head.label_smoothing,
      class_weights=class_weights if class_weights[0] != class_weights[1] else None,
    )

  def key(stream: int, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), stream), step)

  def task_loss(
    params: Mapping[str, Any], batch: Batch, step: jax.Array, gates: Any = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    variables, labels = {'params': params}, batch['label']
    if gates is not None:
      variables[layer.GATES] = gates
    output = model.apply(variables, batch['image'], rngs={'dropout': key(_DROPOUT_STREAM, step)})
    loss = cross_entropy(output.logits, labels)
    correct = jnp.argmax(output.logits, axis=-1) == labels
    report = {'accuracy': jnp.mean(correct.astype(jnp.float32))}
    if weights.alignment:
      report['alignment'] = losses.alignment(output.features, labels)
      loss += weights.alignment * report['alignment']
    if weights.uniformity:
      report['uniformity'] = losses.uniformity(output.features)
      loss += weights.uniformity * report['uniformity']
    if latent.weight:
      moved = lsda.augment(output.features, batch['method'], key(_LSDA_STREAM, step), latent)
      logits = model.apply(variables, moved, method='classify').logits
      report['lsda'] = cross_entropy(logits, labels)
      loss += latent.weight * report['lsda']
    return loss, report

  return task_loss
