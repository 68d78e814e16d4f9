"""A classifier head fitted on the frozen features of a few batches: what a probe measures with.

[ours] The gradients of a detector whose head is random tell about that head: its offset and the
direction that it happens to read. Those of a fitted head tell what the layers know of the task. It
is fitted on other batches than the gradients are measured on: on its own it leaves them nothing to
say.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax.errors import UserError
from masm_jax.parallel import sharding


def fit(
  params: Mapping[str, Any],
  detector_config: detector_lib.DetectorConfig,
  mesh: Mesh,
  batches: Iterator[Mapping[str, np.ndarray]],
  num_batches: int,
) -> dict[str, Any]:
  """The same parameters with a head that was fitted by logistic regression.

  Args:
    params: plain parameters `{'backbone': ..., 'head': ...}`, placed on the mesh.
    detector_config: what they belong to.
    mesh: of the run.
    batches: the first `num_batches` of them are used; each holds `image` and `label`.
    num_batches: how many.

  Returns:
    `params` with another `head`: kernel [D, 2] and bias [2], float32; its logits are of opposite
    sign. The same on every process.

  Raises:
    UserError: features that are not finite, or batches without one of the classes.
  """
  model = detector_lib.Detector(detector_config)
  step = jax.jit(
    lambda params, images, labels: (model.apply({'params': params}, images).features, labels),
    in_shardings=(
      sharding.frozen_sharding(params, mesh),
      sharding.batch_sharding(mesh),
      sharding.batch_sharding(mesh),
    ),
    out_shardings=sharding.replicated(mesh),
  )
  parts = []
  for _ in range(num_batches):
    batch = next(batches)
    placed = sharding.place_batch({name: batch[name] for name in ('image', 'label')}, mesh)
    parts.append(jax.device_get(step(params, placed['image'], placed['label'])))
  features = np.concatenate([features for features, _ in parts]).astype(np.float64)
  labels = np.concatenate([labels for _, labels in parts])
  if not np.isfinite(features).all():
    raise UserError('the features of the probe are not finite: look at the base weights and data')
  if len(np.unique(labels)) < 2:
    raise UserError(
      f'the {len(labels)} examples that the head of the probe is fitted on are all of one class: '
      'raise mask.head_batches, or set data.sampler = balanced'
    )
  kernel, bias = multihost_utils.broadcast_one_to_all(_logistic(features, labels))
  head = {'kernel': np.asarray(kernel), 'bias': np.asarray(bias)}
  return dict(params) | {'head': sharding.place(head, sharding.replicated(mesh))}


def _logistic(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Kernel [D, 2] and bias [2], float32, of a logistic regression on standardised features."""
  from sklearn import linear_model, preprocessing  # Slow to import.

  scaler = preprocessing.StandardScaler().fit(features)
  model = linear_model.LogisticRegression(max_iter=2000)
  model.fit(scaler.transform(features), labels)
  weight = model.coef_[0] / scaler.scale_
  offset = model.intercept_[0] - weight @ scaler.mean_
  halves = np.array([-0.5, 0.5])  # Index 1 is fake.
  return (weight[:, None] * halves).astype(np.float32), (offset * halves).astype(np.float32)
