"""A trained detector, rebuilt from its run's directory: config, base weights, one checkpoint.

A run may be a stranger's: what its folder says is checked by `stored`, and obeyed in nothing else.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections
from absl import logging
from jax.sharding import Mesh

from masm_jax import config as config_lib
from masm_jax import detector as detector_lib
from masm_jax import files, tree
from masm_jax.checkpoints import reading as saved_run
from masm_jax.data import crop_settings
from masm_jax.data.crop_settings import CropSettings
from masm_jax.errors import UserError
from masm_jax.inference import steps, stored, validation
from masm_jax.inference.detector_schema import DetectorFile
from masm_jax.inference.validation import Validation
from masm_jax.methods import Method, OnProgress, chosen_layers, make_method
from masm_jax.metrics import scores
from masm_jax.parallel import sharding
from masm_jax.subspaces import factor_cache


@dataclasses.dataclass(frozen=True)
class AdaptedRun:
  """A run as its method keeps it: what was trained apart from what was frozen.

  Attributes:
    config: of the run.
    detector: what the merged parameters belong to.
    method: puts the parts together.
    initial: trainable leaves where the run began.
    trainable: trainable leaves of the checkpoint.
    frozen: the frozen ones.
    facts: as of `TrainedRun`.
    crops: as of `TrainedRun`.
  """

  config: ml_collections.ConfigDict
  detector: detector_lib.DetectorConfig
  method: Method
  initial: Any
  trainable: Any
  frozen: Any
  facts: dict[str, Any]
  crops: tuple[CropSettings, ...]


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """A detector and where it comes from.

  Attributes:
    config: of the run.
    detector: what `params` belong to.
    params: plain (merged) parameters, placed on the mesh.
    facts: JSON types: method, backbone, seed, checkpoint, step, best_step, last_step, selected_by,
      workdir, config_sha256, base_weights, trained_weights, trainable_parameters, train_manifest,
      val_manifest (manifests and weights by their hashes); crops, where all were made in one way.
    crops: the ways in which the training crops were made; () where the run does not tell.
    validation: what the validation set fixed, where that is stored with the detector.
    file: of a detector file, what it says; None for a run.
  """

  config: ml_collections.ConfigDict
  detector: detector_lib.DetectorConfig
  params: Any
  facts: dict[str, Any]
  crops: tuple[CropSettings, ...]
  validation: Validation | None = None
  file: DetectorFile | None = None


def load_run(
  workdir: pathlib.Path,
  mesh: Mesh,
  *,
  step: str = 'best',
  weights: str = '',
  on_progress: OnProgress = None,
) -> TrainedRun:
  """Rebuilds the detector of a run; arguments and errors as of `load_adapted`.

  Its `validation` comes from the scores that the run left of its validation set, if it did.
  """
  run = load_adapted(workdir, mesh, step=step, weights=weights, on_progress=on_progress)
  return merged(run, workdir, mesh, step=step)


def merged(run: AdaptedRun, workdir: pathlib.Path, mesh: Mesh, *, step: str) -> TrainedRun:
  """The detector of an adapted run; arguments as those it was loaded with."""
  merge = steps.jit_merge(run.method, mesh, run.trainable, run.frozen)
  params = merge(run.trainable, run.frozen)
  found = _validation(workdir / 'scores' / step / 'val.parquet', run.facts['step'])
  return TrainedRun(run.config, run.detector, params, run.facts, run.crops, found)


def _validation(path: pathlib.Path, step: int) -> Validation | None:
  """What a run's scores of its validation set fixed; None where they are not there, or damaged."""
  of = {'set': 'val', 'step': str(step)}
  if not path.is_file():
    return None
  try:
    return validation.from_scores(scores.read_scores(path, of=of))
  except UserError as error:
    logging.warning('%s; the validation set counts as not scored', error)
    return None


def load_adapted(
  workdir: pathlib.Path,
  mesh: Mesh,
  *,
  step: str = 'best',
  weights: str = '',
  on_progress: OnProgress = None,
) -> AdaptedRun:
  """Rebuilds the parts of a run; its checkpoints stay as they are.

  Args:
    workdir: of the run, finished or not.
    mesh: where the parameters go.
    step: 'best' (chosen by validation), 'last', or a number.
    weights: the file of base weights, if it is no longer where the config says.
    on_progress: told of (kernels decomposed, kernels in all), where the cache has none.

  Returns:
    An `AdaptedRun`.

  Raises:
    UserError: no such run or step, a config of another version of this program, base weights that
      are not those of the run, or the record of its layers lost.
  """
  saved = saved_run.SavedRun(workdir)
  number, found = saved.choose(step)
  meta = stored.parse_meta(found, workdir, number)
  config = stored.read_config(meta.config, workdir)
  backbone, detector_config = detector_lib.from_config(config)
  params, base_hash = detector_lib.load_params(
    backbone, weights or config.backbone.weights, detector_config, jax.random.key(config.seed)
  )
  if base_hash != meta.base_weights:
    raise UserError(
      f'{workdir} was trained on other base weights (hash {meta.base_weights[:12]}, now'
      f' {base_hash[:12]}): give the file it was started with as --weights'
    )
  stored.check_patterns(config, params, workdir)
  # A cache that the config names is read too: its factors are those of the training.
  cache = factor_cache.ReadOnly(config.subspace.cache_dir or workdir / 'decomposition')
  method = make_method(config, cache_dir=cache, on_progress=on_progress)
  method = chosen_layers.stored_layers(
    method, params, config=config, workdir=workdir, hashes=meta.hashes()
  )
  initial, frozen, _ = sharding.agree(method.init(params, jax.random.key(config.seed)))
  del params
  frozen = sharding.place_frozen(frozen, mesh)
  everywhere = sharding.replicated(mesh)
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), initial
  )
  # The run may be training, and have removed that checkpoint: then it is the newest again.
  number, found, trainable = saved.chosen(step, target)
  meta = stored.parse_meta(found, workdir, number)
  last, newest = saved.choose('last')
  best = newest['best_step']
  facts = {
    'method': config.method,
    'backbone': config.backbone.name,
    'seed': config.seed,
    'checkpoint': 'last' if step == 'best' and not best else _named(step),
    'step': number,
    'best_step': best,
    'last_step': last,
    'selected_by': config.eval.select_by,
    'workdir': str(workdir),
    'config_sha256': config_lib.fingerprint(config),
    'base_weights': base_hash,
    'trained_weights': tree.content_hash(trainable),
    'trainable_parameters': tree.param_count(trainable),
    'train_manifest': meta.train_manifest,
    'val_manifest': meta.val_manifest,
  }
  ways = _crops(workdir)
  if len(ways) == 1:
    facts['crops'] = ways[0].to_json() | {'size_px': ways[0].size_px or None}
  return AdaptedRun(config, detector_config, method, initial, trainable, frozen, facts, ways)


def _named(step: str) -> str:
  return step if step in ('best', 'last') else 'step'


def _crops(workdir: pathlib.Path) -> tuple[CropSettings, ...]:
  """How the run's record says that its training crops were made; runs of version 0.1 do not say."""
  try:
    record = files.read_json(workdir / 'run.json')
  except UserError:
    return ()
  return crop_settings.read_record(record.get('crops'))
