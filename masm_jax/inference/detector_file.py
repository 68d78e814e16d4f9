"""A detector file: one folder with everything that a trained detector needs to score.

    detector.json            what it is, see `detector_schema`
    weights.safetensors      its merged parameters, or what training added to base weights
    validation.safetensors   the validation's scores and statistics of its features
    changes.safetensors      what training added, for explanations; not in every file

It is data: reading it runs no code and reads no pickle, follows no path, checks every hash, and
allocates nothing that the sizes of its own files do not answer for.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import files, places, plain_files, tree
from masm_jax.errors import UserError
from masm_jax.inference import adapter, array_file, detector_schema, trained
from masm_jax.inference import changes as changes_lib
from masm_jax.inference.changes import Changes
from masm_jax.inference.detector_schema import Blob, DetectorFile
from masm_jax.inference.feature_statistics import FeatureStatistics
from masm_jax.inference.trained import TrainedRun
from masm_jax.inference.validation import Calibration, LevelScores, Validation
from masm_jax.methods import OnProgress
from masm_jax.metrics.scores import LEVELS
from masm_jax.parallel import sharding

NOTE = 'detector.json'
WEIGHTS = 'weights.safetensors'
VALIDATION = 'validation.safetensors'
CHANGES = 'changes.safetensors'

_MAX_NOTE_BYTES = 2**20
_MAX_SCORES = 2**17  # Of a level; see `validation.LevelScores`.


def is_detector_file(source: str | os.PathLike) -> bool:
  """Whether a folder is a detector file, sound or not."""
  return (pathlib.Path(source) / NOTE).exists()


def load_detector(
  source: pathlib.Path,
  mesh: Mesh,
  *,
  step: str = 'best',
  weights: str = '',
  on_progress: OnProgress = None,
) -> TrainedRun:
  """Loads a run's folder or a detector file, whichever it is.

  Args:
    source: the folder.
    mesh: where the parameters go.
    step: of a run: 'best', 'last' or a number; a detector file holds one checkpoint.
    weights: the file of base weights: of a run, if it is no longer where the run found it; of a
      detector file that holds an adapter.
    on_progress: of a run, see `trained.load_adapted`.

  Raises:
    UserError: neither of both, or see `load_detector_file` and `trained.load_run`.
  """
  if not is_detector_file(source):
    if places.is_half_replaced(NOTE, source):
      raise UserError(f'{source} is half replaced: run the command again that wrote it')
    return trained.load_run(source, mesh, step=step, weights=weights, on_progress=on_progress)
  if step != 'best':
    raise UserError(f'{source} is a detector file, which holds one checkpoint: leave out the step')
  return load_detector_file(source, mesh, weights=weights)


def load_detector_file(path: str | os.PathLike, mesh: Mesh, *, weights: str = '') -> TrainedRun:
  """Loads a detector file.

  Args:
    path: the folder.
    mesh: where the parameters go.
    weights: the file of base weights, for one that holds an adapter; '' for what ships with its
      backbone.

  Returns:
    A `TrainedRun` with its `file` and `validation`. Its `config` is for the record alone.

  Raises:
    UserError: no detector file, a damaged one, one of another version, or other base weights; one
      line.
  """
  folder = pathlib.Path(path)
  try:
    note = detector_schema.parse(_read_note(folder / NOTE))
    if note.digest is None:
      logging.warning(
        'detector file %s: an earlier version wrote %s without a digest, damage to it is not'
        ' noticed: export the run again',
        folder,
        NOTE,
      )
    architecture = detector_schema.build(note.backbone)
    config = detector_lib.DetectorConfig(
      architecture,
      note.head.normalize_features,
      detector_lib.compute_dtype(note.backbone.dtype),
    )
    if note.weights.kind == 'adapter':
      params = adapter.read(folder / WEIGHTS, note, config, weights)
    elif weights:
      raise UserError('it holds all its weights, and needs no base weights: leave them out')
    else:
      params = tree.unflatten(_read_weights(folder / WEIGHTS, note.weights, config))
    width = params['head']['kernel'].shape[0]
    found = _read_validation(folder / VALIDATION, note.validation, width)
  except UserError as error:
    raise UserError(f'detector file {folder}: {error}') from error
  except OSError as error:
    raise UserError(f'detector file {folder}: {error.strerror or error}') from error
  crops = tuple(way.settings() for way in note.crops)
  facts = {'method': note.method, 'backbone': note.backbone.preset, **note.origin.model_dump()}
  facts |= {'workdir': str(folder), 'detector_file': note.name}
  if len(crops) == 1:
    facts['crops'] = crops[0].to_json() | {'size_px': crops[0].size_px or None}
  placed = sharding.place_frozen(params, mesh)
  stored = ml_collections.ConfigDict({'stored': note.config}, convert_dict=False)
  return TrainedRun(stored, config, placed, facts, crops, found, note)


def load_changes(path: str | os.PathLike, run: TrainedRun) -> Changes:
  """What training added to the pretrained backbone of a detector file.

  Args:
    path: the folder.
    run: of `load_detector_file`, from the same folder.

  Raises:
    UserError: the file was written without it, or is damaged.
  """
  folder = pathlib.Path(path)
  note = run.file and run.file.explanation
  if note is None:
    raise UserError(
      f'detector file {folder} does not hold what training added: for explanations, export the run'
      ' again with --explanations=always'
    )
  params = jax.device_get(run.params)
  try:
    with array_file.opened(folder / CHANGES, note.blob) as (found, read):
      shapes = {name: shape for name, (_, shape) in found.items()}
      wanted = changes_lib.array_shapes(shapes, params, note.num_parts)
      array_file.check_shapes(
        folder / CHANGES, found, {name: ('F32', of) for name, of in wanted.items()}
      )
      arrays = {name: array_file.finite(folder / CHANGES, name, read(name)) for name in wanted}
  except UserError as error:
    raise UserError(f'detector file {folder}: {error}') from error
  return changes_lib.from_arrays(arrays, params, note.num_parts)


def write_detector_file(
  folder: pathlib.Path,
  *,
  params: Mapping[str, Any],
  validation: Validation | None,
  changes: Changes | None = None,
  added: Changes | None = None,
  benchmark: detector_schema.MapsBenchmark | None = None,
  **facts: Any,
) -> DetectorFile:
  """Writes a detector file; an unfinished one is never taken for a whole one.

  Args:
    folder: a new or an empty one, or an older detector file of the same run, or of the same file
      of another program, which is replaced.
    params: merged parameters.
    validation: what the validation set fixed, if anything.
    changes: what training added, for explanations.
    added: what training added, to be written in the place of the merged parameters.
    benchmark: what was measured of the maps, if anything.
    **facts: the other fields of `DetectorFile`.

  Raises:
    UserError: the folder holds other files or another detector or cannot be written, weights that
      are not finite, or facts that do not fit the schema.
  """
  _refuse_another(folder, facts['origin'])
  flat = {path: np.asarray(leaf, np.float32) for path, leaf in tree.flatten(params).items()}
  if broken := sorted(path for path, leaf in flat.items() if not np.isfinite(leaf).all()):
    raise UserError(
      f'{len(broken)} arrays of the detector hold values that are not finite, the first is'
      f' {broken[0]}: the model has diverged, export an earlier checkpoint'
    )
  try:
    with places.folder_of(
      NOTE, folder, what='the detector file', parts=(VALIDATION, CHANGES)
    ) as fresh:
      kept = flat if added is None else adapter.arrays(added, flat)
      blob = array_file.write_arrays(fresh / WEIGHTS, kept)
      kind = 'merged' if added is None else 'adapter'
      weights = detector_schema.Weights(sha256=blob.sha256, bytes=blob.bytes, kind=kind)
      part = None
      if validation is not None:
        part = _validation_note(
          validation, array_file.write_arrays(fresh / VALIDATION, _arrays(validation))
        )
      apart = None
      if changes is not None:
        blob = array_file.write_arrays(fresh / CHANGES, changes_lib.to_arrays(changes.parts))
        apart = detector_schema.Explanation(
          blob=blob, num_parts=changes.num_parts, benchmark=benchmark
        )
      note = detector_schema.create(weights=weights, validation=part, explanation=apart, **facts)
      files.write_sealed(fresh / NOTE, note.model_dump(mode='json'))
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror or error}') from error
  return note


def _refuse_another(folder: pathlib.Path, origin: detector_schema.Origin) -> None:
  """Refuses to replace a detector file that something else was written to."""
  try:
    places.finish(NOTE, folder)
    there = detector_schema.parse(_read_note(folder / NOTE))
  except (OSError, UserError):
    return  # There is none, or none that could be loaded.
  names = ('seed', 'config_sha256', 'base_weights')
  if any(getattr(there.origin, name) != getattr(origin, name) for name in names):
    raise UserError(
      f'{folder} holds another detector, {there.name}, of another origin: give a new folder'
    )


def _arrays(validation: Validation) -> dict[str, np.ndarray]:
  arrays = {}
  for level, found in validation.scores.items():
    arrays[f'{level}/labels'] = found.labels.astype(np.uint8)
    arrays[f'{level}/scores'] = found.scores
  if found := validation.features:
    arrays |= {'features/means': found.means, 'features/whitening': found.whitening}
  return arrays


def _validation_note(validation: Validation, blob: Blob) -> detector_schema.Validation:
  fitted, features = validation.calibration, validation.features
  return detector_schema.Validation(
    blob=blob,
    video_score='mean',
    thresholds={level: dict(found) for level, found in validation.thresholds.items()},
    calibration=fitted and detector_schema.Calibration(**vars(fitted)),
    features=features
    and detector_schema.Features(
      threshold=features.threshold, percentile=features.percentile, num=features.num
    ),
  )


def _read_note(path: pathlib.Path) -> bytes:
  array_file.check_file(path)
  with plain_files.open_file(path) as file:
    text = file.read(_MAX_NOTE_BYTES + 1)
  if len(text) > _MAX_NOTE_BYTES:
    raise UserError(f'{NOTE} is larger than {_MAX_NOTE_BYTES} bytes: it is damaged')
  return text


def _read_weights(
  path: pathlib.Path, blob: Blob, config: detector_lib.DetectorConfig
) -> dict[str, np.ndarray]:
  with array_file.opened(path, blob) as (found, read):
    # Before anything is built: one that claims to be deeper than its file is long is never built.
    if config.backbone.depth > len(found):
      raise UserError(f'{WEIGHTS} does not hold the weights of the architecture in {NOTE}')
    try:
      shapes = detector_lib.param_shapes(config)
    except UserError:
      raise
    except Exception as error:  # Whatever a family makes of sizes that do not go together.
      raise UserError(f'backbone.architecture cannot be built: {type(error).__name__}') from error
    wanted = {name: ('F32', shape) for name, shape in shapes.items()}
    array_file.check_shapes(path, found, wanted)
    return {name: array_file.finite(path, name, read(name)) for name in wanted}


def _read_validation(
  path: pathlib.Path, note: detector_schema.Validation | None, width: int
) -> Validation | None:
  if note is None:
    return None
  with array_file.opened(path, note.blob) as (found, read):
    wanted = {}
    for level in LEVELS:
      num = min(found.get(f'{level}/scores', ('', (0,)))[1][:1] or (0,))
      if num > _MAX_SCORES:
        raise UserError(f'{VALIDATION}: more than {_MAX_SCORES} scores: it is damaged')
      wanted |= {f'{level}/scores': ('F64', (num,)), f'{level}/labels': ('U8', (num,))}
    if note.features:
      wanted['features/means'] = ('F32', (2, width))
      wanted['features/whitening'] = ('F32', (width, width))
    array_file.check_shapes(path, found, wanted)
    arrays = {name: array_file.finite(path, name, read(name)) for name in wanted}
  for level in LEVELS:
    labels, values = arrays[f'{level}/labels'], arrays[f'{level}/scores']
    is_ranked = (np.diff(values) >= 0).all()
    if not (is_ranked and ((values >= 0) & (values <= 1)).all() and (labels <= 1).all()):
      raise UserError(f'{VALIDATION}: {level} scores are no sorted scores: it is damaged')
  features = note.features and FeatureStatistics(
    arrays['features/means'], arrays['features/whitening'], **note.features.model_dump()
  )
  return Validation(
    thresholds={level: note.thresholds.get(level, {}) for level in LEVELS},
    calibration=note.calibration and Calibration(**note.calibration.model_dump()),
    scores={
      level: LevelScores(arrays[f'{level}/labels'].astype(np.int64), arrays[f'{level}/scores'])
      for level in LEVELS
    },
    features=features,
  )
