"""Scores data sets with a compiled model: every record once, gathered over all hosts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
import scipy.special
from jax.sharding import Mesh

from masm_jax import sharding
from masm_jax.data import pipeline
from masm_jax.data.manifest import Manifest
from masm_jax.evaluation import scores


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores any number of manifests.

  Attributes:
    eval_step: compiled, `(params, batch) -> {logit, record, mask}`, results
      replicated.
    mesh: where batches are placed.
    batch_size: global.
    image_size: pixels.
    num_threads: threads that load images.
  """

  eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
  mesh: Mesh
  batch_size: int
  image_size: int
  num_threads: int

  def scores(self, params: Any, manifest: Manifest) -> pd.DataFrame:
    """The score table of a manifest, one row per record that could be decoded; see
    `evaluation.scores`.

    Args:
      params: plain (merged) parameters, placed on the mesh.
      manifest: what to score.
    """
    results: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] | None = None
    batches = pipeline.eval_batches(
      manifest,
      batch_size=self.batch_size,
      image_size=self.image_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=self.num_threads,
    )
    for batch in batches:
      inputs = {key: batch[key] for key in ('image', 'record', 'mask')}
      inputs['record'] = inputs['record'].astype(np.int32)
      placed = sharding.place_batch(inputs, self.mesh)
      result = self.eval_step(params, placed)
      # One batch in flight: the next is loaded and sent while this one is computed.
      if pending is not None:
        results.append(jax.tree.map(np.asarray, pending))
      pending = result
    results.append(jax.tree.map(np.asarray, pending))
    columns = {key: np.concatenate([result[key] for result in results]) for key in results[0]}
    kept = columns['mask']
    logits = columns['logit'][kept].astype(np.float64)
    # In float64: float32 probabilities are all 1 above a log-odds of 17, and tie.
    return scores.score_table(
      manifest.table, columns['record'][kept], scipy.special.expit(logits), logits
    )
