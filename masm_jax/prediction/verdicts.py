"""From the scores of faces to the verdict on a file: pure functions, no model and no file."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

from masm_jax.data import crop_flags
from masm_jax.metrics import uncertainty
from masm_jax.prediction import quality
from masm_jax.prediction.answers import (
  REASONS,
  Frame,
  Interval,
  Quality,
  Reason,
  Segment,
  Track,
  Verdict,
)
from masm_jax.prediction.policy import Level, Policy

NUM_DRAWS = 2000
MAX_ECE = 0.15  # A temperature that leaves a larger error has not calibrated anything.
MIN_BLOCKS = 4  # Fewer blocks of frames give no interval.
_MAX_LOGIT = 1e6
_MAX_SCORE_LOGIT = 50.0

# Why a face was found unfit, as a reason.
_UNFIT: Mapping[str, Reason] = {
  crop_flags.NO_FACE: 'no_face',
  crop_flags.PADDING: 'no_face',
  crop_flags.TOO_SMALL: 'face_too_small',
  crop_flags.UPSIDE_DOWN: 'extreme_pose',
}


@dataclasses.dataclass(frozen=True)
class ScoredFace:
  """One face of a person in one frame.

  Attributes:
    fields: of `answers.Frame` but for its scores.
    flag: of `crop_flags`; '' for a face that was scored.
    logit: log-odds of fake; None where it was not scored.
    distance: of its feature from those of validation, over the limit: beyond 1 it is out of domain;
      None where nothing tells.
  """

  fields: Mapping[str, Any]
  flag: str
  logit: float | None
  distance: float | None = None


@dataclasses.dataclass(frozen=True)
class Judged:
  """A track, with what the file's verdict needs of it.

  Attributes:
    track: as it is answered.
    score: the person's score before the temperature; None with `no_answer`.
  """

  track: Track
  score: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The verdict on a file; fields as in `answers.Answer`."""

  verdict: Verdict
  probability: float | None
  interval: Interval | None
  score_raw: float | None
  reasons: tuple[Reason, ...]


def person_score(logits: Sequence[float], reduce: str) -> float:
  """A person's score from the log-odds of their frames, as `binary.video_scores` makes it."""
  scores = np.sort(scipy.special.expit(np.asarray(logits, np.float64)))
  if reduce == 'mean':
    return float(scores.mean())
  return float(np.median(scores) if reduce == 'median' else scores[-1])


