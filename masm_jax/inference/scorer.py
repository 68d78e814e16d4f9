"""Scores data sets with a compiled model: every record once, gathered over all hosts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
import scipy.special
from jax.sharding import Mesh

from masm_jax.data import pipeline
from masm_jax.data.manifest import Manifest
from masm_jax.metrics import scores
from masm_jax.parallel import sharding


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
    feature_step: as `eval_step`, with `feature` in the place of `logit`; needed by `features`.
  """

  eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
  mesh: Mesh
  batch_size: int
  image_size: int
  num_threads: int
  feature_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]] | None = None

  def scores(
    self,
    params: Any,
    manifest: Manifest,
    *,
    perturb: pipeline.Perturb | None = None,
    on_progress: Callable[[int], None] | None = None,
  ) -> pd.DataFrame:
    """The score table of a manifest, one row per record that could be decoded; see
    `evaluation.scores`.

    Args:
      params: plain (merged) parameters, placed on the mesh.
      manifest: what to score.
      perturb: see `pipeline.eval_batches`.
      on_progress: called with the batches done, after each.
    """
    columns = self._run(self.eval_step, params, manifest, perturb, on_progress)
    logits = columns['logit'].astype(np.float64)
    # In float64: float32 probabilities are all 1 above a log-odds of 17, and tie.
    probs = scipy.special.expit(logits)
    return scores.score_table(manifest.table, columns['record'], probs, logits)

  def features(
    self,
    params: Any,
    manifest: Manifest,
    *,
    on_progress: Callable[[int], None] | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """What the head saw of each record that could be decoded.

    Args:
      params: plain (merged) parameters, placed on the mesh.
      manifest: of few records: every host gets all features.
      on_progress: called with the batches done, after each.

    Returns:
      Records int64 [N], rising, and features float32 [N, D].
    """
    columns = self._run(self.feature_step, params, manifest, on_progress=on_progress)
    order = np.argsort(columns['record'])
    return columns['record'][order].astype(np.int64), columns['feature'][order]

  def _run(
    self,
    step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
    params: Any,
    manifest: Manifest,
    perturb: pipeline.Perturb | None = None,
    on_progress: Callable[[int], None] | None = None,
  ) -> dict[str, np.ndarray]:
    """Results of a step over a manifest, from all hosts, padding and failures dropped."""
    results: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] | None = None
    batches = pipeline.eval_batches(
      manifest,
      batch_size=self.batch_size,
      image_size=self.image_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=self.num_threads,
      perturb=perturb,
    )
    for done, batch in enumerate(batches, start=1):
      inputs = {key: batch[key] for key in ('image', 'record', 'mask')}
      inputs['record'] = inputs['record'].astype(np.int32)
      placed = sharding.place_batch(inputs, self.mesh)
      result = step(params, placed)
      # One batch in flight: the next is loaded and sent while this one is computed.
      if pending is not None:
        results.append(jax.tree.map(np.asarray, pending))
      pending = result
      if on_progress:
        on_progress(done)
    results.append(jax.tree.map(np.asarray, pending))
    columns = {key: np.concatenate([result[key] for result in results]) for key in results[0]}
    return {key: values[columns['mask']] for key, values in columns.items()}
