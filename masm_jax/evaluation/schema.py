"""What `results.json` of an evaluation holds, as frozen dataclasses; see `results.read`.

Fields that version 0.1 did not write have defaults, and fields that a later version adds are passed
over. What is drawn as it stands (masks, the analysis of a run) stays in dictionaries, checked.
"""

import functools
import itertools
import math
import re
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from typing_extensions import TypedDict

from masm_jax.metrics import binary

MAX_DRAWS = 1_000_000
_SET_NAME = re.compile(r'[\w.+-]+')

# Numbers: nan and inf are texts in JSON, which pydantic reads as floats.
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Number = Annotated[float, Field(allow_inf_nan=True)]
_frozen = functools.partial(pydantic.dataclasses.dataclass, frozen=True, kw_only=True)


@_frozen
class Interval:
  """A metric of a set with its interval; nan where there is none."""

  value: _Number = math.nan
  low: _Number = math.nan
  high: _Number = math.nan


@_frozen
class Bin:
  """A point of a reliability diagram, see `calibration.reliability_bins`."""

  mean_score: _Number
  fake_share: _Number
  weight: _Number = math.nan


@_frozen
class Rescaled:
  """What a temperature made of a set."""

  metrics: dict[str, Interval] = field(default_factory=dict)
  reliability: tuple[Bin, ...] = ()


@_frozen
class Level(Rescaled):
  """A set at frame or at video level: counts, metrics and reliability bins.

  Attributes:
    calibrated: the same after the temperature that validation fixed; None without one.
  """

  num: _Count = 0
  num_real: _Count = 0
  num_fake: _Count = 0
  eer_threshold: _Number = math.nan
  calibrated: Rescaled | None = None

  def metric(self, name: str) -> Interval:
    """A metric; of nan where it was not measured."""
    return self.metrics.get(name, Interval())


@_frozen
class Levels:
  """Something that was measured at both levels."""

  frame: Level = field(default_factory=Level)
  video: Level = field(default_factory=Level)

  def at(self, level: str) -> Level:
    """`frame` or `video`."""
    return self.video if level == 'video' else self.frame


@_frozen
class SetResults(Levels):
  """A data set; `groups` is column -> value -> what was measured on its rows."""

  groups: dict[str, dict[str, Levels]] = field(default_factory=dict)


@_frozen
class Step(Levels):
  """A set under one perturbation at one level."""

  level: Annotated[int, Field(ge=1, le=1000)]
  parameter: float | int | str | list[float] | None = None


@_frozen
class Warning_:
  """Something that the reader of a metric has to know; `set` is '' where it bears on all."""

  text: str
  kind: str = ''
  set: str = ''


@_frozen
class Crops:
  """How the faces were cut out that a run was trained on.

  Attributes:
    template: name of the landmark template; '' where unknown.
    margin: size of a crop over the size of the face's own square; None where unknown.
    size_px: side of a crop; None where unknown.
  """

  template: str = ''
  margin: float | None = None
  size_px: Annotated[int, Field(ge=1)] | None = Field(
    default=None, validation_alias=pydantic.AliasChoices('size_px', 'size')
  )


@_frozen
class RunFacts:
  """Which detector was evaluated; hashes are '' where they were not noted."""

  method: str
  seed: Annotated[int, Field(ge=0, lt=2**63)]
  step: _Count
  trainable_parameters: _Count | None = None
  backbone: str = ''
  checkpoint: str = ''
  best_step: _Count | None = None
  last_step: _Count | None = None
  selected_by: str = ''
  workdir: str = ''
  config_sha256: str = ''
  base_weights: str = ''
  trained_weights: str = ''
  train_manifest: str = ''
  val_manifest: str = ''
  crops: Crops | None = None
  config: dict[str, Any] = field(default_factory=dict)


@_frozen
class Threshold:
  """Where scores are called fake, by level; nan where validation could not say."""

  frame: _Number
  video: _Number
  origin: str = ''
  manifest_sha256: str = ''

  def at(self, level: str) -> float:
    """Of `frame` or `video`."""
    return self.video if level == 'video' else self.frame


@_frozen
class Temperature:
  """What validation fixed for the logits of frames."""

  frame: Annotated[float, Field(gt=0, allow_inf_nan=False)]
  origin: str = ''


@_frozen
class Bootstrap:
  """How intervals were made."""

  draws: Annotated[int, Field(ge=1, le=MAX_DRAWS)]
  confidence: Annotated[float, Field(gt=0, lt=1)]
  unit: Literal['auto', 'video', 'identity'] = 'auto'
  seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@_frozen
class FramesPerVideo:
  """Fewest, median and most frames of a video."""

  min: _Number = math.nan
  median: _Number = math.nan
  max: _Number = math.nan


