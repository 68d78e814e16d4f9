"""A run as a detector file: see `inference.detector_file` for what that is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import masm_jax
from masm_jax import files, telemetry
from masm_jax.data import crop_settings
from masm_jax.data import sets as sets_lib
from masm_jax.data.columns import FAKE
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.export.request import Request
from masm_jax.inference import (
  detector_file,
  detector_schema,
  feature_statistics,
  steps,
  trained,
  validation,
)
from masm_jax.inference.scorer import Evaluator
from masm_jax.metrics import text_tables
from masm_jax.parallel import sharding

_MAX_FRAMES = 20_000  # Of the validation set that statistics of features are made of.
_BATCH_SIZE = 32
_PLACES = ('manifest', 'root', 'weights', 'cache_dir')  # Fields of a config that name files.
_NOT_PLACES = (sets_lib.SYNTHETIC, 'random')


def write(request: Request) -> None:
  """Writes the detector file of a run, and prints what it holds.

  Raises:
    UserError: no such run or step, or the folder cannot be written.
  """
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  if detector_file.is_detector_file(request.run):
    raise UserError(f'{request.run} is a detector file already: give the folder of a run')
  run = trained.load_run(request.run, mesh, step=request.step, weights=request.base_weights)
  found, problem = _validation(run, mesh)
  family, fields = detector_schema.describe(run.detector.backbone)
  name = text_tables.one_line(request.name or request.run.absolute().name)
  train, _ = _at_hand(run, 'train')
  crops = run.crops or (crop_settings.read_crop_settings(train) if train else ())
  note = detector_file.write_detector_file(
    request.out,
    params=run.params,
    validation=found,
    name=name,
    licence_note=text_tables.one_line(request.licence_note),
    code=_code(),
    method=run.facts['method'],
    backbone=detector_schema.Backbone(
      preset=run.facts['backbone'],
      family=family,
      architecture=files.to_json(fields),
      dtype=run.config.backbone.dtype,
    ),
    head=detector_schema.Head(normalize_features=run.detector.normalize_features),
    crops=tuple(detector_schema.Crops(**way.to_json()) for way in crops),
    training=_training(train),
    origin=_origin(run.facts),
    config=_without_places(files.to_json(run.config.to_dict())),
  )
  megabytes = note.weights.bytes / 1e6
  print(f'{name}: {note.method} on {note.backbone.preset}, step {note.origin.step}')
  print(f'  weights     {megabytes:.1f} MB, SHA-256 {note.weights.sha256[:12]}')
  print(f'  thresholds  {_thresholds(found)}')
  features = found and found.features
  told = f'of {features.num} validation frames' if features else f'none: {problem}'
  print(f'  features    {told}')
  print(f'Detector file: {request.out}')


def _validation(
  run: trained.TrainedRun, mesh: jax.sharding.Mesh
) -> tuple[validation.Validation | None, str]:
  """What the validation set fixes, and why it says nothing of features ('' where it does)."""
  manifest, problem = _at_hand(run, 'val')
  found = run.validation
  if manifest is None:
    return found, problem
  evaluator = Evaluator(
    steps.jit_eval_step(steps.make_eval_step(run.detector), mesh, run.params),
    mesh,
    _BATCH_SIZE,
    run.detector.backbone.image_size,
    run.config.data.num_threads,
    steps.jit_eval_step(steps.make_feature_step(run.detector), mesh, run.params),
  )
  if found is None:  # Of a checkpoint that the run did not score itself.
    found = validation.from_scores(evaluator.scores(run.params, manifest))
  rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), _MAX_FRAMES)).round())
  sample = manifest.select(path=list(manifest.table['path'].iloc[rows.astype(np.int64)]))
  records, features = evaluator.features(run.params, sample)
  table = sample.table.iloc[records]
  fitted = feature_statistics.fit(features, table['label'].to_numpy(), table['video_id'].to_numpy())
  problem = '' if fitted else 'the validation set has too few videos'
  return dataclasses.replace(found, features=fitted), problem


def _at_hand(run: trained.TrainedRun, name: str) -> tuple[Manifest | None, str]:
  """The set that a run was trained on or chosen by, or why it is not to be had."""
  data = run.config.data
  try:
    manifest = sets_lib.SetLoader(data.synthetic)(f'data.{name}', data[name])
  except UserError as error:
    return None, str(error)
  if manifest.sha256 != run.facts[f'{name}_manifest']:
    return None, f'{data[name].manifest} is no longer the {name} set of the run'
  return manifest, ''


def _code() -> detector_schema.Code:
  state = telemetry.git_state()
  commit = f'{state["commit"]}{"+changes" if state["changed_files"] else ""}' if state else None
  return detector_schema.Code(version=masm_jax.__version__, commit=commit)


def _training(train: Manifest | None) -> detector_schema.Training:
  if train is None:
    return detector_schema.Training(sets=(), forgeries=(), videos=None, frames=None)
  table = train.table
  named = lambda column: tuple(sorted({text_tables.one_line(str(name)) for name in column} - {''}))
  return detector_schema.Training(
    sets=named(table['dataset']),
    forgeries=named(table['method'][table['label'] == FAKE]),
    videos=int(table['video_id'].nunique()),
    frames=len(table),
  )


def _origin(facts: Mapping[str, Any]) -> detector_schema.Origin:
  return detector_schema.Origin(
    **{name: facts[name] for name in detector_schema.Origin.model_fields}
  )


def _without_places(value: Any) -> Any:
  """A config without the paths of the machine that it comes from."""
  if isinstance(value, list):
    return [_without_places(item) for item in value]
  if not isinstance(value, dict):
    return value
  return {
    key: '' if key in _PLACES and item not in _NOT_PLACES else _without_places(item)
    for key, item in value.items()
  }


def _thresholds(found: validation.Validation | None) -> str:
  if found is None:
    return 'none: the run has no scores of its validation set, and its images are not at hand'
  return ', '.join(
    f'{level} EER {thresholds["eer"]:.3f}'
    for level, thresholds in found.thresholds.items()
    if 'eer' in thresholds
  )
