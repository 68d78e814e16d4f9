"""A detector file: one folder with everything that a trained detector needs to score.

    detector.json            what it is, see `detector_schema`
    weights.safetensors      its merged parameters
    validation.safetensors   the validation's scores and statistics of its features

It is data: reading it runs no code and reads no pickle, follows no path, checks every hash, and
allocates nothing that the sizes of its own files do not answer for.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from masm_jax import detector as detector_lib
from masm_jax import files, tree
from masm_jax.errors import UserError
from masm_jax.inference import detector_schema, trained
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

_MAX_NOTE_BYTES = 2**20
_MAX_SCORES = 2**17  # Of a level; see `validation.LevelScores`.

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # Name -> type and shape.


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
    weights: of a run: the file of base weights, if it is no longer where the run found it.
    on_progress: of a run, see `trained.load_adapted`.

  Raises:
    UserError: neither of both, or see `load_detector_file` and `trained.load_run`.
  """
  if not is_detector_file(source):
    return trained.load_run(source, mesh, step=step, weights=weights, on_progress=on_progress)
  if step != 'best':
    raise UserError(f'{source} is a detector file, which holds one checkpoint: leave out the step')
  if weights:
    raise UserError(f'{source} is a detector file, which needs no base weights: leave them out')
  return load_detector_file(source, mesh)


def load_detector_file(path: str | os.PathLike, mesh: Mesh) -> TrainedRun:
  """Loads a detector file.

  Args:
    path: the folder.
    mesh: where the parameters go.

  Returns:
    A `TrainedRun` with its `file` and `validation`. Its `config` is for the record alone.

  Raises:
    UserError: no detector file, a damaged one, or one of another version; one line.
  """
  folder = pathlib.Path(path)
  try:
    note = detector_schema.parse(_read_note(folder / NOTE))
    architecture = detector_schema.build(note.backbone)
    config = detector_lib.DetectorConfig(
      architecture,
      note.head.normalize_features,
      detector_lib.compute_dtype(note.backbone.dtype),
    )
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


def write_detector_file(
  folder: pathlib.Path,
  *,
  params: Mapping[str, Any],
  validation: Validation | None,
  **facts: Any,
) -> DetectorFile:
  """Writes a detector file; an unfinished one is never taken for a whole one.

  Args:
    folder: a new or an empty one, or an older detector file, which is replaced.
    params: merged parameters.
    validation: what the validation set fixed, if anything.
    **facts: the other fields of `DetectorFile`.

  Raises:
    UserError: the folder holds other files or cannot be written, weights that are not finite, or
      facts that do not fit the schema.
  """
  flat = {path: np.asarray(leaf, np.float32) for path, leaf in tree.flatten(params).items()}
  if broken := sorted(path for path, leaf in flat.items() if not np.isfinite(leaf).all()):
    raise UserError(
      f'{len(broken)} arrays of the detector hold values that are not finite, the first is'
      f' {broken[0]}: the model has diverged, export an earlier checkpoint'
    )
  try:
    others = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others and NOTE not in others:
      raise UserError(f'{folder} holds other files: give a new folder for the detector file')
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder)
    (folder / NOTE).unlink(missing_ok=True)  # First: what is there now no longer fits.
    weights = _write_arrays(folder / WEIGHTS, flat)
    part = None
    if validation is None:
      (folder / VALIDATION).unlink(missing_ok=True)
    else:
      part = _validation_note(validation, _write_arrays(folder / VALIDATION, _arrays(validation)))
    note = detector_schema.create(weights=weights, validation=part, **facts)
    files.write_json(folder / NOTE, note.model_dump(mode='json'))
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror or error}') from error
  return note


def _write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> Blob:
  contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with files.replacing(path) as fresh:
    mode = fresh.stat().st_mode  # The library makes a file of its own, for its owner alone.
    safetensors.numpy.save_file(contiguous, fresh)
    fresh.chmod(mode)
    return Blob(sha256=_sha256(fresh), bytes=fresh.stat().st_size)


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
  _check_file(path)
  with path.open('rb') as file:
    text = file.read(_MAX_NOTE_BYTES + 1)
  if len(text) > _MAX_NOTE_BYTES:
    raise UserError(f'{NOTE} is larger than {_MAX_NOTE_BYTES} bytes: it is damaged')
  return text


