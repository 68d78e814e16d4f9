"""A run as a detector file: see `inference.detector_file` for what that is."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import masm_jax
from masm_jax import files, telemetry, tree
from masm_jax.data import crop_settings
from masm_jax.data import sets as sets_lib
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.export.request import Request
from masm_jax.inference import changes as changes_lib
from masm_jax.inference import (
  composition,
  detector_file,
  detector_schema,
  feature_statistics,
  steps,
  trained,
  validation,
)
from masm_jax.inference.changes import Changes
from masm_jax.inference.scorer import Evaluator
from masm_jax.metrics import text_tables
from masm_jax.parallel import sharding
from masm_jax.terminal import say

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
  adapted = trained.load_adapted(request.run, mesh, step=request.step, weights=request.base_weights)
  run = trained.merged(adapted, request.run, mesh, step=request.step)
  added = _changes(adapted, request)
  measured = added and request.benchmark and _benchmark(request.benchmark, run)
  found, problem = _validation(run, mesh)
  family, fields = detector_schema.describe(run.detector.backbone)
  name = text_tables.one_line(request.name or request.run.absolute().name)
  train, _ = _at_hand(run, 'train')
  crops = run.crops or (crop_settings.read_crop_settings(train) if train else ())
  note = detector_file.write_detector_file(
    request.out,
    params=run.params,
    validation=found,
    changes=added,
    added=changes_lib.learned_changes(adapted) if request.weights == 'adapter' else None,
    benchmark=measured or None,
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
    training=_training(train, request),
    origin=_origin(run.facts),
    config=without_places(files.to_json(run.config.to_dict())),
  )
  megabytes = note.weights.bytes / 1e6
  say(f'{name}: {note.method} on {note.backbone.preset}, step {note.origin.step}')
  kind = '' if request.weights == 'merged' else f', added to {note.origin.base_weights[:12]}'
  say(f'  weights     {megabytes:.1f} MB, SHA-256 {note.weights.sha256[:12]}{kind}')
  say(f'  trained on  {_trained_on(note.training)}')
  say(f'  thresholds  {_thresholds(found)}')
  features = found and found.features
  told = f'of {features.num} validation frames' if features else f'none: {problem}'
  say(f'  features    {told}')
  if note.explanation:
    size = note.explanation.blob.bytes / 1e6
    told = f'{size:.1f} MB, {note.explanation.num_parts} learned changes'
    measured = 'measured' if note.explanation.benchmark else 'not measured yet'
    told += f'; {measured} (masm-jax explain --benchmark)'
  else:
    told = 'none' if request.explanations == 'never' else 'none: nothing small was trained'
  say(f'  explanation {told}')
  say(f'Detector file: {request.out}')


def _changes(run: trained.AdaptedRun, request: Request) -> Changes | None:
  """What training added, where it goes into the file."""
  if request.explanations == 'never':
    return None
  found = changes_lib.learned_changes(run)
  size = sum(array.size for array in changes_lib.to_arrays(found.parts).values())
  is_small = size < tree.param_count(found.base)
  return found if found.parts and (is_small or request.explanations == 'always') else None


def _benchmark(path: pathlib.Path, run: trained.TrainedRun) -> detector_schema.MapsBenchmark:
  """What a benchmark measured of the maps of this run: of its first set that has masks.

  Raises:
    UserError: no such file, or one of other weights.
  """
  document = files.read_json(path)
  try:
    same = document['run']['trained_weights'] == run.facts['trained_weights']
    measured = {
      name: found['localisation']
      for name, found in document['sets'].items()
      if found['localisation']
    }
    name, found = next(iter(measured.items()), ('', None))
    difference = found and found['differences']['centre prior']['auprc']
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} is no benchmark.json of masm_jax.explain') from error
  if not same:
    raise UserError(f'{path} measured the explanations of other weights than those of this run')
  if found is None:
    raise UserError(f'{path} measured no maps: its sets have no fakes beside their real frames')
  try:
    numbers = {key: float(difference[key]) for key in ('value', 'low', 'high')}
    return detector_schema.MapsBenchmark(set=name, num_pairs=found['num_pairs'], **numbers)
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    raise UserError(
      f'{path}: its numbers cannot be used: {text_tables.one_line(str(error))}'
    ) from error


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
    manifest = sets_lib.SetLoader(data.synthetic, is_stored=True)(f'data.{name}', data[name])
  except UserError as error:
    return None, str(error)
  if manifest.sha256 != run.facts[f'{name}_manifest']:
    return None, f'{data[name].manifest} is no longer the {name} set of the run'
  return manifest, ''


def _code() -> detector_schema.Code:
  state = telemetry.git_state()
  commit = None
  if state and state['changed_files'] is not None:  # Otherwise git did not say what it stands for.
    commit = f'{state["commit"]}{"+changes" if state["changed_files"] else ""}'
  return detector_schema.Code(version=masm_jax.__version__, commit=commit)


def _training(train: Manifest | None, request: Request) -> detector_schema.Training:
  """From the training set where it is at hand, otherwise from the run's record."""
  if train is not None:
    return composition.describe(train)
  return composition.of_run(request.run) or composition.UNKNOWN


def _trained_on(training: detector_schema.Training) -> str:
  parts = []
  for label, counts in (('real', training.real), ('fake', training.fake)):
    if counts:
      people = '' if counts.identities is None else f' of {counts.identities:,} identities'
      parts.append(f'{counts.videos:,} {label} videos{people}')
  return f'{", ".join(training.sets) or "not recorded"}{": " if parts else ""}{", ".join(parts)}'


def _origin(facts: Mapping[str, Any]) -> detector_schema.Origin:
  return detector_schema.Origin(
    **{name: facts[name] for name in detector_schema.Origin.model_fields}
  )


def without_places(value: Any) -> Any:
  """A config without the paths of the machine that it comes from."""
  if isinstance(value, list):
    return [without_places(item) for item in value]
  if not isinstance(value, dict):
    return value
  return {
    key: '' if key in _PLACES and item not in _NOT_PLACES else without_places(item)
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
