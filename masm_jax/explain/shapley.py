"""How much each of K learned changes adds to the logit: Shapley values.

[kin: Shapley 1953; Castro et al. 2009 for the sampled form] [ours: the game, `m(g)`, the logit with
the changes outside a coalition switched off]
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EXACT_UP_TO = 6  # 2^K forward passes.

# gates float64 [K] of 0 and 1 -> logits float64 [B].
Game = Callable[[np.ndarray], np.ndarray]


class Shapley(NamedTuple):
  """Shapley values of a batch.

  Attributes:
    values: float64 [B, K]; they sum to `m(1) - m(0)` for each picture.
    standard_errors: float64 [B, K]; 0 where the values are exact.
    off: m(0), float64 [B].
    on: m(1), float64 [B].
  """

  values: np.ndarray
  standard_errors: np.ndarray
  off: np.ndarray
  on: np.ndarray


def shapley_values(game: Game, num_parts: int, *, permutations: int = 64, seed: int = 0) -> Shapley:
  """Shapley values of K parts: exact up to `EXACT_UP_TO`, sampled above.

  >>> shapley_values(lambda g: np.array([g[0] * (1.0 + g[1])]), 2).values.tolist()
  [[1.5, 0.5]]

  Args:
    game: what a coalition is worth, see `Game`.
    num_parts: K.
    permutations: drawn where the values are sampled, in antithetic pairs.
    seed: of the draw.
  """
  if num_parts <= EXACT_UP_TO:
    return _exact(game, num_parts)
  return _sampled(game, num_parts, permutations, seed)


def _exact(game: Game, num_parts: int) -> Shapley:
  coalitions = list(itertools.product((0.0, 1.0), repeat=num_parts))
  worth = {members: np.asarray(game(np.array(members)), np.float64) for members in coalitions}
  off, on = worth[(0.0,) * num_parts], worth[(1.0,) * num_parts]
  values = np.zeros((len(off), num_parts))
  for members in coalitions:
    size = int(sum(members))
    for part in range(num_parts):
      if members[part]:
        continue
      joined = (*members[:part], 1.0, *members[part + 1 :])
      # The share of orders in which exactly these come before the part.
      weight = math.factorial(size) * math.factorial(num_parts - size - 1)
      gain = worth[joined] - worth[members]
      values[:, part] += weight / math.factorial(num_parts) * gain
  return Shapley(values, np.zeros_like(values), off, on)


def _sampled(game: Game, num_parts: int, permutations: int, seed: int) -> Shapley:
  rng = np.random.default_rng(seed)
  off = np.asarray(game(np.zeros(num_parts)), np.float64)
  on = np.asarray(game(np.ones(num_parts)), np.float64)
  pairs = []
  for _ in range(max(permutations // 2, 2)):
    order = rng.permutation(num_parts)
    gains = []
    for direction in (order, order[::-1]):  # A pair of opposite orders: less variance.
      gain, gates, before = np.zeros((len(off), num_parts)), np.zeros(num_parts), off
      for part in direction:
        gates[part] = 1.0
        after = on if gates.all() else np.asarray(game(gates.copy()), np.float64)
        gain[:, part] = after - before
        before = after
      gains.append(gain)
    pairs.append((gains[0] + gains[1]) / 2)
  drawn = np.stack(pairs)
  errors = drawn.std(axis=0, ddof=1) / math.sqrt(len(drawn))
  return Shapley(drawn.mean(axis=0), errors, off, on)
