"""Words for every verdict and every reason, and none surer than validation allows."""

import dataclasses
import itertools
import re

import pytest

from masm_jax.prediction import answers, words
from tests.prediction.answers_made import ANSWER, POLICY, TRACK, check, made

CASES = [
  made(verdict, reasons)
  for verdict in answers.VERDICTS
  for reasons in ((), *((reason,) for reason in answers.REASONS))
  if reasons or verdict in ('fake', 'real')
]


def every_text(found):
  tracks = [text for track in found.tracks for text in (track.title, track.text, *track.reasons)]
  return [found.headline, found.short, found.explanation, found.fine_print, *found.reasons, *tracks]


@pytest.mark.parametrize('answer', CASES, ids=lambda a: '-'.join((a.verdict, *a.reasons)))
def test_every_branch_has_its_words(answer):
  check(answer)
  found = words.describe(answer)
  for text in every_text(found):
    assert text and text == text.strip() and '_' not in text and 'None' not in text
  assert len(found.reasons) == len(answer.reasons) == len(found.tracks[0].reasons)
  everything = ' '.join(every_text(found)).lower()
  assert not re.search(r'\b(certain|definitely|surely|genuine\.$|authentic|100 %)', everything)
  if answer.verdict == 'no_answer':
    assert not found.number and 'says nothing' in found.explanation and '91' not in everything
  else:
    assert '91 % (84 to 95 %)' in found.explanation
  if answer.verdict == 'real':
    assert 'does not prove' in found.explanation and found.short == 'nothing found'
  if answer.verdict == 'fake':
    assert 'not a proof' in found.explanation
  if answer.verdict in ('fake', 'real') and answer.reasons:
    assert found.headline.endswith('with reservations')
  if 'uncalibrated' in answer.reasons and answer.verdict != 'no_answer':
    assert 'no probability' in found.explanation


def test_reasons_and_verdicts_say_different_things():
  texts = [words.reason_sentence(reason) for reason in answers.REASONS]
  assert len(set(texts)) == len(answers.REASONS)
  heads = {words.describe(made(v, ('no_face',))).headline for v in answers.VERDICTS}
  assert len(heads) == len(answers.VERDICTS)


@pytest.mark.parametrize(
  ('probability', 'interval', 'text'),
  [
    (0.91, (0.84, 0.95), '91 % (84 to 95 %)'),
    (1.0, None, 'more than 99 %'),
    (0.9999, (0.98, 1.0), 'more than 99 % (98 to more than 99 %)'),
    (0.0, (0.0, 0.02), 'less than 1 % (less than 1 to 2 %)'),
    (0.5, (0.499, 0.501), '50 %'),
    (0.99, None, '99 %'),
    (None, None, ''),
  ],
)
def test_numbers_end_where_validation_does(probability, interval, text):
  assert words.number_of(probability, interval) == text


def test_without_calibration_nothing_is_called_a_probability():
  plain = made(policy=dataclasses.replace(POLICY, calibration=None, abstain=None))
  found = words.describe(plain)
  assert 'no probability' in found.explanation and 'not calibrated' in found.fine_print
  assert 'probability' not in found.tracks[0].text and 'reservations' in found.headline


def test_a_scale_that_did_not_fit_is_no_calibration():
  """The fine print says nothing that the sentences above it deny."""
  poor = made(reasons=('uncalibrated',))
  found = words.describe(poor)
  assert 'no probability' in found.explanation
  assert 'scaled on validation, and still off by 3.0 % on average there' in found.fine_print
  assert 'calibrated on' not in found.fine_print


@pytest.mark.parametrize(
  ('verdict', 'probability', 'headline'),
  [
    ('fake', 0.51, 'Weak signs of manipulation found'),
    ('fake', 0.80, 'Signs of manipulation found'),
    ('real', 0.40, 'No clear signs of manipulation found'),
    ('real', 0.10, 'No signs of manipulation found'),
  ],
)
def test_a_verdict_near_a_coin_toss_is_called_weak(verdict, probability, headline):
  assert words.describe(made(verdict, probability=probability)).headline == headline


def test_people_and_times():
  second = dataclasses.replace(TRACK, id=1, segments=TRACK.segments * 7, interval=None)
  for tracks, text in (('max', 'highest value'), ('mean', 'mean over the 2 people')):
    policy = dataclasses.replace(POLICY, tracks=tracks)
    found = words.describe(made(tracks=(TRACK, second), policy=policy))
    assert text in found.explanation
  assert found.tracks[1].title == 'Person 2, 0:00 to 1:01'
  assert found.tracks[1].text.endswith('and 2 more.')
  photo = made(input=dataclasses.replace(ANSWER.input, kind='image'))
  assert words.describe(photo).tracks[0].title == 'Person 1'
  assert [words.clock(s) for s in (0, 59.9, 61, 3661)] == ['0:00', '0:59', '1:01', '1:01:01']


def test_every_pair_of_reasons_keeps_its_order_of_sentences():
  for pair in itertools.combinations(answers.REASONS, 2):
    assert words.describe(made('undecided', pair)).reasons == tuple(
      words.reason_sentence(reason) for reason in pair
    )


def test_what_a_detector_was_trained_on():
  counts = {'real': {'videos': 1, 'identities': 1}, 'fake': {'videos': 2880, 'identities': None}}
  model = dataclasses.replace(ANSWER.model, training_videos=counts)
  told = 'ffpp c23: 1 real video (1 identity), 2,880 fake videos'
  assert words.describe(made(model=model)).trained_on == told
  assert words.trained_on(ANSWER.model) == 'ffpp c23'
  nameless = dataclasses.replace(model, training_sets=())
  assert words.trained_on(nameless).startswith('sets without a name: 1 real video')
  assert words.trained_on(dataclasses.replace(nameless, training_videos=None)) == 'not recorded'