@_frozen
class SetFacts:
  """What was scored of a set."""

  manifest: str = ''
  split: str = ''
  manifest_sha256: str = ''
  frames: _Count = 0
  videos: _Count = 0
  undecodable: _Count = 0
  clusters: _Count = 0
  unit: str = '?'
  frames_per_video: FramesPerVideo = field(default_factory=FramesPerVideo)


@_frozen
class Protocol:
  """How metrics came about, the same for all sets of an evaluation."""

  threshold: Threshold
  bootstrap: Bootstrap
  video_score: Literal[binary.REDUCTIONS] = 'mean'
  temperature: Temperature | None = None
  image_size: _Count | None = None
  sets: dict[str, SetFacts] = field(default_factory=dict)


class MaskLine(TypedDict):
  """A line of `masks.jsonl`: from `step` on the groups of `mask` [L, K] were trained."""

  step: int
  rows: list[str]
  mask: list[list[_Number]]


class _Side(TypedDict):
  angles_deg: list[list[_Number]]
  overlap: list[list[_Number]]
  semantic_share: list[_Number]


class _Factors(TypedDict):
  U: _Side
  V: _Side


class _Kept(TypedDict):
  U: _Number
  V: _Number


class _Spectrum(TypedDict):
  change: _Number
  principal_kept: _Kept


class _Subspaces(TypedDict):
  kernels: Annotated[dict[str, _Factors], Field(min_length=1)]


class _Spectra(TypedDict):
  kernels: Annotated[dict[str, _Spectrum], Field(min_length=1)]


class _Accuracy(TypedDict):
  accuracy: _Number
  low: _Number
  high: _Number
  chance: _Number


class _Probe(TypedDict):
  before: _Accuracy
  after: _Accuracy


class _Semantics(TypedDict, total=False):
  note: str
  probes: dict[str, _Probe]


class Analysis(TypedDict, total=False):
  """A run's `analysis.json`, as far as it is drawn; see `masm_jax.analysis`."""

  subspaces: _Subspaces | None
  spectra: _Spectra | None
  semantics: _Semantics | None


@_frozen
class Evaluation:
  """`results.json` of a finished evaluation.

  Attributes:
    started: date of the evaluation, YYYY-MM-DD, from `evaluation.json`; '' in old folders.
    note: what is to be said of synthetic data; '' for others.
    subspaces: the run's analysis; None where it has none.
  """

  run: RunFacts
  protocol: Protocol
  sets: dict[str, SetResults]
  warnings: tuple[Warning_, ...] = ()
  robustness: dict[str, dict[str, tuple[Step, ...]]] = field(default_factory=dict)
  masks: tuple[MaskLine, ...] | None = None
  subspaces: Analysis | None = None
  suite: dict[str, Any] = field(default_factory=dict)
  note: str = ''
  started: str = ''

  @pydantic.field_validator('sets')
  @classmethod
  def _names(cls, sets: dict[str, SetResults]) -> dict[str, SetResults]:
    if strange := [name for name in sets if not _SET_NAME.fullmatch(name) or name in ('.', '..')]:
      raise ValueError(f'{strange[0]!r} is no name of a set')  # Score files are named after it.
    return sets

  @pydantic.field_validator('masks')
  @classmethod
  def _history(cls, masks: tuple[MaskLine, ...] | None) -> tuple[MaskLine, ...] | None:
    shapes = {_shape(line['mask']) for line in masks or ()}
    steps = [line['step'] for line in masks or ()]
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
      raise ValueError('masks are not all of one shape [L, K]')
    if any(len(line['rows']) != len(line['mask']) for line in masks or ()):
      raise ValueError('a mask has as many rows as names')
    if any(b <= a for a, b in itertools.pairwise(steps)):
      raise ValueError('steps of masks must rise')
    return masks

  @pydantic.field_validator('subspaces')
  @classmethod
  def _alike(cls, analysis: Analysis | None) -> Analysis | None:
    kernels = ((analysis or {}).get('subspaces') or {}).get('kernels', {})
    sides = [kernel[side] for kernel in kernels.values() for side in ('U', 'V')]
    shapes = {(_shape(s['overlap']), len(s['semantic_share']), len(s['angles_deg'])) for s in sides}
    if sides and (len(shapes) > 1 or not all(len({*a, *b}) == 1 for a, *b in shapes)):
      raise ValueError('kernels differ in their number of subspaces')
    if any(not angles for side in sides for angles in side['angles_deg']):
      raise ValueError('a subspace has no angles')
    return analysis


def _shape(rows: list[list[float]]) -> tuple[int, ...]:
  """(L, K) of a list of equally long lists; () of any other."""
  lengths = {len(row) for row in rows}
  return (len(rows), *lengths) if len(lengths) == 1 and 0 not in lengths else ()
