"""Every draw of the bootstrap against scikit-learn on the resampled examples, written out."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from masm_jax.metrics import binary as metrics
from masm_jax.metrics import catalogue, uncertainty

THRESHOLDS = {'0.5': 0.5, 'threshold': 0.3}


def random_set(seed, size=60, num_clusters=12, levels=None, one_class=None):
  rng = np.random.default_rng(seed)
  clusters = rng.integers(0, num_clusters, size)
  clusters[:num_clusters] = np.arange(num_clusters)
  labels = rng.integers(0, 2, size) if one_class is None else np.full(size, one_class)
  scores = rng.random(size) if levels is None else rng.integers(0, levels + 1, size) / levels
  return labels, scores, clusters


def resampled(clusters, counts):
  """Example indices of one draw: every example of a cluster as often as it was drawn."""
  return np.repeat(np.arange(len(clusters)), counts[clusters].astype(int))


@pytest.mark.parametrize('levels', [None, 7, 1], ids=['no ties', 'ties', 'two scores'])
@pytest.mark.parametrize('one_class', [None, 0, 1])
def test_each_draw_is_the_metric_of_the_resampled_examples(levels, one_class):
  labels, scores, clusters = random_set(3, levels=levels, one_class=one_class)
  draws = uncertainty.bootstrap(
    labels, scores, clusters, thresholds=THRESHOLDS, num_draws=40, seed=5, num_threads=2
  )
  assert list(draws) == catalogue.keys(THRESHOLDS)
  counts = uncertainty.draw_counts(12, range(40), 5)
  for i in range(40):
    rows = resampled(clusters, counts[i])
    expected = metrics.binary_metrics(labels[rows], scores[rows], threshold=0.3)
    for name, values in draws.items():
      np.testing.assert_allclose(values[i], expected[name], rtol=0, atol=1e-9, err_msg=name)
    if one_class is None:
      y, s = labels[rows], scores[rows]
      assert draws['auroc'][i] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-12)
      assert draws['f1@0.5'][i] == pytest.approx(sklearn_metrics.f1_score(y, s >= 0.5), abs=1e-12)


def test_a_draw_without_one_class_is_nan_there_and_nowhere_else():
  labels, scores = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.9])
  draws = uncertainty.bootstrap(labels, scores, np.arange(3), num_draws=300)
  has_real = uncertainty.draw_counts(3, range(300), 0)[:, 0] > 0
  has_fake = uncertainty.draw_counts(3, range(300), 0)[:, 1:].sum(axis=1) > 0
  assert 0 < has_real.sum() < 300
  np.testing.assert_array_equal(np.isnan(draws['auroc']), ~(has_real & has_fake))
  assert not np.isnan(draws['brier']).any()


def test_without_a_threshold_its_operating_point_is_nan():
  labels, scores, clusters = random_set(0)
  draws = uncertainty.bootstrap(
    labels, scores, clusters, thresholds={'threshold': math.nan}, num_draws=3
  )
  result = metrics.binary_metrics(labels, scores, threshold=math.nan)
  for name in catalogue.OPERATING_POINT:
    assert np.isnan(draws[f'{name}@threshold']).all() and math.isnan(result[f'{name}@threshold'])
  assert not np.isnan(draws['auroc']).any()


def test_no_examples_give_nan():
  draws = uncertainty.bootstrap([], [], [], num_draws=4)
  assert all(np.isnan(values).all() and len(values) == 4 for values in draws.values())


def test_draws_depend_on_seed_and_number_alone(monkeypatch):
  labels, scores, clusters = random_set(0, size=300)
  one = uncertainty.bootstrap(labels, scores, clusters, num_draws=50, num_threads=1)
  monkeypatch.setattr(uncertainty, '_CHUNK_VALUES', 700)
  many = uncertainty.bootstrap(labels, scores, clusters, num_draws=50, num_threads=3)
  first = uncertainty.bootstrap(labels, scores, clusters, num_draws=7)
  other = uncertainty.bootstrap(labels, scores, clusters, num_draws=50, seed=1)
  for name, values in one.items():
    np.testing.assert_array_equal(values, many[name])
    np.testing.assert_array_equal(values[:7], first[name])
    assert (values != other[name]).any()


def test_order_of_examples_leaves_no_trace():
  labels, scores, clusters = random_set(1, levels=5)
  order = np.random.default_rng(0).permutation(60)
  one = uncertainty.bootstrap(labels, scores, clusters, num_draws=20)
  two = uncertainty.bootstrap(labels[order], scores[order], clusters[order], num_draws=20)
  for name, values in one.items():
    np.testing.assert_allclose(values, two[name], rtol=0, atol=1e-12)


def test_agrees_with_scipys_bootstrap_in_distribution():
  """SciPy resamples single examples: clusters of one. Both estimate the same distribution."""
  rng = np.random.default_rng(4)
  labels = np.tile([0, 1], 40)
  scores = np.clip(rng.normal(0.4 + 0.15 * labels, 0.2), 0, 1)
  ours = uncertainty.bootstrap(labels, scores, np.arange(80), num_draws=2000)
  theirs = scipy.stats.bootstrap(
    (labels, scores), lambda y, s: sklearn_metrics.roc_auc_score(y, s), paired=True,
    vectorized=False, n_resamples=1000, method='percentile', rng=np.random.default_rng(1),
  )  # fmt: skip
  ks = scipy.stats.ks_2samp(ours['auroc'], theirs.bootstrap_distribution)
  assert ks.pvalue > 0.01
  found = uncertainty.interval(0.7, ours['auroc'])
  assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
  assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
  # The mean Brier score has a textbook standard error.
  assert ours['brier'].std() == pytest.approx(
    ((scores - labels) ** 2).std() / math.sqrt(80), rel=0.06
  )


def test_clusters_widen_the_interval_of_copies():
  """Ten copies of each frame say nothing new: the interval stays the same."""
  labels, scores, _ = random_set(2, size=40)
  copies = np.repeat(np.arange(40), 10)
  alone = uncertainty.bootstrap(labels, scores, np.arange(40), num_draws=200)
  clustered = uncertainty.bootstrap(labels[copies], scores[copies], copies, num_draws=200)
  naive = uncertainty.bootstrap(labels[copies], scores[copies], np.arange(400), num_draws=200)
  for name in ('auroc', 'ap', 'eer', 'ece', 'log_loss'):
    np.testing.assert_allclose(alone[name], clustered[name], rtol=0, atol=1e-9)
  assert naive['auroc'].std() < 0.5 * clustered['auroc'].std()


def test_interval():
  draws = np.append(np.arange(101) / 100, math.nan)
  found = uncertainty.interval(0.5, draws)
  assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975))
  half = uncertainty.interval(0.5, draws, confidence=0.5)
  assert (half.low, half.high) == pytest.approx((0.25, 0.75))
  rare = uncertainty.interval(0.5, np.array([0.5, math.nan, math.nan]))
  assert math.isnan(rare.low) and math.isnan(rare.high) and rare.value == 0.5
  assert math.isnan(uncertainty.interval(math.nan, draws).low)


@pytest.mark.parametrize('others', [1, 2, 20])
def test_a_class_in_a_single_cluster_has_no_interval(others):
  labels = np.repeat([0, 1], [4, 4 * others])
  scores = np.random.default_rng(0).random(len(labels))
  clusters = np.repeat(np.arange(1 + others), 4)
  draws = uncertainty.bootstrap(labels, scores, clusters, thresholds={'t': 0.5})
  for name in ('auroc', 'ap', 'eer', 'fpr@t'):
    assert math.isnan(uncertainty.interval(0.5, draws[name]).low)


@pytest.mark.parametrize('others', [2, 3, 40])
def test_a_class_in_two_clusters_has_one(others):
  labels = np.repeat([0, 1], [8, 4 * others])
  scores = np.random.default_rng(0).random(len(labels))
  clusters = np.repeat(np.arange(2 + others), 4)
  draws = uncertainty.bootstrap(labels, scores, clusters, thresholds={'t': 0.5})
  for name in ('auroc', 'ap', 'eer', 'fpr@t', 'tpr@t'):
    found = uncertainty.interval(0.5, draws[name])
    assert found.low <= found.high
