"""By which rules scores become verdicts: from the detector's validation, or from a policy file.

Decisions are made on the scores that `evaluate` gives (the mean over frames of `sigmoid(log-odds)`,
by default), against its thresholds. What is shown are probabilities: the same scores through the
temperature, `sigmoid(logit(score) / T)`. That function rises, so a probability lies above the shown
threshold exactly where the score lies above its own.

A policy file is a JSON object. Every key may be left out:

| key             | value                                                                         |
|-----------------|-------------------------------------------------------------------------------|
| `threshold`     | `"eer"` (default), `"fpr=1%"`, `"fpr=5%"` of validation, or a probability     |
| `abstain`       | `"validation"` (default), null, or `[low, high]` as probabilities             |
| `frames`        | `"mean"` (default), `"median"`, `"max"`: a person's score from their frames'  |
| `tracks`        | `"max"` (default), `"mean"`: the file's score from its people's               |
| `out_of_domain` | `"warn"` (default), `"abstain"`                                               |
| `quality`       | `"warn"` (default), `"abstain"`: of small, blurred or turned faces, few frames|
| `num_frames`    | frames that are looked at in a video, 32 by default                           |
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

import numpy as np
import scipy.special

from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.metrics import calibration as calibration_lib
from masm_jax.prediction.answers import CalibrationFacts, Interval, PolicyFacts

Level = Literal['frame', 'video']
LEVELS: tuple[Level, ...] = ('frame', 'video')

_CHOICES: Mapping[str, tuple[str, ...]] = {
  'frames': ('mean', 'median', 'max'),
  'tracks': ('max', 'mean'),
  'out_of_domain': ('warn', 'abstain'),
  'quality': ('warn', 'abstain'),
}
# Names of thresholds in `Detector.thresholds`, and what they are called in an answer.
_NAMED = {
  'eer': 'validation EER',
  'fpr=1%': 'validation FPR 1 %',
  'fpr=5%': 'validation FPR 5 %',
}
_BAND = ('fnr=1%', 'fpr=1%')
NOT_VALIDATED = 'none: 0.5, not validated'
_MAX_FRAMES = 10_000


class Validated(Protocol):
  """What a detector knows from its validation set; `predictor.Detector` is one."""

  @property
  def thresholds(self) -> Mapping[str, Mapping[str, float]]:
    """By level and name, on the scale of scores."""
    ...

  @property
  def calibration(self) -> Any:
    """With `temperature` and `ece_rescaled`, or None."""
    ...


@dataclasses.dataclass(frozen=True)
class Rule:
  """The decision at one level, on the scale of scores.

  Attributes:
    threshold: a score at or above it is called fake.
    source: where it comes from.
    abstain: scores at or above the first and below the second are undecided; None for no band.
  """

  threshold: float
  source: str
  abstain: Interval | None


@dataclasses.dataclass(frozen=True)
class Policy:
  """How scores become a verdict.

  Attributes:
    rules: of a single picture (`frame`) and of a person in a video (`video`).
    calibration: the temperature; None for scores as they are.
    frames: how a person's score comes from their frames'.
    tracks: how the file's verdict comes from its people's.
    out_of_domain: whether unfamiliar faces are a caveat or a reason to abstain.
    quality: the same of small, blurred and turned faces and of few frames.
    num_frames: frames that are looked at in a video.
  """

  rules: Mapping[Level, Rule]
  calibration: CalibrationFacts | None
  frames: Literal['mean', 'median', 'max'] = 'mean'
  tracks: Literal['max', 'mean'] = 'max'
  out_of_domain: Literal['warn', 'abstain'] = 'warn'
  quality: Literal['warn', 'abstain'] = 'warn'
  num_frames: int = 32

  def probability(self, score: float) -> float:
    """P(fake) of a score in [0, 1]; rises with it."""
    return _rescaled(score, self.calibration.T if self.calibration else 1.0)

  def is_validated(self, level: Level) -> bool:
    """Whether the threshold comes from validation, or from the user's own policy."""
    return self.rules[level].source != NOT_VALIDATED

  def facts(self, level: Level) -> PolicyFacts:
    """As an answer tells it."""
    rule = self.rules[level]
    band = rule.abstain and (self.probability(rule.abstain[0]), self.probability(rule.abstain[1]))
    return PolicyFacts(
      threshold=self.probability(rule.threshold),
      threshold_source=rule.source,
      abstain=band,
      frames=self.frames,
      tracks=self.tracks,
      calibration=self.calibration,
    )

  def sha256(self) -> str:
    """Of everything in it: answers by the same policy are comparable."""
    text = json.dumps(dataclasses.asdict(self), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def from_detector(detector: Validated, *, set_name: str = 'validation') -> Policy:
  """The policy that a detector's own validation set gives.

  Without scores of a validation set that has both classes there is no threshold: every verdict is
  then `undecided`, unless a policy file names a threshold.
  """
  return from_fields({}, detector, set_name=set_name)


def read_policy(path: str | os.PathLike, detector: Validated) -> Policy:
  """The policy of a file; what it leaves out comes from the detector.

  Raises:
    UserError: no such file, not JSON, an unknown key, or a value out of range.
  """
  value = files.read_json(path)
  try:
    return from_fields(value, detector)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def from_fields(
  fields: Mapping[str, Any], detector: Validated, *, set_name: str = 'validation'
) -> Policy:
  """The policy of the keys in the table above.

  Raises:
    UserError: an unknown key, or a value out of range.
  """
  known = ('threshold', 'abstain', *_CHOICES, 'num_frames')
  if unknown := [key for key in fields if key not in known]:
    raise UserError(f'no policy key {unknown[0]!r}: there are {", ".join(known)}')
  for key, choices in _CHOICES.items():
    if key in fields and fields[key] not in choices:
      raise UserError(f'{key} = {fields[key]!r}: use one of {", ".join(choices)}')
  num_frames = fields.get('num_frames', 32)
  if type(num_frames) is not int or not 1 <= num_frames <= _MAX_FRAMES:
    raise UserError(f'num_frames = {num_frames!r}: give a whole number from 1 to {_MAX_FRAMES}')
  found = detector.calibration
  facts = found and CalibrationFacts('temperature', found.temperature, set_name, found.ece_rescaled)
  temperature = found.temperature if found else 1.0
  rules = {level: _rule(level, fields, detector, temperature) for level in LEVELS}
  chosen = {key: fields[key] for key in _CHOICES if key in fields}
  return Policy(rules=rules, calibration=facts, num_frames=num_frames, **cast(Any, chosen))


def _rule(level: Level, fields: Mapping[str, Any], detector: Validated, temperature: float) -> Rule:
  validated = {
    name: min(float(value), 1.0)
    for name, value in detector.thresholds.get(level, {}).items()
    if not math.isnan(value)
  }
  wanted = fields.get('threshold', 'eer')
  if isinstance(wanted, str):
    if wanted not in _NAMED:
      raise UserError(
        f'threshold = {wanted!r}: give a probability, or one of {", ".join(_NAMED)} of validation'
      )
    if wanted in validated:
      rule = Rule(validated[wanted], _NAMED[wanted], None)
    elif 'threshold' in fields:
      raise UserError(f'threshold = {wanted!r}: this detector has no such threshold: give a number')
    else:
      return Rule(0.5, NOT_VALIDATED, None)
  else:
    rule = Rule(_score(_share(wanted, 'threshold'), temperature), 'policy', None)
  return dataclasses.replace(rule, abstain=_band(fields, validated, rule, temperature))


def _band(
  fields: Mapping[str, Any], validated: Mapping[str, float], rule: Rule, temperature: float
) -> Interval | None:
  wanted = fields.get('abstain', 'validation')
  if wanted is None:
    return None
  if wanted == 'validation':
    if not set(_BAND) <= set(validated):
      return None
    low, high = (validated[name] for name in _BAND)
    if low >= high:  # One threshold keeps both rates, see `metrics.selective.abstention_band`.
      return None
    # Below the threshold nothing is called fake, and at it nothing real.
    return min(low, rule.threshold), max(high, rule.threshold)
  if not isinstance(wanted, list) or len(wanted) != 2:
    raise UserError(f'abstain = {wanted!r}: give [low, high], "validation", or null')
  low, high = (_score(_share(value, 'abstain'), temperature) for value in wanted)
  if not low <= rule.threshold <= high:
    raise UserError(f'abstain = {wanted}: the threshold has to lie within it')
  return low, high


def _share(value: Any, name: str) -> float:
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
    raise UserError(f'{name} = {value!r}: give a probability, from 0 to 1')
  return float(value)


def _score(probability: float, temperature: float) -> float:
  """The score that has this probability."""
  return _rescaled(probability, 1 / temperature)


def _rescaled(score: float, temperature: float) -> float:
  if not 0 < score < 1 or temperature == 1:
    return float(np.clip(score, 0, 1))
  return float(calibration_lib.rescale(scipy.special.logit(score), temperature))
