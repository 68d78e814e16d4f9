"""What `detector.json` of a detector file holds: closed, typed, bounded. It names no file.

An architecture is described by the fields of its family's dataclass, so that the program's presets
may change without harm to a detector.
"""

import dataclasses
import functools
import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, JsonValue

from masm_jax import backbones, files
from masm_jax.backbones import Architecture
from masm_jax.data.crop_settings import CropSettings
from masm_jax.errors import UserError
from masm_jax.inference.validation import THRESHOLDS

FORMAT = 'masm_jax detector 1'

_MAX_INT = 2**16  # Of an architecture's whole numbers: widths, depths, sizes.
_MAX_IMAGE_PX = 2048
_MIN_STD = 1e-6  # Pixels are divided by it.
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Rate = Annotated[float, Field(ge=0, le=1)]
_Line = Annotated[str, Field(max_length=2000, pattern=r'^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$')]
_Word = Annotated[str, Field(pattern=r'^[\w.+-]{1,100}$')]
_Sha256 = Annotated[str, Field(pattern=r'^[0-9a-f]{64}$')]
_NotedSha256 = Annotated[str, Field(pattern=r'^([0-9a-f]{64})?$')]  # '' where nobody noted it.
_Threshold = Annotated[float, Field(ge=0, le=1.000001)]  # One may lie just above every score.


class _Strict(pydantic.BaseModel):
  """No unknown key, no value of another type, no nan."""

  model_config = pydantic.ConfigDict(
    strict=True, extra='forbid', frozen=True, allow_inf_nan=False, validate_default=True
  )


class Blob(_Strict):
  """A file beside `detector.json`, of a fixed name."""

  sha256: _Sha256
  bytes: _Count


class Weights(Blob):
  """Of `weights.safetensors`.

  Attributes:
    kind: `merged` parameters, or an `adapter`: the head, and what training added to the base
      weights that `origin.base_weights` names.
  """

  kind: Literal['merged', 'adapter']


class Code(_Strict):
  """The program that wrote the file; `commit`, by SHA-1 or SHA-256, is None where it is unknown."""

  version: _Line
  commit: Annotated[str, Field(pattern=r'^[0-9a-f]{40}([0-9a-f]{24})?(\+changes)?$')] | None


class Backbone(_Strict):
  """A backbone: its preset's name, and all that it is built from.

  Attributes:
    preset: what the config called it.
    family: a key of `families`.
    architecture: the fields of that family's dataclass: sizes, and the input's size, mean and
      standard deviation.
    dtype: compute type; `auto` is bfloat16 on accelerators.
  """

  preset: _Word
  family: _Word
  architecture: dict[str, JsonValue]
  dtype: Literal['auto', 'float32', 'bfloat16']


class Head(_Strict):
  """Settings of the head."""

  normalize_features: bool


class Crops(_Strict):
  """How crops of the training were made, see `crop_settings`; `size_px` is 0 for native size."""

  template: _Word
  margin: Annotated[float, Field(gt=0, le=100)]
  size_px: Annotated[int, Field(ge=0, le=_MAX_INT)]

  def settings(self) -> CropSettings:
    """As the rest of the program has it."""
    return CropSettings(self.template, self.margin, self.size_px)


class Calibration(_Strict):
  """See `validation.Calibration`."""

  temperature: Annotated[float, Field(ge=1e-3, le=1e3)]
  ece: _Rate
  ece_rescaled: _Rate


class Features(_Strict):
  """Of `feature_statistics.FeatureStatistics`, the numbers; the arrays lie in the blob."""

  threshold: Annotated[float, Field(ge=0)]
  percentile: Annotated[float, Field(gt=0, lt=100)]
  num: _Count


class Validation(_Strict):
  """What the validation set fixed; its arrays lie in `validation.safetensors`."""

  blob: Blob
  video_score: Literal['mean']
  thresholds: dict[Literal['frame', 'video'], dict[Literal[THRESHOLDS], _Threshold]]
  calibration: Calibration | None
  features: Features | None


class MapsBenchmark(_Strict):
  """What `masm_jax.explain --benchmark` measured of the detector's maps: average precision of
  patches, minus the centre prior's."""

  set: _Line
  num_pairs: _Count
  value: Annotated[float, Field(ge=-1, le=1)]
  low: Annotated[float, Field(ge=-1, le=1)]
  high: Annotated[float, Field(ge=-1, le=1)]


class Explanation(_Strict):
  """What explanations need; the K learned changes lie in `changes.safetensors`."""

  blob: Blob
  num_parts: Annotated[int, Field(ge=1, le=256)]
  benchmark: MapsBenchmark | None


class LabelCounts(_Strict):
  """Of the training videos of one label.

  Attributes:
    videos: how many.
    identities: names that the manifest's column `identities` (or the videos' names) tells apart;
      None where not every video has one.
  """

  videos: _Count
  identities: _Count | None


class Training(_Strict):
  """What the detector was trained on, as far as it is known.

  Attributes:
    sets: names of the data sets.
    forgeries: names of the forgeries.
    videos: how many.
    frames: how many.
    real: of the real videos; None where it is not known, as in files of version 0.2.0.dev.
    fake: of the fake ones.
  """

  sets: Annotated[tuple[_Line, ...], Field(max_length=1000)]
  forgeries: Annotated[tuple[_Line, ...], Field(max_length=1000)]
  videos: _Count | None
  frames: _Count | None
  real: LabelCounts | None = None
  fake: LabelCounts | None = None


