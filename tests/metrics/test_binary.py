"""Every metric against a definition written out in loops, ties and missing classes included."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from masm_jax.errors import UserError
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import catalogue

NEED_BOTH = (
  *('auroc', 'ap', 'eer', 'eer_threshold', 'balanced_accuracy@0.5', 'f1@0.5'),
  *('tpr@fpr=0.001', 'tpr@fpr=0.01', 'tpr@fpr=0.05'),
)


def brute_auroc(labels, scores):
  fakes = [s for y, s in zip(labels, scores, strict=True) if y == 1]
  reals = [s for y, s in zip(labels, scores, strict=True) if y == 0]
  won = sum((f > r) + 0.5 * (f == r) for f in fakes for r in reals)
  return won / (len(fakes) * len(reals))


def operating_points(labels, scores):
  """(threshold, FPR, FNR) of `score >= threshold`, strictest first, beginning with no fake."""
  points = [(math.inf, 0.0, 1.0)]
  for threshold in sorted(set(scores), reverse=True):
    called = [s >= threshold for s in scores]
    fp = sum(c and y == 0 for c, y in zip(called, labels, strict=True))
    fn = sum(not c and y == 1 for c, y in zip(called, labels, strict=True))
    num_fake = sum(labels)
    points.append((threshold, fp / (len(labels) - num_fake), fn / num_fake))
  return points


def brute_ap(labels, scores):
  total, last_recall = 0.0, 0.0
  for threshold, _, fnr in operating_points(labels, scores)[1:]:
    called = [y for y, s in zip(labels, scores, strict=True) if s >= threshold]
    total += (1 - fnr - last_recall) * sum(called) / len(called)
    last_recall = 1 - fnr
  return total


def brute_eer(labels, scores):
  """Bisection along the piecewise linear curve."""
  points = [np.array(point[1:]) for point in operating_points(labels, scores)]

  def at(position):
    i = min(int(position), len(points) - 2)
    return points[i] + (position - i) * (points[i + 1] - points[i])

  low, high = 0.0, len(points) - 1.0
  for _ in range(80):
    middle = (low + high) / 2
    fpr, fnr = at(middle)
    low, high = (low, middle) if fpr >= fnr else (middle, high)
  return at(high)[0]


def random_sets():
  rng = np.random.default_rng(0)
  for size, levels in itertools.product((2, 3, 7, 40), (2, 5, 10**9)):
    for _ in range(6):
      labels = rng.integers(0, 2, size)
      labels[:2] = 0, 1
      yield labels, rng.integers(0, levels + 1, size) / levels


def test_agrees_with_brute_force_with_and_without_ties():
  count = 0
  for labels, scores in random_sets():
    result = metrics.binary_metrics(labels, scores)
    y, s = labels.tolist(), scores.tolist()
    assert result['auroc'] == pytest.approx(brute_auroc(y, s), abs=1e-12)
    assert result['ap'] == pytest.approx(brute_ap(y, s), abs=1e-12)
    assert result['eer'] == pytest.approx(brute_eer(y, s), abs=1e-12)
    assert result['accuracy@0.5'] == pytest.approx(np.mean((scores >= 0.5) == labels), abs=1e-12)
    assert result['balanced_accuracy@0.5'] == pytest.approx(
      sklearn_metrics.balanced_accuracy_score(labels, scores >= 0.5), abs=1e-12
    )
    assert result['brier'] == pytest.approx(
      sklearn_metrics.brier_score_loss(labels, scores), abs=1e-12
    )
    assert result['log_loss'] == pytest.approx(sklearn_metrics.log_loss(labels, scores), abs=1e-9)
    for limit in catalogue.FALSE_POSITIVE_RATES:
      reached = [1 - fnr for _, fpr, fnr in operating_points(y, s) if fpr <= limit]
      assert result[f'tpr@fpr={limit:g}'] == pytest.approx(max(reached), abs=1e-12)
    assert result['f1@0.5'] == pytest.approx(
      sklearn_metrics.f1_score(labels, scores >= 0.5), abs=1e-12
    )
    assert result['fpr@0.5'] == np.mean(scores[labels == 0] >= 0.5)
    assert result['tpr@0.5'] == np.mean(scores[labels == 1] >= 0.5)
    assert (result['num'], result['num_fake']) == (len(labels), labels.sum())
    count += 1
  assert count == 72


def test_eer_threshold_is_the_most_balanced_operating_point():
  for labels, scores in random_sets():
    _, threshold = metrics.equal_error_rate(labels, scores)
    called = scores >= threshold
    reached = abs(called[labels == 0].mean() - (~called[labels == 1]).mean())
    best = min(abs(fpr - fnr) for _, fpr, fnr in operating_points(labels.tolist(), scores.tolist()))
    assert reached == pytest.approx(best, abs=1e-12)


def test_eer_threshold_halves_the_gap_of_a_separated_set():
  eer, threshold = metrics.equal_error_rate([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
  assert (eer, threshold) == (0.0, 0.4)


def test_eer_threshold_between_neighbouring_floats_still_separates():
  low = 0.5
  high = np.nextafter(low, 1)
  assert metrics.equal_error_rate([0, 1], [low, high]) == (0.0, high)


def test_eer_by_hand():
  # Points (FPR, FNR): (0,1) (0,.5) (.5,.5): FPR meets FNR at a corner.
  assert metrics.equal_error_rate([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])[0] == 0.5
  # Two reals above the only fake of three: (0,1) (1/2,1) (1/2,0): crossing on a vertical line.
  assert metrics.equal_error_rate([0, 1, 0], [0.9, 0.5, 0.1])[0] == 0.5
  # All tied: one line from (0,1) to (1,0).
  eer, threshold = metrics.equal_error_rate([0, 1, 1], [0.3, 0.3, 0.3])
  assert (eer, threshold) == (0.5, 0.3)
  assert metrics.equal_error_rate([1, 0], [0.1, 0.9])[0] == 1.0  # Every pair the wrong way round.


@pytest.mark.parametrize('label', [0, 1])
@pytest.mark.parametrize('size', [1, 5])
def test_one_class_gives_nan_and_a_warning(label, size, caplog):
  caplog.set_level('WARNING', logger='absl')
  result = metrics.binary_metrics(np.full(size, label), np.full(size, 0.25), name='celebdf')
  assert all(math.isnan(result[key]) for key in NEED_BOTH)
  assert result['accuracy@0.5'] == 1 - label
  assert math.isnan(result['fpr@0.5' if label else 'tpr@0.5'])
  assert result['tpr@0.5' if label else 'fpr@0.5'] == 0.0
  assert result['brier'] == pytest.approx((label - 0.25) ** 2, abs=1e-15)
  assert result['log_loss'] == pytest.approx(-math.log(0.25 if label else 0.75), abs=1e-15)
  assert f'celebdf: only {"fake" if label else "real"} examples' in caplog.text
  assert all(len(rates) == 0 for rates in metrics.roc_curve([label], [0.5]))
  assert math.isnan(metrics.auroc([label], [0.5]))
  assert math.isnan(metrics.average_precision([label], [0.5]))


def test_empty_set_is_all_nan_and_warns(caplog):
  caplog.set_level('WARNING', logger='absl')
  result = metrics.binary_metrics([], [], threshold=0.3)
  counts = {key: result.pop(key) for key in ('num', 'num_real', 'num_fake')}
  assert counts == {'num': 0, 'num_real': 0, 'num_fake': 0}
  assert result.pop('threshold') == 0.3
  assert all(math.isnan(value) for value in result.values())
  assert 'no example' in caplog.text


def test_given_threshold_is_used_beside_one_half():
  result = metrics.binary_metrics([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.3], threshold=0.3)
  assert result['accuracy@0.5'] == 0.5
  assert result['balanced_accuracy@0.5'] == pytest.approx(1 / 3, abs=1e-12)
  assert result['accuracy@threshold'] == 0.75  # 0.3 itself counts as fake.
  assert result['balanced_accuracy@threshold'] == pytest.approx((2 / 3 + 1) / 2, abs=1e-12)
  assert result['threshold'] == 0.3


def test_a_certain_mistake_keeps_the_log_loss_finite():
  result = metrics.binary_metrics([0, 1], [1.0, 0.0])
  assert result['log_loss'] == pytest.approx(-math.log(np.finfo(np.float64).eps), abs=1e-9)


@pytest.mark.parametrize(
  ('labels', 'scores', 'message'),
  [
    ([0, 1], [0.5], r'shape \(2,\) do not fit scores of shape \(1,\)'),
    ([[0, 1]], [[0.5, 0.5]], 'do not fit'),
    ([0, 2], [0.5, 0.5], 'label 2 is neither'),
    ([0, 1], [0.5, math.nan], '1 of 2 scores are not probabilities in val, the first is nan'),
    ([0, 1], [-3.0, 4.0], '2 of 2 scores are not probabilities'),
  ],
)
def test_bad_input_is_one_line(labels, scores, message):
  with pytest.raises(UserError, match=message) as caught:
    metrics.binary_metrics(labels, scores, name='val')
  assert '\n' not in str(caught.value)


FRAMES = pd.DataFrame(
  {
    'video_id': ['b', 'a', 'a', 'b', 'a'],
    'path': ['b/0', 'a/0', 'a/1', 'b/1', 'a/2'],
    'label': [1, 0, 0, 1, 0],
    'score': [0.9, 0.2, 0.3, 0.5, 0.7],
    'method': ['DF', 'real', 'real', 'DF', 'real'],
  }
)


@pytest.mark.parametrize(
  ('reduce', 'expected'), [('mean', (0.4, 0.7)), ('median', (0.3, 0.7)), ('max', (0.7, 0.9))]
)
def test_video_scores(reduce, expected):
  videos = metrics.video_scores(FRAMES, reduce)
  assert videos.columns.tolist() == ['video_id', 'label', 'score', 'num_frames', 'method']
  assert videos['video_id'].tolist() == ['a', 'b']
  assert videos['label'].tolist() == [0, 1]
  assert videos['num_frames'].tolist() == [3, 2]
  assert videos['method'].tolist() == ['real', 'DF']
  assert videos['score'].to_numpy() == pytest.approx(expected, abs=1e-12)


def test_video_scores_do_not_depend_on_the_order_of_frames():
  rng = np.random.default_rng(1)
  frames = pd.DataFrame(
    {'video_id': rng.integers(0, 9, 500).astype(str), 'score': rng.random(500)}
  ).assign(label=0)
  shuffled = frames.iloc[rng.permutation(500)]
  pd.testing.assert_frame_equal(
    metrics.video_scores(frames), metrics.video_scores(shuffled), check_exact=True
  )


def test_video_scores_refuse_what_they_cannot_mean():
  with pytest.raises(UserError, match="first is 'b'"):
    metrics.video_scores(FRAMES.assign(label=[1, 0, 0, 0, 0]))
  with pytest.raises(UserError, match='use one of mean, median, max'):
    metrics.video_scores(FRAMES, 'mode')
  with pytest.raises(UserError, match='lacks the columns score'):
    metrics.video_scores(FRAMES.drop(columns='score'))
