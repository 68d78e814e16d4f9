import numpy as np
import pytest

from masm_jax.metrics import cumulative, risk_coverage, uncertainty


def test_sums_up_to_each_group_of_equals():
  values = np.array([[1, 2, 3, 4], [0, 1, 0, 1]], np.int32)
  assert cumulative.sums(values, None).tolist() == [[0, 1, 3, 6, 10], [0, 0, 1, 1, 2]]
  ends = cumulative.ends_of(np.array([0.9, 0.5, 0.5, 0.1]))
  assert ends.tolist() == [0, 2, 3]
  assert cumulative.sums(values, ends).tolist() == [[0, 1, 6, 10], [0, 0, 1, 2]]
  assert cumulative.sums(values, ends).dtype == np.int32
  assert cumulative.ends_of(np.array([0.9, 0.5])) is None


def test_whole_numbers_hold_the_heaviest_draw(monkeypatch):
  """Every draw of the one large cluster counts all of its examples."""
  one_large = np.append(np.zeros(2**16, np.int64), np.arange(1, 2**15))
  assert cumulative.whole_type(np.arange(2**16)) is np.int32
  assert cumulative.whole_type(one_large) is np.int64  # 2 * 2^15 * 2^16 = 2^32.
  rng = np.random.default_rng(0)
  case = rng.integers(0, 2, 60), rng.random(60), np.arange(60) // 5
  how = {'thresholds': {'threshold': 0.4}, 'band': (0.3, 0.6), 'num_draws': 9}
  short = uncertainty.bootstrap(*case, **how)
  monkeypatch.setattr(cumulative, 'whole_type', lambda _: np.int64)
  long = uncertainty.bootstrap(*case, **how)
  for name, values in short.items():
    np.testing.assert_array_equal(values, long[name])


@pytest.mark.parametrize('threshold', [0.5, np.nan])
def test_adjoining_pure_groups_are_one_stretch(threshold):
  # By confidence: 0.95 right, 0.1 right, a tie of both kinds, another one, 0.55 and 0.46 wrong.
  scores = np.array([0.95, 0.1, 0.8, 0.8, 0.7, 0.7, 0.55, 0.46])
  labels = np.array([1, 0, 1, 0, 0, 1, 0, 1])
  ranked = risk_coverage.Ranked.of(labels, scores, np.arange(8), threshold, risk_coverage.NO_BAND)
  if np.isnan(threshold):
    assert np.isnan(ranked.wrong).all()
  else:
    assert ranked.ends.tolist() == [1, 3, 5, 7]
