"""ECE against bins written out; temperature against a known one."""

import math

import numpy as np
import pytest
import scipy.special
from sklearn.calibration import calibration_curve

from masm_jax.errors import UserError
from masm_jax.metrics import calibration


def brute_ece(labels, scores, num_bins=15):
  """Every example `num_bins` times, tied ones at their mean label, cut into whole bins."""
  order = np.argsort(scores, kind='stable')
  scores, labels = scores[order], labels[order].astype(float)
  for value in np.unique(scores):
    labels[scores == value] = labels[scores == value].mean()
  scores, labels = np.repeat(scores, num_bins), np.repeat(labels, num_bins)
  parts = zip(np.split(scores, num_bins), np.split(labels, num_bins), strict=True)
  return np.mean([abs(s.mean() - y.mean()) for s, y in parts])


@pytest.mark.parametrize('size', [1, 4, 30, 47])
@pytest.mark.parametrize('levels', [1, 6, 10**9])
@pytest.mark.parametrize('one_class', [None, 0, 1])
def test_ece_agrees_with_brute_force(size, levels, one_class):
  rng = np.random.default_rng(size)
  labels = rng.integers(0, 2, size) if one_class is None else np.full(size, one_class)
  scores = rng.integers(0, levels + 1, size) / levels
  actual = calibration.expected_calibration_error(labels, scores)
  assert actual == pytest.approx(brute_ece(labels, scores), abs=1e-9)
  shuffled = rng.permutation(size)
  assert actual == pytest.approx(
    calibration.expected_calibration_error(labels[shuffled], scores[shuffled]), abs=1e-12
  )


def test_bins_are_scikit_learns_where_they_divide():
  rng = np.random.default_rng(0)
  labels, scores = rng.integers(0, 2, 150), rng.random(150)
  bins = calibration.reliability_bins(labels, scores)
  share, mean = calibration_curve(labels, scores, n_bins=15, strategy='quantile')
  np.testing.assert_allclose([b['mean_score'] for b in bins], mean, atol=1e-12)
  np.testing.assert_allclose([b['fake_share'] for b in bins], share, atol=1e-12)
  assert {b['weight'] for b in bins} == {10.0}


def test_empty_set():
  assert calibration.reliability_bins([], []) == []
  assert math.isnan(calibration.expected_calibration_error([], []))


def test_temperature_undoes_a_scaling():
  rng = np.random.default_rng(1)
  logits = rng.normal(0, 2, 20_000)
  labels = (rng.random(20_000) < scipy.special.expit(logits)).astype(int)
  assert calibration.fit_temperature(labels, 3 * logits) == pytest.approx(3, rel=0.05)
  once = calibration.fit_temperature(labels, logits)
  assert calibration.fit_temperature(labels, 3 * logits) == pytest.approx(3 * once, rel=1e-4)
  before = calibration.expected_calibration_error(labels, scipy.special.expit(3 * logits))
  after = calibration.expected_calibration_error(labels, calibration.rescale(3 * logits, 3.0))
  assert after < 0.02 < 0.1 < before


def test_temperature_at_its_limits():
  assert calibration.fit_temperature([0, 1], [-1.0, 1.0]) == pytest.approx(math.exp(-5))
  assert calibration.fit_temperature([0, 1], [1.0, -1.0]) == pytest.approx(math.exp(5))
  with pytest.raises(UserError, match='lacks one of the classes'):
    calibration.fit_temperature([1, 1], [0.0, 1.0])
