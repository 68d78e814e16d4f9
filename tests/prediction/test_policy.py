"""Thresholds, bands and probabilities of a policy: from validation, or from a file."""

import json
import math
import types

import numpy as np
import pytest

from masm_jax.errors import UserError
from masm_jax.prediction import policy as policies

DETECTOR = types.SimpleNamespace(
  thresholds={
    'frame': {'eer': 0.6, 'fpr=1%': 0.8, 'fpr=5%': 0.7, 'fnr=1%': 0.3},
    'video': {'eer': 0.5, 'fpr=1%': 0.5, 'fpr=5%': 0.5, 'fnr=1%': 0.55},  # Separated classes.
  },
  calibration=types.SimpleNamespace(temperature=2.0, ece=0.1, ece_rescaled=0.02),
)
BARE = types.SimpleNamespace(thresholds={}, calibration=None)


def calibrated(score):
  return 1 / (1 + math.exp(-math.log(score / (1 - score)) / 2))


def test_a_detector_gives_threshold_band_and_temperature():
  policy = policies.from_detector(DETECTOR)
  rule = policy.rules['frame']
  assert (rule.threshold, rule.source, rule.abstain) == (0.6, 'validation EER', (0.3, 0.8))
  assert policy.rules['video'].abstain is None  # One threshold keeps both rates.
  facts = policy.facts('frame')
  assert facts.threshold == pytest.approx(calibrated(0.6))
  assert facts.abstain == pytest.approx((calibrated(0.3), calibrated(0.8)))
  assert (facts.calibration.T, facts.calibration.ece) == (2.0, 0.02)


def test_probabilities_keep_the_order_of_scores():
  policy = policies.from_detector(DETECTOR)
  scores = np.linspace(0, 1, 501)
  found = np.array([policy.probability(score) for score in scores])
  assert (np.diff(found) > 0).all() and found[0] == 0 and found[-1] == 1
  np.testing.assert_array_equal(found >= policy.facts('frame').threshold, scores >= 0.6)


def test_without_validation_nothing_is_decided():
  policy = policies.from_detector(BARE)
  assert not policy.is_validated('video') and policy.calibration is None
  assert policies.from_fields({'threshold': 0.4}, BARE).is_validated('video')
  assert policy.facts('video').threshold == 0.5 and policy.probability(0.3) == 0.3


def test_a_file_changes_what_it_names(tmp_path):
  path = tmp_path / 'policy.json'
  path.write_text(
    json.dumps({'threshold': 0.7, 'abstain': [0.6, 0.75], 'frames': 'median', 'num_frames': 8})
  )
  policy = policies.read_policy(path, DETECTOR)
  facts = policy.facts('video')
  assert facts.threshold == pytest.approx(0.7) and facts.abstain == pytest.approx((0.6, 0.75))
  assert (facts.threshold_source, facts.frames, policy.num_frames) == ('policy', 'median', 8)
  own = policies.from_detector(DETECTOR)
  assert policy.sha256() != own.sha256() == policies.from_detector(DETECTOR).sha256()
  strict = policies.from_fields({'threshold': 'fpr=5%', 'abstain': None}, DETECTOR)
  assert strict.rules['frame'] == policies.Rule(0.7, 'validation FPR 5 %', None)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'treshold': 0.5}, "no policy key 'treshold'"),
    ({'threshold': 1.5}, 'threshold = 1.5: give a probability'),
    ({'threshold': True}, 'threshold = True'),
    ({'threshold': 'best'}, "threshold = 'best'"),
    ({'abstain': [0.8, 0.9]}, 'the threshold has to lie within it'),
    ({'abstain': 0.2}, 'give \\[low, high\\]'),
    ({'frames': 'sum'}, 'use one of mean, median, max'),
    ({'num_frames': 0}, 'num_frames = 0'),
    ({'num_frames': 2.0}, 'num_frames = 2.0'),
  ],
)
def test_what_is_no_policy_is_one_line(fields, message):
  with pytest.raises(UserError, match=message):
    policies.from_fields(fields, DETECTOR)


def test_files_that_are_none(tmp_path):
  path = tmp_path / 'policy.json'
  with pytest.raises(UserError, match='cannot read'):
    policies.read_policy(path, DETECTOR)
  for text, message in (
    ('[]', 'it is no JSON object'),
    ('{', 'is not JSON'),
    ('{"tracks": 1}', 'policy.json: tracks = 1'),
  ):
    path.write_text(text)
    with pytest.raises(UserError, match=message):
      policies.read_policy(path, DETECTOR)
  with pytest.raises(UserError, match='this detector has no such threshold'):
    policies.from_fields({'threshold': 'fpr=1%'}, BARE)