def _check_file(path: pathlib.Path) -> None:
  """Refuses what is no plain file: a pipe would be waited for, a device has no end."""
  if not path.is_file():
    raise UserError(f'there is no file {path.name}: copy the whole folder')


def _read_weights(
  path: pathlib.Path, blob: Blob, config: detector_lib.DetectorConfig
) -> dict[str, np.ndarray]:
  with _opened(path, blob) as (found, read):
    # Before anything is built: one that claims to be deeper than its file is long is never built.
    if config.backbone.depth > len(found):
      raise UserError(f'{WEIGHTS} does not hold the weights of the architecture in {NOTE}')
    try:
      shapes = jax.eval_shape(
        functools.partial(detector_lib.init_params, config), jax.random.key(0)
      )
    except UserError:
      raise
    except Exception as error:  # Whatever a family makes of sizes that do not go together.
      raise UserError(f'backbone.architecture cannot be built: {type(error).__name__}') from error
    wanted = {name: ('F32', leaf.shape) for name, leaf in tree.flatten(shapes).items()}
    _check_shapes(path, found, wanted)
    return {name: _finite(path, name, read(name)) for name in wanted}


def _read_validation(
  path: pathlib.Path, note: detector_schema.Validation | None, width: int
) -> Validation | None:
  if note is None:
    return None
  with _opened(path, note.blob) as (found, read):
    wanted = {}
    for level in LEVELS:
      num = min(found.get(f'{level}/scores', ('', (0,)))[1][:1] or (0,))
      if num > _MAX_SCORES:
        raise UserError(f'{VALIDATION}: more than {_MAX_SCORES} scores: it is damaged')
      wanted |= {f'{level}/scores': ('F64', (num,)), f'{level}/labels': ('U8', (num,))}
    if note.features:
      wanted['features/means'] = ('F32', (2, width))
      wanted['features/whitening'] = ('F32', (width, width))
    _check_shapes(path, found, wanted)
    arrays = {name: _finite(path, name, read(name)) for name in wanted}
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


@contextlib.contextmanager
def _opened(
  path: pathlib.Path, blob: Blob
) -> Iterator[tuple[dict[str, tuple[str, tuple[int, ...]]], Callable[[str], np.ndarray]]]:
  """Types and shapes of a safetensors file whose hash is right, and a function that reads one."""
  _check_file(path)
  size = path.stat().st_size
  if size != blob.bytes or _sha256(path) != blob.sha256:
    raise UserError(f'{path.name} is not the file that {NOTE} was written with: copy both again')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      found = {}
      for name in file.keys():  # noqa: SIM118 (a safetensors handle cannot be iterated)
        view = file.get_slice(name)
        found[name] = (view.get_dtype(), tuple(view.get_shape()))
      yield found, file.get_tensor
  except safetensors.SafetensorError as error:
    raise UserError(f'{path.name} is no whole safetensors file: {_line(str(error))}') from error


def _check_shapes(path: pathlib.Path, found: Shapes, wanted: Shapes) -> None:
  if missing := sorted(wanted.keys() - found.keys()):
    raise UserError(f'{path.name} lacks {_line(missing[0])} and {len(missing) - 1} other arrays')
  if strange := sorted(found.keys() - wanted.keys()):
    raise UserError(f'{path.name} holds {_line(strange[0])}, which is none of its arrays')
  for name, (dtype, shape) in wanted.items():
    if found[name] != (dtype, tuple(shape)):
      raise UserError(
        f'{path.name}: {name} is {found[name][0]} {list(found[name][1])}, not {dtype} {list(shape)}'
      )


def _finite(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  if not np.isfinite(array).all():
    raise UserError(f'{path.name}: {name} holds values that are not finite')
  return array


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _line(text: str) -> str:
  """A stranger's text as part of an error."""
  return ascii(text)[1:-1][:200]
