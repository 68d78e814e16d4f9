"""An answer in plain words and numbers, the same on the terminal, in the report and on the page.

The words are never surer than validation allows: a detector was measured at error rates of 1 % at
best, so no number beyond 99 % is said; `real` means that nothing was found, and is said so; without
a validated threshold or a temperature, no percentage is called a probability.
"""

import dataclasses
from collections.abc import Mapping

from masm_jax.prediction.answers import Answer, Interval, ModelFacts, Reason, Track, Verdict

_MOST = 0.99  # No rate finer than 1 % is measured on validation.
_WEAK = 0.75  # A verdict that one in four such files contradicts is called weak.

_HEADLINES: Mapping[Verdict, str] = {
  'fake': 'Signs of manipulation found',
  'real': 'No signs of manipulation found',
  'undecided': 'Undecided',
  'no_answer': 'No answer',
}
_SHORT: Mapping[Verdict, str] = {
  'fake': 'fake',
  'real': 'nothing found',
  'undecided': 'undecided',
  'no_answer': 'no answer',
}
_REASONS: Mapping[Reason, str] = {
  'unreadable': 'The file could not be read: it is damaged, or of a kind that is not opened.',
  'no_video_stream': 'The file holds no picture: it has sound or data, but no video.',
  'limit_exceeded': 'The file is larger, longer or slower to read than is allowed here.',
  'no_face': 'No face was found that could be looked at.',
  'face_too_small': 'The face is small in the picture: little of it can be judged.',
  'face_too_blurred': 'The face is blurred: traces of a manipulation may be lost.',
  'extreme_pose': 'The face is turned far to a side or upside down.',
  'too_few_frames': 'Only a few frames show the face: there is little to go by.',
  'near_threshold': 'The score lies where the detector was often wrong on its validation set.',
  'inconsistent_tracks': 'What was found about the people in it does not agree.',
  'out_of_domain': 'The face is unlike those that the detector was tested on.',
  'uncalibrated': 'The scores of this detector are not calibrated: they are no probabilities.',
}


@dataclasses.dataclass(frozen=True)
class TrackWords:
  """What is said of one person.

  Attributes:
    title: `Person 1, 0:00 to 0:12`.
    text: one sentence with verdict and numbers.
    reasons: a sentence for each reason.
  """

  title: str
  text: str
  reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Words:
  """What is said of an answer.

  Attributes:
    headline: a few words, such as `Signs of manipulation found`.
    short: one or two words for a table.
    number: the probability with its interval, `91 % (84 to 95 %)`; '' where there is none.
    explanation: what the verdict means, and what it does not, in two or three sentences.
    reasons: a sentence for each reason.
    tracks: of each person.
    fine_print: by which rules it was decided.
    trained_on: which sets the detector has learned from, and how many videos.
  """

  headline: str
  short: str
  number: str
  explanation: str
  reasons: tuple[str, ...]
  tracks: tuple[TrackWords, ...]
  fine_print: str
  trained_on: str


def describe(answer: Answer) -> Words:
  """The words for an answer."""
  calibrated = answer.policy.calibration is not None and 'uncalibrated' not in answer.reasons
  number = number_of(answer.probability, answer.interval)
  return Words(
    headline=_headline(answer, calibrated),
    short=_SHORT[answer.verdict],
    number=number,
    explanation=_explanation(answer, number, calibrated),
    reasons=tuple(_REASONS[reason] for reason in answer.reasons),
    tracks=tuple(_track(track, answer, calibrated) for track in answer.tracks),
    fine_print=_fine_print(answer, calibrated),
    trained_on=trained_on(answer.model),
  )


def trained_on(model: ModelFacts) -> str:
  """`ffpp: 720 real videos (703 identities), 2,880 fake videos`; `not recorded`."""
  parts = []
  for label, counts in (model.training_videos or {}).items():
    videos, people = counts['videos'], counts['identities']
    if not videos:  # Fakes are made while it trains, or it has one class alone.
      continue
    text = f'{videos:,} {label} video{"" if videos == 1 else "s"}'
    named = '' if people is None else f' ({people:,} {"identity" if people == 1 else "identities"})'
    parts.append(text + named)
  sets = ', '.join(model.training_sets) or ('sets without a name' if parts else 'not recorded')
  return f'{sets}: {", ".join(parts)}' if parts else sets


