"""The layers of a method that chooses them once, before it trains: measured, stored, read back.

`method.md` section 5, `oneshot`. [paper v3: bias-variance characteristics of layer-wise gradients
pick the layers] [ours: plain averages over a few batches of the training set, with the fresh head]
The choice is stored with the run: one that goes on, or is evaluated, takes the layers that it began
with, whatever its data or its machine would choose now. Without that record it is refused.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from masm_jax import config as config_lib
from masm_jax import detector as detector_lib
from masm_jax import sharding, steps, telemetry
from masm_jax.errors import UserError
from masm_jax.masking import grad_stats, layer_mask
from masm_jax.masking.groups import Groups
from masm_jax.methods import ChoosesLayers, Method

FILE = 'selection.json'

Batches = Iterator[Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which layers were chosen, and what for.

  Attributes:
    names: of the L layers.
    scores: float32 [L], as `mask.score` says.
    chosen: bool [L].
  """

  names: tuple[str, ...]
  scores: np.ndarray
  chosen: np.ndarray

  @property
  def layers(self) -> tuple[str, ...]:
    """Names of the chosen layers."""
    return tuple(name for name, on in zip(self.names, self.chosen, strict=True) if on)


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
    make_batches: begins the `mask.probe_batches` batches of the probe.
    workdir: the choice is stored in its `selection.json`, or read from there.
    hashes: `base_weights` and `train_manifest`, on which the choice depends beside the config.
    resuming: the workdir holds checkpoints of this run, which were trained on the stored choice.
    on_progress: called with the batches of the probe done, after each.

  Returns:
    The method to train, and what was chosen (None where there was no choice).

  Raises:
    UserError: a run that goes on has lost the record of its choice, or gradients are not finite.
  """
  if not _has_choice(method, config):
    return method, None
  mask_config = layer_mask.MaskConfig(**config.mask.to_dict())
  groups = method.candidates(params)
  path = workdir / FILE
  identity = _identity(config, hashes)
  stored = _read(path, groups, identity) if jax.process_index() == 0 else None
  if multihost_utils.broadcast_one_to_all(np.int32(stored is not None)):
    selection = stored or _blank(groups)
  elif resuming:
    raise _lost(path)
  else:
    scores = _probe(groups, params, config, detector_config, mesh, make_batches, on_progress)
    chosen = layer_mask.draw(scores, config=mask_config, seed=config.seed, step=0)
    selection = Selection(groups.names, np.asarray(scores)[:, 0], np.asarray(chosen)[:, 0])
  scores, chosen = multihost_utils.broadcast_one_to_all((selection.scores, selection.chosen))
  selection = Selection(groups.names, np.asarray(scores), np.asarray(chosen).astype(bool))
  if jax.process_index() == 0 and stored is None:
    record = {'identity': identity, 'probe_batches': config.mask.probe_batches}
    record |= {'score': config.mask.score, 'names': groups.names, 'scores': selection.scores}
    telemetry.write_json(path, record | {'chosen': selection.chosen.astype(int)})
  logging.info(
    '%d of %d layers are trained: %s',
    len(selection.layers),
    len(groups.names),
    ', '.join(selection.layers),
  )
  return method.with_layers(params, selection.layers), selection


def stored_layers(
  method: Method,
  params: Mapping[str, Any],
  *,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  hashes: Mapping[str, str],
) -> Method:
  """The method as a run in `workdir` trained it; arguments as of `choose_layers`.

  Raises:
    UserError: the run chose layers, and its record of them is missing, damaged or another run's.
  """
  if not _has_choice(method, config):
    return method
  path = workdir / FILE
  selection = _read(path, method.candidates(params), _identity(config, hashes))
  if selection is None:
    raise _lost(path)
  return method.with_layers(params, selection.layers)


def assume_deepest(
  method: Method, params: Mapping[str, Any], config: ml_collections.ConfigDict
) -> Method:
  """The method on its deepest layers, as many as `config.mask` keeps, where nothing is measured."""
  mask_config = layer_mask.MaskConfig(**config.mask.to_dict())
  if not isinstance(method, ChoosesLayers) or mask_config.kind in ('none', 'all'):
    return method
  names = method.candidates(params).names
  depth = np.arange(len(names), dtype=np.float32)[:, None]
  chosen = layer_mask.draw(
    depth, config=dataclasses.replace(mask_config, kind='oneshot'), seed=0, step=0
  )
  return method.with_layers(params, [names[i] for i in np.flatnonzero(chosen)])


def _probe(
  groups: Groups,
  params: Mapping[str, Any],
  config: ml_collections.ConfigDict,
  detector_config: detector_lib.DetectorConfig,
  mesh: Mesh,
  make_batches: Callable[[], Batches],
  on_progress: Callable[[int], None] | None,
) -> jax.Array:
  """Scores `[L, 1]` of the layers of the plain backbone, by their gradients over some batches."""
  params = sharding.place(params, sharding.frozen_sharding(params, mesh))
  probed = groups.select(params)
  probe_step = steps.make_probe_step(detector_config, groups, config)
  probe_step, stats = steps.jit_probe_step(probe_step, mesh, params, probed)
  is_lead = jax.process_index() == 0
  total = config.mask.probe_batches
  with (
    contextlib.closing(make_batches()) as batches,
    telemetry.Progress(total, label='probe', unit='batches', enabled=is_lead) as progress,
  ):
    for done in range(1, total + 1):
      batch = next(batches)
      inputs = {name: batch[name] for name in steps.INPUTS}
      stats = probe_step(stats, params, sharding.place_batch(inputs, mesh))
      jax.block_until_ready(stats.count)
      progress.update(done)
      if on_progress:
        on_progress(done)
  score = jax.jit(
    lambda stats, probed: grad_stats.group_scores(
      stats, groups, probed, kind=config.mask.score, decay=None, eps=config.mask.eps
    ),
    out_shardings=sharding.replicated(mesh),
  )
  scores = score(stats, probed)
  if not np.isfinite(np.asarray(scores)).all():
    raise UserError('the gradients of the probe are not finite: look at the base weights and data')
  return scores


def _has_choice(method: Method, config: ml_collections.ConfigDict) -> bool:
  """Whether layers are chosen; without a mask every candidate is trained."""
  return isinstance(method, ChoosesLayers) and config.mask.kind != 'none'


def _identity(config: ml_collections.ConfigDict, hashes: Mapping[str, str]) -> dict[str, str]:
  """What a choice belongs to."""
  names = ('base_weights', 'train_manifest')
  return {'config_sha256': config_lib.fingerprint(config)} | {name: hashes[name] for name in names}


def _read(path: pathlib.Path, groups: Groups, identity: Mapping[str, str]) -> Selection | None:
  """What this very run has chosen before; None if that is missing, damaged or another run's."""
  try:
    record = telemetry.read_json(path)
    if record['identity'] != identity or tuple(record['names']) != groups.names:
      return None
    scores, chosen = np.asarray(record['scores'], np.float32), np.asarray(record['chosen'], bool)
  except (UserError, KeyError, TypeError, ValueError):
    return None
  is_whole = scores.shape == chosen.shape == (len(groups.names),)
  return Selection(groups.names, scores, chosen) if is_whole else None


def _lost(path: pathlib.Path) -> UserError:
  """For checkpoints without the choice that they were trained on."""
  return UserError(
    f'{path}, which says what layers the checkpoints beside it train, is missing, damaged or that '
    'of another run: put the right one back, or begin anew in a new --workdir'
  )


def _blank(groups: Groups) -> Selection:
  """What other processes hold before the first one tells them."""
  size = len(groups.names)
  return Selection(groups.names, np.zeros(size, np.float32), np.zeros(size, bool))
