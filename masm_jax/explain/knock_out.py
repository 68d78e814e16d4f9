"""Does each subspace learn an artifact of its own? What is lost when one is switched off.

A matrix K subspaces x forgeries: how much the AUROC on each forgery falls when the change of
subspace k is switched off, by a paired bootstrap. [ours] [paper: the claim that subspaces model
different artifacts, arXiv 2601.01041v1]
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.special

from masm_jax.data import transforms
from masm_jax.data.columns import FAKE, REAL
from masm_jax.data.manifest import Manifest
from masm_jax.explain.benchmark import as_json
from masm_jax.explain.gates import Explainer
from masm_jax.metrics import binary, uncertainty
from masm_jax.metrics.clusters import make_clusters


def knock_out(
  explainer: Explainer,
  manifest: Manifest,
  *,
  batch_size: int = 16,
  limit: int = 2000,
  num_draws: int = 2000,
  seed: int = 0,
  on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
  """The matrix for one detector on one set.

  Args:
    explainer: of the detector and its K changes.
    manifest: real and fake crops; frames are the unit.
    batch_size: pictures at a time.
    limit: crops that are scored, evenly over the set.
    num_draws: of the bootstrap.
    seed: of the bootstrap.
    on_progress: told of the crops done.

  Returns:
    JSON types. `auroc`: forgery -> AUROC of the whole detector; `falls`: for each subspace,
    forgery -> what it loses; each with `value`, `low`, `high`. `specialised`: for each subspace the
    forgery on which it loses most, and how much more than on the mean of the others; `together`:
    forgery -> what the pretrained backbone alone (all switched off) loses.
  """
  rows = np.unique(np.linspace(0, len(manifest) - 1, min(limit, len(manifest))).astype(int))
  table = manifest.table.loc[rows].reset_index(drop=True)
  num_parts = explainer.changes.num_parts
  settings = [np.ones(num_parts), *(1.0 - np.eye(num_parts)), np.zeros(num_parts)]
  scores = _scores(explainer, manifest, rows, settings, batch_size, on_progress)
  clusters = make_clusters(table)
  forgeries = sorted(table['method'][table['label'] == FAKE].unique())
  auroc: dict[str, Any] = {}
  losses: list[dict[str, tuple[float, np.ndarray]]] = [{} for _ in settings[1:]]
  for forgery in forgeries:
    wanted = (table['label'] == REAL) | ((table['label'] == FAKE) & (table['method'] == forgery))
    part: pd.DataFrame = table[wanted]
    keep = wanted.to_numpy()
    labels, (index, _) = part['label'].to_numpy(), clusters.within(part)

    def draws(column: np.ndarray, keep=keep, labels=labels, index=index) -> tuple:
      values = column[keep]
      drawn = uncertainty.bootstrap(labels, values, index, num_draws=num_draws, seed=seed)
      return binary.auroc(labels, values), drawn['auroc']

    whole, whole_draws = draws(scores[0])
    auroc[forgery] = as_json(uncertainty.interval(whole, whole_draws))
    for without, column in zip(losses, scores[1:], strict=True):
      value, of_draws = draws(column)
      without[forgery] = (whole - value, whole_draws - of_draws)
  falls = [
    {name: as_json(uncertainty.interval(*of)) for name, of in without.items()} for without in losses
  ]
  return {
    'num_crops': len(rows),
    'num_clusters': clusters.num,
    'auroc': auroc,
    'falls': falls[:-1],
    'together': falls[-1],
    'specialised': [_specialised(without) for without in losses[:-1]] if len(forgeries) > 1 else [],
  }


def _specialised(losses: dict[str, tuple[float, np.ndarray]]) -> dict[str, Any]:
  """The forgery that a subspace matters most for, against the mean of the others.

  The forgery is chosen on the same data: an interval that only just leaves out 0 proves nothing.
  """
  most = max(losses, key=lambda name: losses[name][0])
  others = [of for name, of in losses.items() if name != most]
  value = losses[most][0] - float(np.mean([of[0] for of in others]))
  draws = losses[most][1] - np.mean([of[1] for of in others], axis=0)
  return {'forgery': most, **as_json(uncertainty.interval(value, draws))}


def _scores(
  explainer: Explainer,
  manifest: Manifest,
  rows: np.ndarray,
  settings: list[np.ndarray],
  batch_size: int,
  on_progress: Callable[[int], None],
) -> list[np.ndarray]:
  """P(fake) of the rows under each setting of the gates, float64 [N] each."""
  size = explainer.config.backbone.image_size
  found: list[list[np.ndarray]] = [[] for _ in settings]
  for start in range(0, len(rows), batch_size):
    chosen = rows[start : start + batch_size]
    images = np.stack(
      [
        transforms.resize(
          transforms.decode_bytes(manifest.images.read(row), manifest.images.name(row)), size
        )
        for row in chosen
      ]
    )
    padded = np.concatenate([images, np.repeat(images[-1:], batch_size - len(images), axis=0)])
    for of_setting, gates in zip(found, settings, strict=True):
      found_logits = explainer.logits(padded, gates)[: len(images)]
      of_setting.append(scipy.special.expit(found_logits))
    on_progress(start + len(chosen))
  return [np.concatenate(of_setting) for of_setting in found]
