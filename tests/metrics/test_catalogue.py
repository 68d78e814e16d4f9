"""The table of metrics says of each what the computed values show."""

import math

import pytest

from masm_jax import fields
from masm_jax.metrics import binary, catalogue, uncertainty

THRESHOLDS = ('threshold', '0.5')


def test_titles():
  titles = {key: catalogue.metric(key) for key in catalogue.keys(THRESHOLDS)}
  assert {key: metric.long for key, metric in titles.items() if '@' not in key} == {
    'auroc': 'AUROC', 'ap': 'Average precision', 'eer': 'EER', 'log_loss': 'Log-loss (nats)',
    'brier': 'Brier score', 'ece': 'ECE', 'coverage': 'Coverage',
    'selective_accuracy': 'Accuracy of what is decided',
    'band_accuracy': 'Accuracy within the abstention band', 'aurc': 'AURC', 'eaurc': 'Excess AURC',
  }  # fmt: skip
  assert titles['tpr@fpr=0.001'].short == 'TPR at 0.1% FPR'
  fpr = titles['fpr@threshold']
  assert (fpr.short, fpr.long, fpr.meaning) == (
    'FPR', 'FPR at the threshold', 'reals called fake at the threshold'
  )  # fmt: skip
  assert titles['fpr@0.5'].short == 'FPR at 0.5'
  assert len({metric.long for metric in titles.values()}) == len(titles)
  assert catalogue.metric('of_tomorrow').long == 'of_tomorrow'
  assert catalogue.metric('auroc@0.5').long == 'auroc@0.5'  # Of no threshold.


def test_every_metric_is_computed_and_drawn():
  labels, scores = [0, 1, 0, 1], [0.1, 0.9, 0.4, 0.3]
  point = binary.binary_metrics(labels, scores, threshold=0.35)
  own = {'eer_threshold', 'threshold', 'num', 'num_real', 'num_fake'}
  assert set(catalogue.keys(THRESHOLDS)) == set(point) - own
  drawn = uncertainty.bootstrap(
    labels, scores, range(4), thresholds={'threshold': 0.35, '0.5': 0.5}, num_draws=2
  )
  assert list(drawn) == catalogue.keys(THRESHOLDS)


@pytest.mark.parametrize('key', catalogue.keys(('0.5',)))
def test_what_needs_both_classes_is_nan_without_one(key):
  of_reals, of_fakes = (binary.binary_metrics([y] * 3, [0.1, 0.6, 0.8], name=None) for y in (0, 1))
  is_nan = math.isnan(of_reals[key]) and math.isnan(of_fakes[key])
  assert catalogue.metric(key).needs_both_classes == is_nan


def test_higher_is_better_where_a_perfect_detector_has_more():
  perfect, inverted = (
    binary.binary_metrics([0, 0, 1, 1], scores)
    for scores in ([0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1])
  )
  for key in catalogue.keys(('0.5',)):
    better = perfect[key] > inverted[key]
    assert better == catalogue.metric(key).is_higher_better, key


def test_the_config_offers_what_is_selectable():
  offered = {f'{level}_{key}' for level in ('frame', 'video') for key in catalogue.SELECTABLE}
  assert set(fields.CHOICES['eval.select_by']) == offered
  assert catalogue.RESCALED == ('log_loss', 'brier', 'ece')
