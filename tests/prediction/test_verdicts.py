"""Verdicts from scores: intervals over blocks, bands, doubts, people who contradict each other."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
import scipy.special

from masm_jax.data import crop_flags
from masm_jax.metrics import binary
from masm_jax.prediction import policy as policies
from masm_jax.prediction import quality, verdicts
from masm_jax.prediction.policy import Rule

RULE = Rule(0.5, 'validation EER', (0.3, 0.7))
FITTED = types.SimpleNamespace(temperature=2.0, ece=0.1, ece_rescaled=0.02)
POLICY = dataclasses.replace(
  policies.from_detector(types.SimpleNamespace(thresholds={}, calibration=FITTED)),
  rules={'frame': RULE, 'video': RULE},
)
GOOD = {'face_px': 200.0, 'blur': 0.3, 'yaw_deg': 3.0}


def face(i, score, *, flag='', distance=None, **changes):
  fields = {
    'index': i, 'time_s': i / 2, 'box': (1, 2, 3, 4), 'landmarks': [(1, 2)],
    'quality': GOOD | changes,
  }  # fmt: skip
  logit = None if flag else float(scipy.special.logit(score))
  return verdicts.ScoredFace(fields, flag, logit, distance)


def judge(scores, policy=POLICY, level='video', number=0, **changes):
  faces = [face(i, score, **changes) for i, score in enumerate(scores)]
  return verdicts.judge(number, faces, policy, level=level, upside_down=False)


@pytest.mark.parametrize('reduce', ['mean', 'median', 'max'])
def test_a_persons_score_is_the_video_score_of_evaluate(reduce):
  scores = np.random.default_rng(0).uniform(size=13)
  table = pd.DataFrame({'video_id': 'a', 'label': 1, 'score': scores})
  expected = binary.video_scores(table, reduce)['score'][0]
  found = verdicts.person_score(scipy.special.logit(scores), reduce)
  assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
  ('score', 'verdict'),
  [(0.29, 'real'), (0.3, 'undecided'), (0.5, 'undecided'), (0.69, 'undecided'), (0.71, 'fake')],
)
def test_thresholds_and_bands(score, verdict):
  for level in ('frame', 'video'):
    track = judge([score] * 27, level=level).track
    assert track.verdict == verdict
    assert track.reasons == (('near_threshold',) if verdict == 'undecided' else ())
    assert track.probability == pytest.approx(POLICY.probability(score))
  plain = dataclasses.replace(POLICY, rules={'video': dataclasses.replace(RULE, abstain=None)})
  assert verdicts.person_score([0.0] * 8, 'mean') == 0.5  # At the threshold: fake.
  faces = [face(i, 0.5) for i in range(8)]
  plain = dataclasses.replace(plain, rules=plain.rules | {'frame': RULE})
  assert verdicts.judge(0, faces, plain, level='video', upside_down=False).track.verdict == 'fake'


def test_intervals_come_from_blocks_of_neighbours():
  rng = np.random.default_rng(1)
  steady = rng.normal(size=32)
  low, high = verdicts.interval_of(steady, 'mean')
  mean = scipy.special.expit(steady).mean()
  assert low < mean < high
  # Frames that agree with their neighbours say less: the interval is wider.
  alike = np.repeat(rng.permutation(steady[:8]), 4)
  width = lambda logits: np.subtract(*verdicts.interval_of(logits, 'mean')[::-1])
  shuffled = width(rng.permutation(alike))
  assert width(alike) > shuffled
  assert verdicts.interval_of(steady, 'mean') == (low, high)  # The same draws each time.
  assert verdicts.interval_of([1.0] * 6, 'mean') is None
  low, high = verdicts.interval_of([1.0] * 32, 'median')
  assert low == high == pytest.approx(scipy.special.expit(1.0))


def test_an_interval_covers_the_mean_of_independent_frames():
  rng = np.random.default_rng(2)
  hits = 0
  for _ in range(120):
    logits = rng.normal(size=64)
    low, high = verdicts.interval_of(logits, 'mean')
    hits += low <= 0.5 <= high
  assert 0.85 <= hits / 120 <= 0.99


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'face_px': quality.MIN_FACE_PX - 1}, 'face_too_small'),
    ({'blur': quality.MAX_BLUR + 0.01}, 'face_too_blurred'),
    ({'yaw_deg': -quality.MAX_YAW_DEG - 1}, 'extreme_pose'),
    ({'distance': 1.1}, 'out_of_domain'),
  ],
)
def test_doubts_are_caveats_or_reasons_to_abstain(changes, reason):
  track = judge([0.9] * 27, **changes).track
  assert (track.verdict, track.reasons) == ('fake', (reason,))
  strict = dataclasses.replace(POLICY, quality='abstain', out_of_domain='abstain')
  assert judge([0.9] * 27, strict, **changes).track.verdict == 'undecided'


def test_few_frames_and_no_calibration():
  assert judge([0.9] * 3).track.reasons == ('too_few_frames',)
  assert judge([0.9], level='frame').track.reasons == ()
  bare = dataclasses.replace(POLICY, calibration=None)
  assert judge([0.9] * 27, bare).track.reasons == ('uncalibrated',)
  poor = dataclasses.replace(POLICY.calibration, ece=0.4)
  found = judge([0.9] * 27, dataclasses.replace(POLICY, calibration=poor)).track
  assert (found.verdict, found.reasons) == ('fake', ('uncalibrated',))
  none = policies.from_detector(types.SimpleNamespace(thresholds={}, calibration=None))
  track = judge([0.99] * 27, none).track
  assert (track.verdict, track.reasons) == ('undecided', ('uncalibrated',))


@pytest.mark.parametrize(
  ('flag', 'reason'),
  [
    (crop_flags.NO_FACE, 'no_face'),
    (crop_flags.PADDING, 'no_face'),
    (crop_flags.TOO_SMALL, 'face_too_small'),
  ],
)
def test_faces_that_are_unfit_give_no_answer(flag, reason):
  judged = verdicts.judge(0, [face(0, 0.9, flag=flag)], POLICY, level='frame', upside_down=False)
  assert (judged.track.verdict, judged.track.reasons) == ('no_answer', (reason,))
  assert judged.track.frames[0].probability is None and judged.score is None
  outcome = verdicts.combine([judged], POLICY, level='frame')
  assert outcome == verdicts.Outcome('no_answer', None, None, None, (reason,))
  mixed = [face(0, 0.9), face(1, 0.1, flag=flag)]
  found = verdicts.judge(0, mixed, POLICY, level='video', upside_down=False)
  assert found.track.frames_used == 1 and found.score == pytest.approx(0.9)


def test_somebody_upside_down_is_not_judged():
  faces = [face(i, 0.9) for i in range(9)]
  track = verdicts.judge(0, faces, POLICY, level='video', upside_down=True).track
  assert (track.verdict, track.reasons, track.frames_used) == ('no_answer', ('extreme_pose',), 0)


def test_segments_are_runs_above_the_threshold():
  scores = [0.9, 0.8, 0.1, 0.1, 0.6, 0.2, 0.7]
  spans = [(s.start_s, s.end_s) for s in judge(scores).track.segments]
  assert spans == [(0.0, 0.5), (2.0, 2.0), (3.0, 3.0)]
  first = judge(scores).track.segments[0]
  assert first.probability == pytest.approx(POLICY.probability(0.85))
  assert judge([0.9], level='frame').track.segments == ()


def test_the_highest_person_decides_unless_people_contradict_each_other():
  real, fake = judge([0.1] * 27), judge([0.9] * 27, number=1)
  outcome = verdicts.combine([real, fake], POLICY, level='video')
  assert (outcome.verdict, outcome.reasons) == ('fake', ())
  assert outcome.probability == fake.track.probability and outcome.interval == fake.track.interval
  assert outcome.score_raw == pytest.approx(scipy.special.logit(0.9))
  # Called fake by a few frames, while somebody else is called real.
  unsure = judge([0.9] * 3, number=1)
  outcome = verdicts.combine([real, unsure], POLICY, level='video')
  assert outcome.verdict == 'undecided'
  assert outcome.reasons == ('too_few_frames', 'inconsistent_tracks')
  assert verdicts.combine([unsure], POLICY, level='video').verdict == 'fake'
  # Pictures have no intervals: each face speaks for itself.
  pictures = [judge([0.1], level='frame'), judge([0.9], level='frame', number=1)]
  assert verdicts.combine(pictures, POLICY, level='frame').verdict == 'fake'


def test_the_mean_over_people():
  mean = dataclasses.replace(POLICY, tracks='mean')
  real, fake = judge([0.1] * 27, mean), judge([0.98] * 27, mean)
  outcome = verdicts.combine([real, fake], mean, level='video')
  assert (outcome.verdict, outcome.interval) == ('undecided', None)
  assert set(outcome.reasons) == {'near_threshold', 'inconsistent_tracks'}
  assert outcome.probability == pytest.approx(POLICY.probability(0.54))
  both = verdicts.combine([fake, fake], mean, level='video')
  assert (both.verdict, both.reasons) == ('fake', ())


def test_extreme_scores_stay_numbers():
  faces = [dataclasses.replace(face(i, 0.5), logit=900.0) for i in range(9)]
  judged = verdicts.judge(0, faces, POLICY, level='video', upside_down=False)
  outcome = verdicts.combine([judged], POLICY, level='video')
  assert outcome.probability == 1.0 and np.isfinite(outcome.score_raw)


def test_quality_of_a_face():
  sharp = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
  flat = np.full((128, 128, 3), 90, np.uint8)
  ramp = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 128, 0).repeat(3, 2)
  assert quality.blur(sharp) < 0.1 and quality.blur(ramp) > 0.95 and quality.blur(flat) == 1.0
  eyes = np.array([[0, 0], [10, 0], [5, 5], [2, 9], [8, 9]], float)
  assert quality.yaw_deg(eyes) == 0
  turned = eyes + np.array([[0, 0], [0, 0], [4.5, 0], [0, 0], [0, 0]])
  assert quality.yaw_deg(turned) == pytest.approx(45)
  tilt = np.array([[0, -1], [1, 0]])
  assert quality.yaw_deg(turned @ tilt) == pytest.approx(45)  # The head may lean.
  assert quality.yaw_deg(np.zeros((5, 2))) == 90
