"""What a sweep reads back of its folder: `results.json` of runs, `cost.json` of rows; typed.

Fields that no table needs are passed over. What does not fit counts as damaged, and is made again.
"""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Rate = Annotated[float, Field(ge=0, le=1)] | Literal['nan']  # As `files.write_json` has it.
_Amount = Annotated[float, Field(ge=0, le=1e30)]


class _Object(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Metrics(_Object):
  """The metrics of the tables, `scores.SHOWN`: each in [0, 1], or nan where it is undefined."""

  auroc: _Rate
  ap: _Rate
  eer: _Rate


class Levels(_Object):
  """Of one set."""

  frame: Metrics
  video: Metrics

  def value(self, level: str, metric: str) -> float:
    """A metric, in [0, 1] or nan, at `frame` or `video`."""
    return float(getattr(getattr(self, level), metric))


class Scored(_Object):
  """What one checkpoint scored, by set."""

  sets: dict[str, Levels]


class Inputs(_Object):
  """What a run read, see `config.inputs`."""

  tests: dict[str, Any] = Field(alias='data.tests')
  weights: str = Field(alias='backbone.weights')


class Results(_Object):
  """`results.json` of a training run; early versions noted neither inputs nor hashes."""

  trainable_parameters: _Count
  inputs: Inputs | None = None
  hashes: dict[str, str] = {}
  note: str = ''
  best: Scored
  last: Scored

  def scored(self, checkpoint: str) -> Scored:
    """By `best` or `last`."""
    return self.last if checkpoint == 'last' else self.best


class _Cost(_Object):
  train_step_gflop: _Amount
  ratio: _Amount
  peak_temp_mb: _Amount


def parse_results(document: Any) -> Results | None:
  """Results as they were read from JSON; None where they do not fit."""
  try:
    return Results.model_validate(document)
  except pydantic.ValidationError:
    return None


def is_cost(document: Any) -> bool:
  """Whether a document has what `cost.json` has, see `cost.read_cost`."""
  try:
    _Cost.model_validate(document)
  except pydantic.ValidationError:
    return False
  return True
