"""Compiled steps on plain (merged) parameters: scores, features, and the merge itself."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax.methods.base import Method
from masm_jax.parallel import sharding

Batch = Mapping[str, jax.Array]


def make_eval_step(
  detector_config: detector_lib.DetectorConfig,
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """Builds `eval_step(params, batch) -> {logit, record, mask}`, all [B], pure.

  `params` are plain (merged) parameters. `logit` is the log-odds of fake: fake minus real.
  """
  model = detector_lib.Detector(detector_config)

  def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
    logits = model.apply({'params': params}, batch['image']).logits
    return {
      'logit': logits[:, detector_lib.FAKE] - logits[:, 1 - detector_lib.FAKE],
      'record': batch['record'],
      'mask': batch['mask'],
    }

  return eval_step


def make_feature_step(
  detector_config: detector_lib.DetectorConfig,
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """Builds `feature_step(params, batch) -> {feature [B, D], record [B], mask [B]}`, pure.

  `params` are plain (merged) parameters; `feature` is float32, what the head saw.
  """
  model = detector_lib.Detector(detector_config)

  def feature_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
    features = model.apply({'params': params}, batch['image']).features
    return {'feature': features, 'record': batch['record'], 'mask': batch['mask']}

  return feature_step


def jit_eval_step(step: Callable, mesh: Mesh, params: Any) -> Callable:
  """Compiled steps on plain (merged) parameters: scores, features, and the merge itself."""
  return jax.jit(
    step,
    in_shardings=(sharding.frozen_sharding(params, mesh), sharding.batch_sharding(mesh)),
    out_shardings=sharding.replicated(mesh),
  )


def jit_merge(method: Method, mesh: Mesh, trainable: Any, frozen: Any) -> Callable[[Any, Any], Any]:
  """Compiled steps on plain (merged) parameters: scores, features, and the merge itself."""
  merged = jax.eval_shape(method.merge, trainable, frozen)
  return jax.jit(method.merge, out_shardings=sharding.frozen_sharding(merged, mesh))