def interval_of(logits: Sequence[float], reduce: str) -> Interval | None:
  """The 95 % interval of a person's score, over blocks of neighbouring frames [ours].

  Neighbours agree, so whole blocks are drawn, of N ** (1 / 3) frames (the order of the length that
  is best for the variance of a mean; Künsch 1989). The draws are those of `metrics.uncertainty`.

  Args:
    logits: of N frames, in order of time.
    reduce: see `person_score`.

  Returns:
    Lower and upper end; None with fewer than `MIN_BLOCKS` blocks.
  """
  length = max(round(len(logits) ** (1 / 3)), 1)
  num_blocks = len(logits) // length
  if num_blocks < MIN_BLOCKS:
    return None
  scores = scipy.special.expit(np.asarray(logits, np.float64))
  block = np.minimum(np.arange(len(scores)) // length, num_blocks - 1)
  counts = _counts(num_blocks)
  if reduce == 'mean':
    sums, sizes = np.bincount(block, scores), np.bincount(block)
    draws = np.einsum('bc,c->b', counts, sums) / np.einsum('bc,c->b', counts, sizes)
  else:
    weights = counts[:, block].astype(int)
    draws = np.array([person_score(np.repeat(logits, row).tolist(), reduce) for row in weights])
  found = uncertainty.interval(float(scores.mean()), draws)
  return found.low, found.high


@functools.lru_cache(maxsize=64)
def _counts(num_blocks: int) -> np.ndarray:
  return uncertainty.draw_counts(num_blocks, range(NUM_DRAWS), seed=0)


def judge(
  number: int, faces: Sequence[ScoredFace], policy: Policy, *, level: Level, upside_down: bool
) -> Judged:
  """The verdict on one person.

  Args:
    number: of the track.
    faces: in order of time, at least one.
    policy: see there.
    level: `video`, or `frame` for a single picture.
    upside_down: whether none of the faces counts, because the person is upside down.
  """
  used = [face for face in faces if face.logit is not None and not upside_down]
  frames = tuple(_frame(face, policy, face in used) for face in faces)
  times = [frame.time_s for frame in frames]
  fixed: dict[str, Any] = {
    'id': number,
    'start_s': min(times),
    'end_s': max(times),
    'frames_used': len(used),
    'frames': frames,
  }
  if not used:
    flags = [crop_flags.UPSIDE_DOWN] if upside_down else [face.flag for face in faces]
    commonest = max(sorted(set(flags)), key=flags.count)
    track = Track(
      verdict='no_answer',
      probability=None,
      interval=None,
      reasons=(_UNFIT.get(commonest, 'no_face'),),
      segments=(),
      **fixed,
    )
    return Judged(track, None)
  logits = [face.logit for face in used if face.logit is not None]
  score = person_score(logits, policy.frames)
  spread = interval_of(logits, policy.frames) if level == 'video' else None
  doubts = _doubts(used, spread, level)
  verdict, reasons = _decide(score, doubts, policy, level)
  track = Track(
    verdict=verdict,
    probability=policy.probability(score),
    interval=spread and (policy.probability(spread[0]), policy.probability(spread[1])),
    reasons=reasons,
    segments=_segments(used, policy) if level == 'video' else (),
    **fixed,
  )
  return Judged(track, score)


def _frame(face: ScoredFace, policy: Policy, is_used: bool) -> Frame:
  logit = face.logit if is_used else None
  fields = face.fields
  return Frame(
    index=int(fields['index']),
    time_s=float(fields['time_s']),
    box=tuple(float(value) for value in fields['box']),  # type: ignore[arg-type]
    landmarks=tuple((float(x), float(y)) for x, y in fields['landmarks']),
    quality=Quality(**fields['quality']),
    score_raw=None if logit is None else float(np.clip(logit, -_MAX_LOGIT, _MAX_LOGIT)),
    probability=None if logit is None else policy.probability(float(scipy.special.expit(logit))),
  )


def _doubts(used: Sequence[ScoredFace], spread: Interval | None, level: Level) -> list[Reason]:
  """Caveats of the faces themselves: by the median face."""
  qualities = [Quality(**face.fields['quality']) for face in used]
  middle = lambda values: float(np.median(list(values)))
  found: list[Reason] = []
  if middle(q.face_px for q in qualities) < quality.MIN_FACE_PX:
    found.append('face_too_small')
  if middle(q.blur for q in qualities) > quality.MAX_BLUR:
    found.append('face_too_blurred')
  if middle(abs(q.yaw_deg) for q in qualities) > quality.MAX_YAW_DEG:
    found.append('extreme_pose')
  if level == 'video' and spread is None:
    found.append('too_few_frames')
  distances = [face.distance for face in used if face.distance is not None]
  if distances and middle(distances) > 1:
    found.append('out_of_domain')
  return found


def _decide(
  score: float, doubts: Sequence[Reason], policy: Policy, level: Level
) -> tuple[Verdict, tuple[Reason, ...]]:
  rule = policy.rules[level]
  reasons = list(doubts)
  verdict: Verdict = 'fake' if score >= rule.threshold else 'real'
  if rule.abstain is not None and rule.abstain[0] <= score < rule.abstain[1]:
    verdict = 'undecided'
    reasons.append('near_threshold')
  if policy.calibration is None or (policy.calibration.ece or 0.0) > MAX_ECE:
    reasons.append('uncalibrated')
  if not policy.is_validated(level):
    verdict = 'undecided'
    reasons.append('uncalibrated')
  if policy.out_of_domain == 'abstain' and 'out_of_domain' in reasons:
    verdict = 'undecided'
  if policy.quality == 'abstain' and set(doubts) - {'out_of_domain'}:
    verdict = 'undecided'
  return verdict, ordered(reasons)


def _segments(used: Sequence[ScoredFace], policy: Policy) -> tuple[Segment, ...]:
  """Runs of neighbouring frames at or above the threshold of frames."""
  threshold = policy.rules['frame'].threshold
  runs: list[list[ScoredFace]] = []
  was_above = False
  for face in used:
    is_above = scipy.special.expit(face.logit) >= threshold
    if is_above and was_above:
      runs[-1].append(face)
    elif is_above:
      runs.append([face])
    was_above = bool(is_above)
  return tuple(
    Segment(
      start_s=float(run[0].fields['time_s']),
      end_s=float(run[-1].fields['time_s']),
      probability=policy.probability(
        person_score([face.logit for face in run if face.logit is not None], 'mean')
      ),
    )
    for run in runs
  )


def combine(judged: Sequence[Judged], policy: Policy, *, level: Level) -> Outcome:
  """The file's verdict from its people's.

  With `max` the person with the highest score decides. People contradict each other
  (`inconsistent_tracks`) where that person is called fake without being sure of it (no interval, or
  one that reaches below the threshold) while somebody else is called real. With `mean`, the mean
  of all people's scores decides, and people contradict each other where some are called fake and
  others real. [ours]

  Args:
    judged: people, at least one.
    policy: see there.
    level: see `judge`.
  """
  scored = [one for one in judged if one.score is not None]
  if not scored:
    reasons = [reason for one in judged for reason in one.track.reasons]
    return Outcome('no_answer', None, None, None, ordered(reasons))
  verdicts = {one.track.verdict for one in scored}
  top = max(scored, key=lambda one: one.score or 0.0)
  if policy.tracks == 'max' or len(scored) == 1:
    score, interval, verdict = top.score, top.track.interval, top.track.verdict
    reasons = list(top.track.reasons)
    threshold = policy.probability(policy.rules[level].threshold)
    is_sure = interval is not None and interval[0] >= threshold
    contradicts = level == 'video' and verdict == 'fake' and 'real' in verdicts and not is_sure
  else:
    score = float(np.mean([one.score for one in scored if one.score is not None]))
    interval = None
    doubts = [
      reason
      for one in scored
      for reason in one.track.reasons
      if reason not in ('near_threshold', 'uncalibrated')
    ]
    verdict, found = _decide(score, doubts, policy, level)
    reasons = list(found)
    contradicts = {'fake', 'real'} <= verdicts
  assert score is not None
  if contradicts:
    verdict = 'undecided'
    reasons.append('inconsistent_tracks')
  with np.errstate(divide='ignore'):  # Beyond 37, the score is 1 in float64.
    raw = float(np.clip(scipy.special.logit(score), -_MAX_SCORE_LOGIT, _MAX_SCORE_LOGIT))
  return Outcome(verdict, policy.probability(score), interval, raw, ordered(reasons))


def ordered(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
  """Each reason once, in the order in which they are told."""
  return tuple(sorted(set(reasons), key=REASONS.index))
