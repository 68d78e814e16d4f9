"""The first page, for a person who does not know what an AUROC is: counts, and what they leave out.

Every number here is a count of verdicts at the threshold that validation fixed, with a range for
its share.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import scipy.stats

from masm_jax.plots import style
from masm_jax.report.runs import Run
from masm_jax.report.words import percent

CALIBRATED_ECE = 0.05  # Scores further than this from the share of fakes are no probabilities.
_RARE = 0.01  # Share of fakes in the example of a world where most is real.


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """How a set was judged at the threshold.

  Attributes:
    reals: how many there are.
    alarms: of these, those called fake.
    fakes: how many there are.
    found: of these, those called fake.
  """

  reals: int
  alarms: int
  fakes: int
  found: int

  @property
  def num_right(self) -> int:
    """Reals called real and fakes called fake."""
    return self.reals - self.alarms + self.found


def count_verdicts(run: Run, name: str) -> Verdicts | None:
  """Verdicts on the videos of a set; None where validation fixed no threshold."""
  threshold = run.threshold('video')
  if not math.isfinite(threshold):
    return None
  table = run.videos[name]
  called = table['score'] >= threshold
  is_fake = table['label'] == 1
  return Verdicts(
    int((~is_fake).sum()), int((called & ~is_fake).sum()),
    int(is_fake.sum()), int((called & is_fake).sum()),
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Decisions:
  """What became of a set where doubtful cases may be left undecided.

  Attributes:
    total: how many there are.
    decided: of these, those outside the abstention band.
    right: of these, those called what they are.
  """

  total: int
  decided: int
  right: int


def count_decisions(run: Run, name: str) -> Decisions | None:
  """Decisions on the videos of a set; None where validation fixed no abstention band."""
  low, high = run.results.protocol.band.at('video')
  if not (math.isfinite(low) and math.isfinite(high)):
    return None
  table = run.videos[name]
  called = table['score'] >= high
  decided = called | (table['score'] < low)
  right = decided & (called == (table['label'] == 1))
  return Decisions(len(table), int(decided.sum()), int(right.sum()))


def noun(run: Run, name: str) -> str:
  """What a set is made of: 'videos', or 'images' where each gave a single frame."""
  counts = [*run.videos[name]['num_frames'], *run.unlabelled[name]['num_frames']]
  return 'images' if counts and max(counts) == 1 else 'videos'


def is_calibrated(run: Run, name: str, level: str) -> bool | None:
  """Whether scores are close to probabilities on a set; None where that cannot be said."""
  found = run.level(name, level)
  ece = found.metric('ece').value
  if not (math.isfinite(ece) and found.num_real and found.num_fake):
    return None
  return ece <= CALIBRATED_ECE


def score_axis(run: Run, name: str, level: str) -> str:
  """What the axis of the scores says: that they are probabilities, only where they are."""
  calibrated = is_calibrated(run, name, level)
  if calibrated is None:
    return 'score'
  ece = run.level(name, level).metric('ece').value
  return f'score: probability of fake (ECE {ece:.2f})' if calibrated else (
    f'score, not a probability (ECE {ece:.2f})'
  )  # fmt: skip


def first_page(run: Run, tests: Sequence[str]) -> dict[str, Any]:
  """What was tested, how often it was right, and what that does not say.

  Args:
    run: of the report.
    tests: names of its test sets, and of other runs.
  """
  tests = [name for name in tests if name in run.results.sets]
  judged = {name: count_verdicts(run, name) for name in tests}
  judged = {name: found for name, found in judged.items() if found is not None}
  return {
    'name': style.clean(run.name),
    'series': run.series % len(style.PAGE.series),
    'lead': _lead(run, tests),
    'sets': [_of_set(run, name, found) for name, found in judged.items()],
    'limits': _limits(run, judged),
  }


def _lead(run: Run, tests: Sequence[str]) -> str:
  if not tests:
    return 'No test set was scored: nothing can be said of how often the detector is right.'
  tables = [run.videos[name] for name in tests]
  real, fake = (sum(int((table['label'] == label).sum()) for table in tables) for label in (0, 1))
  nouns = ' and '.join(sorted({noun(run, name) for name in tests}, reverse=True))
  sets = f'{len(tests)} test sets' if len(tests) > 1 else '1 test set'
  text = (
    f'A program that tells faked faces from real ones was given {real + fake:,} {nouns} of {sets}:'
    f' {real:,} real, {fake:,} fake. '
  )
  threshold = run.threshold('video')
  if not math.isfinite(threshold):
    return text + 'No limit could be fixed for its scores: there are no verdicts to count.'
  return text + (
    f'It gives each a score from 0 to 1, and calls it fake from {threshold:.3f} on; this limit was'
    ' fixed on other data before.'
  )


def _of_set(run: Run, name: str, found: Verdicts) -> dict[str, Any]:
  """One set in sentences."""
  what = noun(run, name)
  total = found.reals + found.fakes
  sentences = []
  if found.fakes:
    spread = _spread(run, name, 'tpr@threshold', found.found, found.fakes)
    sentences.append(f'It found {found.found:,} of {found.fakes:,} fake {what}{spread}.')
  if found.reals:
    spread = _spread(run, name, 'fpr@threshold', found.alarms, found.reals)
    sentences.append(f'It called {found.alarms:,} of {found.reals:,} real {what} fake{spread}.')
  decisions = count_decisions(run, name)
  if total and decisions and decisions.decided < decisions.total:
    low, high = run.results.protocol.band.at('video')
    right = f' and is right on {decisions.right:,} of these' if decisions.decided else ''
    sentences.append(
      f'If it may leave doubtful {what} undecided (scores from {low:.3f} to {high:.3f}, fixed on'
      f' other data too), it decides {decisions.decided:,} of {decisions.total:,}{right}.'
    )
  if not total:
    sentences.append(f'It has no {what} with a label: there is no verdict to count.')
  if unlabelled := len(run.unlabelled[name]):
    sentences.append(f'The scores of {unlabelled:,} {what} without a label are in the table below.')
  return {
    'name': style.clean(name),
    'right': f'right on {found.num_right:,} of {total:,} {what}',
    'share': found.num_right / total if total else 0.0,
    'sentences': sentences,
  }


def _spread(run: Run, name: str, metric: str, count: int, total: int) -> str:
  """The share `count / total` and its range: ': 83%, with a range of 61% to 94%'.

  The range holds the evaluation's interval and the exact binomial one: a bootstrap of 18 in 18
  alone would claim to be certain.
  """
  text = f': {percent(count / total)}'
  _, low, high = run.value(name, 'video', metric)
  if not (math.isfinite(low) and math.isfinite(high)):
    return f'{text}, of too few to say how sure that is'
  confidence = run.results.protocol.bootstrap.confidence
  exact = scipy.stats.binomtest(count, total).proportion_ci(confidence)
  low, high = max(0.0, min(low, exact.low)), min(1.0, max(high, exact.high))
  return f'{text}, with a range of {percent(low)} to {percent(high)}'


def _limits(run: Run, judged: dict[str, Verdicts]) -> list[str]:
  """What the counts do not say."""
  limits = [
    'How it does on others: fakes made in other ways, other people, other cameras, stronger'
    ' compression. A detector is usually worse on what is unlike its training data.',
    f'The exact share on more of the same kind: about {run.confidence} of such ranges hold it, and'
    ' the fewer were tested, the wider a range is.',
  ]
  if rare := _of_called_fake(judged):
    limits.append(rare)
  sure = {name: is_calibrated(run, name, 'video') for name in judged}
  if off := [name for name, calibrated in sure.items() if calibrated is False]:
    where = '' if len(off) == len(judged) else f' (on {", ".join(map(style.label, off[:8]))})'
    limits.append(
      f'The chance that a video is fake: a score of 0.9 does not mean 90%{where}. Scores only put'
      ' videos in order.'
    )
  limits.append('Whether one video is fake for certain: a verdict is a hint, and no proof.')
  return limits


def _of_called_fake(judged: dict[str, Verdicts]) -> str:
  """How many of those called fake are fake where fakes are rare; '' where it cannot be said."""
  reals, alarms, fakes, found = (
    sum(getattr(verdicts, part) for verdicts in judged.values())
    for part in ('reals', 'alarms', 'fakes', 'found')
  )
  if not (reals and fakes and alarms and found):
    return ''
  right, wrong = _RARE * found / fakes, (1 - _RARE) * alarms / reals
  return (
    f'How often an alarm is right where most is real: if 1 of {round(1 / _RARE)} were fake, about'
    f' {percent(right / (right + wrong))} of those called fake would be fake, at the error rates of'
    ' all test sets together.'
  )
