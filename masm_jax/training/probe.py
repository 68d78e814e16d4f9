"""Chooses the layers of FMSD once, before it trains, by a probe of gradients.

`docs/methods.md`, Layer masks. [paper v3: bias-variance characteristics of layer-wise gradients
pick the layers] [ours: plain averages over a few batches of the training set, with a head that was
fitted on others; how far two halves of the batches agree]
The choice is stored with the run: one that resumes, or is evaluated, takes the layers that it began
with, whatever its data or its machine would choose now. Without that record it is refused.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import files, telemetry, tree
from masm_jax.errors import UserError
from masm_jax.masking import grad_stats, layer_mask
from masm_jax.masking.groups import Groups
from masm_jax.methods import Method, chosen_layers
from masm_jax.methods.chosen_layers import Selection
from masm_jax.parallel import sharding
from masm_jax.training import fitted_head, objective, steps

Batches = Iterator[Mapping[str, np.ndarray]]


def choose_layers(
  method: Method,
  params: Mapping[str, Any],
  *,
  config: ml_collections.ConfigDict,
  detector_config: detector_lib.DetectorConfig,
  mesh: Mesh,
  make_batches: Callable[[], Batches],
  workdir: pathlib.Path,
  hashes: Mapping[str, str],
  resuming: bool,
  on_progress: Callable[[int], None] | None = None,
) -> tuple[Method, Selection | None]:
  """Gives a method its layers; one that has no choice to make comes back as it is.

  Every process measures the same global batches, and all take what the first one found or has
  stored: the choice is the same everywhere.

  Args:
    method: from `make_method`.
    params: plain parameters `{'backbone': ..., 'head': ...}`.
    config: the run's config.
    detector_config: the detector, undecomposed.
    mesh: of the run.
    make_batches: begins the `mask.head_batches` and `mask.probe_batches` batches of the probe.
    workdir: the choice is stored in its `selection.json`, or read from there.
    hashes: `base_weights` and `train_manifest`, on which the choice depends beside the config.
    resuming: the workdir holds checkpoints of this run, which were trained on the stored choice.
    on_progress: called with the batches done, after each whose gradients were measured.

  Returns:
    The method to train, and what was chosen (None where there was no choice).

  Raises:
    UserError: a run that resumes has lost the record of its choice, or gradients are not finite.
  """
  if not chosen_layers.has_choice(method, config):
    return method, None
  mask_config = layer_mask.MaskConfig(**config.mask.to_dict())
  groups = method.candidates(params)
  path = workdir / chosen_layers.FILE
  identity = chosen_layers.identity_of(config, hashes)
  stored = chosen_layers.read(path, groups, identity) if jax.process_index() == 0 else None
  if multihost_utils.broadcast_one_to_all(np.int32(stored is not None)):
    selection = stored or chosen_layers.blank(groups)
  elif resuming:
    raise chosen_layers.lost_record(path)
  else:
    scores, agreed = _probe(
      groups, params, config, detector_config, mesh, make_batches, on_progress
    )
    chosen = layer_mask.draw(scores, config=mask_config, seed=config.seed, step=0)
    selection = Selection(
      groups.names, np.asarray(scores)[:, 0], np.asarray(chosen)[:, 0], float(agreed)
    )
  scores, chosen, agreed = multihost_utils.broadcast_one_to_all(
    (selection.scores, selection.chosen, np.float32(selection.agreement))
  )
  selection = Selection(
    groups.names, np.asarray(scores), np.asarray(chosen).astype(bool), float(agreed)
  )
  if jax.process_index() == 0 and stored is not None:
    files.mend(path)
  if jax.process_index() == 0 and stored is None:
    floor = grad_stats.noise_floor(config.mask.score, decay=None, count=config.mask.probe_batches)
    record = {'identity': identity, 'probe_batches': config.mask.probe_batches}
    record |= {'score': config.mask.score, 'names': groups.names, 'scores': selection.scores}
    record |= {'agreement': selection.agreement, 'noise_floor': floor}
    files.write_sealed(
      path, record | {'chosen': selection.chosen.astype(int)}, spare=True
    )  # Nothing could make it again once the run is trained.
    _judge(selection, mask_config)
  logging.info(
    '%d of %d layers are trained: %s',
    len(selection.layers),
    len(groups.names),
    ', '.join(selection.layers),
  )
  return method.with_layers(params, selection.layers), selection


def _probe(
  groups: Groups,
  params: Mapping[str, Any],
  config: ml_collections.ConfigDict,
  detector_config: detector_lib.DetectorConfig,
  mesh: Mesh,
  make_batches: Callable[[], Batches],
  on_progress: Callable[[int], None] | None,
) -> tuple[jax.Array, jax.Array]:
  """Scores `[L, 1]` of the layers of the plain backbone, by their gradients over some batches, and
  the share of the layers that two halves of these batches choose alike."""
  params = sharding.place_frozen(params, mesh)
  probed = groups.select(params)
  probe_step = make_probe_step(detector_config, groups, config)
  probe_step, stats = jit_probe_step(probe_step, mesh, params, probed)
  is_lead = jax.process_index() == 0
  total = config.mask.probe_batches
  with (
    contextlib.closing(make_batches()) as batches,
    telemetry.Progress(total, label='probe', unit='batches', enabled=is_lead) as progress,
  ):
    if config.mask.head_batches:
      params = fitted_head.fit(params, detector_config, mesh, batches, config.mask.head_batches)
    for done in range(1, total + 1):
      batch = next(batches)
      inputs = {name: batch[name] for name in steps.INPUTS}
      stats = probe_step(stats, params, sharding.place_batch(inputs, mesh))
      jax.block_until_ready(stats.count)
      progress.update(done)
      if on_progress:
        on_progress(done)
  mask_config = layer_mask.MaskConfig(**config.mask.to_dict())

  def judge(stats: grad_stats.GradStats, probed: Any) -> tuple[jax.Array, jax.Array]:
    score = layer_mask.score_of(stats, groups, probed, mask_config)
    return score(None), layer_mask.agreement(score, mask_config)

  scores, agreed = jax.jit(judge, out_shardings=sharding.replicated(mesh))(stats, probed)
  if not np.isfinite(np.asarray(scores)).all():
    raise UserError('the gradients of the probe are not finite: look at the base weights and data')
  return scores, agreed


def _judge(selection: Selection, config: layer_mask.MaskConfig) -> None:
  """Says how far two halves of the batches chose alike, and warns where the scores are noise."""
  logging.info('two halves of the probe choose %.2f of the layers alike', selection.agreement)
  floor = grad_stats.noise_floor(config.score, decay=None, count=config.probe_batches)
  at_floor = np.median(selection.scores) < 1.5 * floor  # Never where there is no floor (nan, 0).
  kept = float(np.mean(selection.chosen))
  is_chance = layer_mask.beyond_chance(selection.agreement, kept) < layer_mask.SIGNAL
  if config.kind in ('oneshot', 'inverse') and (at_floor or is_chance):
    logging.warning(
      'mask.score = %s hardly tells the layers apart here: two halves of the %d batches choose '
      '%.2f of them alike (by chance %.2f), the median score is %.3g and noise scores %.3g; raise '
      'mask.probe_batches, or compare with mask.kind = random',
      config.score,
      config.probe_batches,
      selection.agreement,
      layer_mask.by_chance(kept),
      np.median(selection.scores),
      floor,
    )


def make_probe_step(
  detector_config: detector_lib.DetectorConfig,
  groups: Groups,
  config: ml_collections.ConfigDict,
) -> Callable[[grad_stats.GradStats, Any, objective.Batch], grad_stats.GradStats]:
  """Builds `probe_step(stats, params, batch) -> stats`, pure: the gradients of a plain detector.

  Args:
    detector_config: backbone, precision, feature normalisation.
    groups: the leaves of plain parameters whose gradients are averaged.
    config: the run's config; what the task loss needs is read.
  """
  task_loss = objective.make_task_loss(detector_config, config)

  def probe_step(
    stats: grad_stats.GradStats, params: Any, batch: objective.Batch
  ) -> grad_stats.GradStats:
    probed, others = tree.partition(params, groups.rows.__contains__)
    loss = lambda probed: task_loss(tree.combine(probed, others), batch, stats.count + 1)[0]
    return grad_stats.update_stats(stats, jax.grad(loss)(probed), decay=None)

  return probe_step


def jit_probe_step(
  step: Callable, mesh: Mesh, params: Any, probed: Any
) -> tuple[Callable, grad_stats.GradStats]:
  """Compiles a probe step; returns it with empty statistics, split over the mesh as `probed` is."""
  leaves = sharding.frozen_sharding(probed, mesh)
  everywhere, halves = sharding.replicated(mesh), (leaves,) * grad_stats.HALVES
  placement = grad_stats.GradStats(count=everywhere, weight=everywhere, mean=halves, square=halves)
  jitted = jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(
      placement,
      sharding.frozen_sharding(params, mesh),
      sharding.batch_sharding(mesh),
    ),
    out_shardings=placement,
  )
  return jitted, jax.jit(grad_stats.init_stats, out_shardings=placement)(probed)