def explanation_lines(answer: Answer) -> list[str]:
  """A sentence for each explained face: what training added to its score, and which part most."""
  explanation = answer.explanation
  if explanation is None:
    return []
  lines = []
  for face in explanation['faces']:
    text = (
      f'Person {face["track"] + 1}, frame {face["frame"]}: training moved the score from'
      f' {face["base_logit"]:+.1f} to {face["logit"]:+.1f}'
    )
    named = list(zip(face['shapley'], explanation['parts'], strict=True))
    if len(named) > 1:
      value, part = max(named, key=lambda one: abs(one[0]))
      text += f', mostly by {part} ({value:+.1f})'
    lines.append(f'{text}.')
  return lines


def reason_sentence(reason: Reason) -> str:
  """The sentence for a reason."""
  return _REASONS[reason]


def number_of(probability: float | None, interval: Interval | None = None) -> str:
  """`91 % (84 to 95 %)`, never beyond 1 and 99 %; '' without a probability."""
  if probability is None:
    return ''
  text = _percent(probability)
  if interval is None:
    return text
  low, high = _percent(interval[0]), _percent(interval[1])
  return f'{text} ({low.removesuffix(" %")} to {high})' if low != high else text


def clock(seconds: float) -> str:
  """`1:02` or `1:01:02`, whole seconds."""
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'


def _percent(probability: float) -> str:
  if probability > _MOST:
    return f'more than {100 * _MOST:.0f} %'
  if probability < 1 - _MOST:
    return f'less than {100 * (1 - _MOST):.0f} %'
  return f'{100 * probability:.0f} %'


def _headline(answer: Answer, calibrated: bool) -> str:
  headline = _HEADLINES[answer.verdict]
  if answer.probability is not None and calibrated:
    if answer.verdict == 'fake' and answer.probability < _WEAK:
      headline = 'Weak signs of manipulation found'
    if answer.verdict == 'real' and answer.probability > 1 - _WEAK:
      headline = 'No clear signs of manipulation found'
  doubtful = not calibrated or answer.reasons
  if answer.verdict in ('fake', 'real') and doubtful:
    return f'{headline}, with reservations'
  return headline


def _explanation(answer: Answer, number: str, calibrated: bool) -> str:
  if answer.verdict == 'no_answer':
    return 'The detector did not judge this file. That says nothing about whether it is genuine.'
  what = (
    f'The detector puts the probability of a fake face at {number}'
    if calibrated
    else f'The score is {number}, which is no probability'
  )
  who = ''
  if len(answer.tracks) > 1:
    who = (
      ' This is the person with the highest value.'
      if answer.policy.tracks == 'max'
      else f' This is the mean over the {len(answer.tracks)} people in it.'
    )
  if answer.verdict == 'undecided':
    return f'{what}.{who} That is not enough to decide either way.'
  if answer.verdict == 'fake':
    return (
      f'{what}.{who} It is an indication, not a proof: genuine recordings are called fake at times.'
    )
  return (
    f'{what}.{who} This detector found nothing. It does not know every way to make a fake, so this'
    ' does not prove that the recording is genuine.'
  )


def _track(track: Track, answer: Answer, calibrated: bool) -> TrackWords:
  title = f'Person {track.id + 1}'
  if answer.input.kind == 'video':
    title += f', {clock(track.start_s)} to {clock(track.end_s)}'
  number = number_of(track.probability, track.interval)
  if track.verdict == 'no_answer':
    text = 'Not judged.'
  else:
    name = 'probability of a fake' if calibrated else 'score'
    count = f'{track.frames_used} frame{"" if track.frames_used == 1 else "s"}'
    text = f'{_HEADLINES[track.verdict]}: {name} {number}, from {count}.'
    if track.segments and answer.input.kind == 'video':
      spans = [f'{clock(s.start_s)} to {clock(s.end_s)}' for s in track.segments[:5]]
      more = f' and {len(track.segments) - 5} more' if len(track.segments) > 5 else ''
      text += f' Above the threshold: {", ".join(spans)}{more}.'
  return TrackWords(title, text, tuple(_REASONS[reason] for reason in track.reasons))


def _fine_print(answer: Answer, calibrated: bool) -> str:
  policy = answer.policy
  parts = [f'Threshold {100 * policy.threshold:.1f} % ({policy.threshold_source})']
  if policy.abstain is not None:
    low, high = policy.abstain
    parts.append(f'undecided from {100 * low:.1f} to {100 * high:.1f} %')
  if policy.calibration is None:
    parts.append('not calibrated')
  else:
    fitted = f'{"calibrated" if calibrated else "scaled"} on {policy.calibration.set}'
    if policy.calibration.ece is not None:
      off = f'off by {100 * policy.calibration.ece:.1f} % on average'
      fitted += f', where probabilities were {off}' if calibrated else f', and still {off} there'
    parts.append(fitted)
  parts.append(f'detector {answer.model.name} ({answer.model.sha256[:12]})')
  return '; '.join(parts) + '.'