class Origin(_Strict):
  """Which run and which of its checkpoints, by hashes; manifests and weights among them.

  Of a detector that another program trained, nobody noted the config and the manifests.
  """

  seed: Annotated[int, Field(ge=0, lt=2**63)]
  checkpoint: Literal['best', 'last', 'step']
  step: _Count
  best_step: _Count | None
  last_step: _Count
  selected_by: _Word
  config_sha256: _NotedSha256
  base_weights: _Line
  trained_weights: _Sha256
  trainable_parameters: _Count
  train_manifest: _NotedSha256
  val_manifest: _NotedSha256


class DetectorFile(_Strict):
  """`detector.json`.

  Attributes:
    name: what people call the detector.
    licence_note: under what terms its weights may be used, in the words of whoever made the file.
    method: how it was adapted.
    weights: the parameters, float32.
    crops: ways in which the training crops were made; () where the run does not tell.
    validation: None where the run had no scores of its validation set, nor the images.
    explanation: None where the file does not hold what was learned apart from the merged weights.
    config: of the run, for the record: nothing is built from it, and its paths are left out.
    digest: of all other fields, see `files.seal`; None in files of earlier versions.
  """

  format: Literal[FORMAT]
  name: Annotated[_Line, Field(min_length=1, max_length=200)]
  licence_note: _Line
  code: Code
  method: _Word
  backbone: Backbone
  head: Head
  crops: Annotated[tuple[Crops, ...], Field(max_length=100)]
  weights: Weights
  validation: Validation | None
  training: Training
  origin: Origin
  explanation: Explanation | None = None
  config: dict[str, JsonValue]
  digest: Annotated[_Sha256 | None, Field(exclude=True)] = None


def create(**facts: Any) -> DetectorFile:
  """The contents of a new `detector.json`.

  Args:
    **facts: the fields of `DetectorFile`, but `format`.

  Raises:
    UserError: one does not fit.
  """
  try:
    return DetectorFile(format=FORMAT, **facts)
  except pydantic.ValidationError as error:
    raise UserError(f'this detector cannot be described: {_first(error)}') from error


def parse(text: bytes) -> DetectorFile:
  """Reads `detector.json`.

  Raises:
    UserError: it is another kind of file, a field is not what it should be, or is not what was
      written.
  """
  try:
    found = DetectorFile.model_validate_json(text)
    files.unseal(files.parse_object(text))
  except pydantic.ValidationError as error:
    raise UserError(_first(error)) from error
  except ValueError as error:
    raise UserError(f'detector.json: {error}') from error
  return found


def parse_origin(value: Any) -> Origin:
  """The `origin` of another file's note, which may be anything.

  Raises:
    UserError: a field is not what it should be.
  """
  try:
    return Origin.model_validate(value)
  except pydantic.ValidationError as error:
    raise UserError(f'origin.{_first(error)}') from error


@functools.cache
def families() -> dict[str, type]:
  """Name of a family of backbones -> its dataclass, for every family that has a preset."""
  found = {type(preset.config) for preset in backbones.PRESETS.values()}
  return {cls.__name__.removesuffix('Config').lower(): cls for cls in found}


def describe(architecture: Architecture) -> tuple[str, dict[str, Any]]:
  """(family, fields) of an architecture, as JSON types."""
  (family,) = (name for name, cls in families().items() if cls is type(architecture))
  return family, dataclasses.asdict(architecture)


def build(backbone: Backbone) -> Architecture:
  """The architecture that a file describes.

  Raises:
    UserError: a family that this version does not have, or fields that are none of it.
  """
  if backbone.family not in families():
    raise UserError(
      f'backbone.family {backbone.family!r} is none of {", ".join(sorted(families()))}: the file'
      ' is of a later version'
    )
  fields = backbone.architecture
  for name, value in fields.items():
    limit = _MAX_IMAGE_PX if name == 'image_size' else _MAX_INT
    numbers = value if isinstance(value, list) else [value]
    if outside := [n for n in numbers if isinstance(n, int | float) and not 0 <= n <= limit]:
      number = outside[0]
      told = f'{number:g}' if abs(number) < 1e308 else 'a number of hundreds of digits'
      place = f'backbone.architecture.{name[:100]!a} holds {told}'
      raise UserError(f'{place}: a number from 0 to {limit} is wanted')
  model = _architecture_model(backbone.family)
  try:
    found = model.model_validate_json(backbone.model_dump_json(include={'architecture'}))
    architecture = found.architecture
  except pydantic.ValidationError as error:
    raise UserError(f'backbone.{_first(error)}') from error
  except (ArithmeticError, TypeError, ValueError) as error:
    raise UserError(f'backbone.architecture: {error}') from error
  if not min(architecture.std) >= _MIN_STD:
    raise UserError(f'backbone.architecture.std holds a number below {_MIN_STD:g}')
  return architecture


@functools.cache
def _architecture_model(family: str) -> Any:
  # A plain dataclass is checked as strictly as the model that it is a field of.
  return pydantic.create_model(
    'Architecture', __base__=_Strict, architecture=(families()[family], ...)
  )


def _first(error: pydantic.ValidationError) -> str:
  """The first thing that is wrong, on one line: 'origin.step: Input should be ...'."""
  found = error.errors(include_url=False, include_context=False, include_input=False)[0]
  place = '.'.join(map(str, found['loc'])) or 'the file'
  return re.sub(r'[^\x20-\x7e]+', '?', f'{place[:200]}: {found["msg"][:300]}')
