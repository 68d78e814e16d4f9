"""What `results.json` of an evaluation holds, as frozen dataclasses; see `results.read`.

Fields that version 0.1 did not write have defaults, and fields that a later version adds are passed
over. What is drawn as it stands (masks, the analysis of a run) stays in dictionaries, see `inside`.
"""

import functools
import math
import re
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from masm_jax.evaluation import inside
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
class RiskPoint:
  """A point of the selective-risk curve, see `selective.risk_curve`."""

  coverage: _Number
  risk: _Number


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
    risk_coverage: the selective-risk curve, by rising coverage; () in old folders.
  """

  num: _Count = 0
  num_real: _Count = 0
  num_fake: _Count = 0
  eer_threshold: _Number = math.nan
  calibrated: Rescaled | None = None
  risk_coverage: tuple[RiskPoint, ...] = ()

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
class Ends:
  """An abstention band: what lies within `low <= score < high` is undecided."""

  low: _Number = math.nan
  high: _Number = math.nan


@_frozen
class Band:
  """The abstention bands of both levels, and the rates of validation that they are made for."""

  frame: Ends = field(default_factory=Ends)
  video: Ends = field(default_factory=Ends)
  fpr: _Number = math.nan
  fnr: _Number = math.nan
  origin: str = ''

  def at(self, level: str) -> tuple[float, float]:
    """(low, high) of `frame` or `video`."""
    ends = self.video if level == 'video' else self.frame
    return ends.low, ends.high


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
  """What was scored of a set; `scores` tells its score table from others, '' in old folders."""

  manifest: str = ''
  split: str = ''
  manifest_sha256: str = ''
  scores: str = ''
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
  band: Band = field(default_factory=Band)
  temperature: Temperature | None = None
  image_size: _Count | None = None
  sets: dict[str, SetFacts] = field(default_factory=dict)


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
  masks: inside.Masks | None = None
  subspaces: Annotated[inside.Analysis | None, pydantic.AfterValidator(inside.alike)] = None
  suite: dict[str, Any] = field(default_factory=dict)
  note: str = ''
  started: str = ''

  def table_of(self, name: str) -> dict[str, str]:
    """What the score table of a set has to be of, as `scores.read_scores` takes it."""
    facts = self.protocol.sets.get(name)
    return {'set': name} | ({'scores': facts.scores} if facts and facts.scores else {})

  @pydantic.field_validator('sets')
  @classmethod
  def _names(cls, sets: dict[str, SetResults]) -> dict[str, SetResults]:
    if strange := [name for name in sets if not _SET_NAME.fullmatch(name) or name in ('.', '..')]:
      raise ValueError(f'{strange[0]!r} is no name of a set')  # Score files are named after it.
    return sets
