"""Abstention: bands and selective metrics against every order written out, and cases by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.special

from masm_jax.metrics import binary, catalogue, risk_coverage, selective, uncertainty

NAN = math.nan


def naive(labels, scores, threshold, band):
  """The metrics as their definitions say, example by example; AURC over every order of ties."""
  low, high = band
  called = [score >= threshold for score in scores]
  wrong = [int(c != (y == 1)) for c, y in zip(called, labels, strict=True)]
  n = len(labels)
  confidence = [
    abs(scipy.special.logit(s) - scipy.special.logit(threshold)).round(12) for s in scores
  ]
  areas = []
  groups = [
    [w for w, c in zip(wrong, confidence, strict=True) if c == value]
    for value in sorted(set(confidence), reverse=True)
  ]
  for order in itertools.product(*(set(itertools.permutations(group)) for group in groups)):
    errors = np.cumsum([w for group in order for w in group])
    areas.append(np.mean(errors / np.arange(1, n + 1)))
  # Every order of a group is equally likely, and sets leave out equal ones evenly.
  aurc, num_wrong = float(np.mean(areas)), sum(wrong)
  best = [0] * (n - num_wrong) + [1] * num_wrong
  outside = [not low <= s < high for s in scores]
  decided = [(s >= high) == (y == 1) for s, y, o in zip(scores, labels, outside, strict=True) if o]
  within = [1 - w for w, o in zip(wrong, outside, strict=True) if not o]
  return {
    'coverage': sum(outside) / n,
    'selective_accuracy': float(np.mean(decided)) if decided else NAN,
    'band_accuracy': float(np.mean(within)) if within else NAN,
    'aurc': aurc,
    'eaurc': aurc - float(np.mean(np.cumsum(best) / np.arange(1, n + 1))),
  }


@pytest.mark.parametrize('levels', [None, 4, 1], ids=['no ties', 'ties', 'all tied'])
@pytest.mark.parametrize('one_class', [None, 0, 1])
@pytest.mark.parametrize('band', [(0.3, 0.6), (0.5, 0.5), (0.0, 1.1), (NAN, NAN)])
def test_metrics_are_their_definitions(levels, one_class, band):
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 2, 7) if one_class is None else np.full(7, one_class)
  scores = rng.random(7) if levels is None else (rng.integers(1, levels + 1, 7)) / (levels + 1)
  found = binary.binary_metrics(labels, scores, threshold=0.45, band=band, name=None)
  expected = naive(labels, scores, 0.45, band)
  for name in catalogue.SELECTIVE:
    if math.isnan(band[0]) and 'aurc' not in name:
      assert math.isnan(found[name])
    else:
      assert found[name] == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name


def test_a_case_by_hand():
  labels, scores = [0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.8, 0.3, 0.55, 0.9]
  found = binary.binary_metrics(labels, scores, threshold=0.5, band=(0.35, 0.6))
  # Outside: 0.1 right, 0.8 wrong, 0.3 wrong, 0.9 right; within: 0.4 right, 0.55 right.
  assert found['coverage'] == 4 / 6 and found['selective_accuracy'] == 0.5
  assert found['band_accuracy'] == 1.0
  # By confidence: 0.1 and 0.9 (right), 0.8 (wrong), 0.3 (wrong), 0.4, 0.55 (right).
  assert found['aurc'] == pytest.approx((0 + 0 + 1 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 6)
  assert found['eaurc'] == pytest.approx(found['aurc'] - (1 / 5 + 2 / 6) / 6)


def test_the_band_is_closed_below_and_open_above():
  found = binary.binary_metrics([0, 1], [0.4, 0.6], threshold=0.5, band=(0.4, 0.6))
  assert found['coverage'] == 0.5  # 0.4 is undecided, 0.6 is called fake.
  assert found['selective_accuracy'] == 1.0


@pytest.mark.parametrize('levels', [None, 6])
@pytest.mark.parametrize('one_class', [None, 0])
def test_each_draw_is_the_metric_of_the_resampled_examples(levels, one_class):
  rng = np.random.default_rng(5)
  clusters = np.concatenate([np.arange(9), rng.integers(0, 9, 41)])
  labels = rng.integers(0, 2, 50) if one_class is None else np.full(50, one_class)
  scores = rng.random(50) if levels is None else rng.integers(0, levels + 1, 50) / levels
  band = (0.35, 0.7)
  draws = uncertainty.bootstrap(
    labels, scores, clusters, thresholds={'threshold': 0.5}, band=band, num_draws=25, seed=2
  )
  counts = uncertainty.draw_counts(9, range(25), 2)
  for i in range(25):
    rows = np.repeat(np.arange(50), counts[i][clusters].astype(int))
    expected = binary.binary_metrics(labels[rows], scores[rows], threshold=0.5, band=band, name='')
    for name in catalogue.SELECTIVE:
      assert draws[name][i] == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name


def test_without_a_threshold_or_a_band_or_examples_there_is_nan():
  of = lambda **kwargs: binary.binary_metrics([0, 1], [0.2, 0.7], name=None, **kwargs)
  assert not set(catalogue.SELECTIVE) & set(of())
  assert all(math.isnan(of(threshold=NAN)[name]) for name in catalogue.SELECTIVE)
  found = of(threshold=NAN, band=(0.1, 0.5))
  assert found['coverage'] == 0.5 and math.isnan(found['aurc'])
  assert math.isnan(found['band_accuracy'])
  found = of(threshold=0.5)
  assert math.isnan(found['coverage']) and found['aurc'] == 0.0
  empty = binary.binary_metrics([], [], threshold=0.5, band=(0.1, 0.5), name=None)
  assert all(math.isnan(empty[name]) for name in catalogue.SELECTIVE)


def test_scores_at_the_ends_have_a_confidence():
  found = binary.binary_metrics([0, 1, 1], [0.0, 1.0, 0.5], threshold=1.0)
  # 0 is the furthest from the threshold and right, 0.5 comes next and is wrong.
  assert found['aurc'] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_perfect_is_better_than_inverted():
  labels, band = [0, 0, 1, 1], (0.3, 0.6)
  perfect, inverted = (
    binary.binary_metrics(labels, scores, threshold=0.5, band=band)
    for scores in ([0.1, 0.4, 0.8, 0.9], [0.9, 0.8, 0.4, 0.1])
  )
  for name in ('selective_accuracy', 'band_accuracy', 'aurc'):
    assert (perfect[name] > inverted[name]) == catalogue.metric(name).is_higher_better


def test_the_curve_ends_at_the_error_rate_and_is_that_of_the_most_confident():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 200)
  scores = np.clip(0.3 * labels + 0.7 * rng.random(200), 0, 1)
  curve = selective.risk_curve(labels, scores, 0.5)
  wrong = (scores >= 0.5) != (labels == 1)
  order = np.argsort(-np.abs(scipy.special.logit(scores)))
  assert [point['coverage'] for point in curve] == pytest.approx(np.arange(1, 21) / 20)
  for point in curve:
    count = round(200 * point['coverage'])
    assert point['risk'] == pytest.approx(wrong[order[:count]].mean())
  assert selective.risk_curve([], [], 0.5) == selective.risk_curve([0], [0.5], NAN) == []


# --- Bands ----------------------------------------------------------------------------------------


def rates(labels, scores, low, high):
  reals, fakes = scores[labels == 0], scores[labels == 1]
  return np.mean(reals >= high), np.mean(fakes < low)


@pytest.mark.parametrize('levels', [None, 8])
def test_the_band_keeps_both_rates_and_is_the_narrowest_that_does(levels):
  rng = np.random.default_rng(1)
  labels = np.arange(400) % 2
  scores = scipy.special.expit(rng.normal(2.0 * labels - 1, 1.2))
  if levels:
    scores = (scores * levels).round() / levels
  for fpr, fnr in ((0.01, 0.01), (0.05, 0.1), (0.0, 0.0)):
    low, high = selective.abstention_band(labels, scores, fpr=fpr, fnr=fnr)
    assert low < high
    alarms, misses = rates(labels, scores, low, high)
    assert alarms <= fpr and misses <= fnr
    assert rates(labels, scores, low, np.nextafter(high, 0))[0] > fpr
    assert rates(labels, scores, np.nextafter(low, 2), high)[1] > fnr
    assert low <= binary.equal_error_rate(labels, scores)[1] <= high


def test_separated_classes_have_an_empty_band_in_the_middle_of_their_gap():
  low, high = selective.abstention_band([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
  assert low == high == binary.equal_error_rate([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])[1] == 0.4
  found = binary.binary_metrics([0, 1], [0.39, 0.41], threshold=0.4, band=(low, high))
  assert found['coverage'] == 1.0 and math.isnan(found['band_accuracy'])


def test_an_empty_band_keeps_both_rates_even_where_the_eer_threshold_does_not():
  # One real lies among the fakes; a tenth of reals may be called fake, and no fake be missed.
  labels = np.repeat([0, 1], [10, 4])
  scores = np.array([*np.linspace(0.01, 0.09, 9), 0.6, 0.5, 0.55, 0.7, 0.8])
  low, high = selective.abstention_band(labels, scores, fpr=0.1, fnr=0.0)
  assert low == high
  alarms, misses = rates(labels, scores, low, high)
  assert alarms <= 0.1 and misses == 0


def test_a_missing_class_has_no_band():
  for labels in ([0, 0], [1, 1], []):
    band = selective.abstention_band(labels, [0.2, 0.9][: len(labels)])
    assert all(map(math.isnan, band))
  assert math.isnan(selective.threshold_at_fnr([0], [0.5], 0.01))


def test_all_scores_alike_are_all_undecided():
  low, high = selective.abstention_band([0, 1], [0.5, 0.5])
  assert low <= 0.5 < high
  found = binary.binary_metrics([0, 1], [0.5, 0.5], threshold=0.5, band=(low, high))
  assert found['coverage'] == 0 and math.isnan(found['selective_accuracy'])


def test_ranked_needs_no_order():
  rng = np.random.default_rng(2)
  labels, clusters = rng.integers(0, 2, 40), np.arange(40) % 5
  scores = rng.integers(1, 9, 40) / 10
  order = rng.permutation(40)
  counts = uncertainty.draw_counts(5, range(8), 0)
  one, two = (
    risk_coverage.Ranked.of(
      labels[rows], scores[rows], clusters[rows], 0.45, (0.3, 0.6)
    ).metrics(counts)
    for rows in (np.arange(40), order)
  )  # fmt: skip
  for name in catalogue.SELECTIVE:
    np.testing.assert_allclose(one[name], two[name], rtol=0, atol=1e-12)
