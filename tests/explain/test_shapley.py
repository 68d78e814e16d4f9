"""Shapley values against their definition over all orders."""

import itertools

import numpy as np
import pytest

from masm_jax.explain import shapley


def game_of(num_parts, seed=0, batch=4):
  """A game with random worths for all coalitions."""
  worths = np.random.default_rng(seed).normal(size=(2**num_parts, batch))

  def game(gates):
    return worths[int(sum(int(g) << i for i, g in enumerate(gates)))]

  return game


def by_orders(game, num_parts):
  """The mean gain of each part over all orders in which parts may be switched on."""
  orders = list(itertools.permutations(range(num_parts)))
  total = 0.0
  for order in orders:
    gates, before = np.zeros(num_parts), game(np.zeros(num_parts))
    gains = [None] * num_parts
    for part in order:
      gates[part] = 1
      gains[part] = game(gates) - before
      before = game(gates)
    total = total + np.stack(gains, axis=1)
  return total / len(orders)


@pytest.mark.parametrize('num_parts', [1, 2, 4, 5])
def test_exact_values_equal_the_mean_over_all_orders(num_parts):
  game = game_of(num_parts)
  result = shapley.shapley_values(game, num_parts)
  np.testing.assert_allclose(result.values, by_orders(game, num_parts), atol=1e-12)
  np.testing.assert_allclose(result.values.sum(1), result.on - result.off, atol=1e-12)
  assert not result.standard_errors.any()


def test_sampled_values_lie_within_their_errors():
  game = game_of(7, seed=3)
  exact = shapley._exact(game, 7)
  sampled = shapley.shapley_values(game, 7, permutations=600)
  np.testing.assert_allclose(sampled.values.sum(1), sampled.on - sampled.off, atol=1e-10)
  z = (sampled.values - exact.values) / sampled.standard_errors
  assert np.abs(z).max() < 4 and (sampled.standard_errors > 0).all()
  assert (np.abs(z) < 2).mean() > 0.8
