"""Scores of maps against masks, on cases that can be told by hand; baselines by definition."""

import numpy as np
import pytest

from masm_jax.explain import benchmark, localisation
from masm_jax.explain.baselines import centre_prior

MASK = np.array([[1.0, 0.6], [0.2, 0.0]])


def test_scores_of_a_map_by_hand():
  saliency = np.array([[3.0, -1.0], [1.0, -5.0]])
  found = localisation.scores(saliency, MASK)
  assert found['pointing'] == 1.0
  assert found['energy'] == pytest.approx((3 * 1.0 + 1 * 0.2) / 4)
  # Forged patches: ranks 1 and 3 of the four.
  assert found['auprc'] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_maps_that_say_nothing_score_what_chance_does():
  flat = localisation.scores(np.zeros((2, 2)), MASK)
  assert flat == {'pointing': 0.5, 'energy': pytest.approx(0.45), 'auprc': pytest.approx(0.5)}


def test_patch_masks_are_shares():
  mask = np.zeros((6, 8), bool)
  mask[:3, :2] = True
  assert localisation.patch_mask(mask, 2).tolist() == [[0.5, 0.0], [0.0, 0.0]]
  assert not localisation.usable(localisation.patch_mask(mask, 2))
  assert localisation.usable(MASK) and not localisation.usable(np.ones((2, 2)))


def test_swapped_patches_are_those_of_the_other_picture():
  image, other = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
  mixed = localisation.swap_patches(image, other, np.array([[True, False], [False, False]]))
  assert mixed.sum() == 9 * 3 * 4 and (mixed[:2, :2] == 9).all()


def test_the_centre_prior_is_highest_in_the_middle():
  prior = centre_prior(5)
  assert prior.argmax() == 12 and prior[2, 2] == 1 and np.allclose(prior, prior.T[::-1])


def test_means_go_by_clusters():
  """Two clusters of the same values: the interval is as wide as with one picture in each."""
  wide = benchmark.make_resampling(np.array([4, 4, 4, 9, 9, 9]), num_draws=2000, seed=0)
  one = benchmark.make_resampling(np.array([0, 1]), num_draws=2000, seed=0)
  many, few = wide.mean([0, 0, 0, 1, 1, 1]), one.mean([0, 1])
  assert many == few and many.value == 0.5 and (many.low, many.high) == (0, 1)
