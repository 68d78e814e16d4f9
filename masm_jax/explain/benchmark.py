"""Whether maps are true: against masks, by swapping pixels, and with the trained parts shuffled.

Every number has an interval over videos (people, where they are known), and every difference to a
baseline is of the same draws.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from masm_jax.explain import localisation
from masm_jax.explain.baselines import Baselines
from masm_jax.explain.gates import Attribution, Explainer
from masm_jax.explain.pairs import Pair
from masm_jax.inference.changes import Changes, Dense, LowRank
from masm_jax.metrics import uncertainty

ALL = 'all changes'  # The sum of the K maps: what is compared with the baselines.
CENTRE = 'centre prior'
_FRACTIONS = np.linspace(0, 1, 11)  # Of the patches that are swapped.
DELETION, INSERTION = 'deletion', 'insertion'

OnProgress = Callable[[int], None]


class Resampling(NamedTuple):
  """Draws of clusters for pictures.

  Attributes:
    clusters: int [N], 0 .. C - 1, each there.
    counts: float64 [draws, C], see `uncertainty.draw_counts`.
  """

  clusters: np.ndarray
  counts: np.ndarray

  def mean(self, values: Sequence[float] | np.ndarray) -> uncertainty.Interval:
    """The mean of values [N] with its interval."""
    values = np.asarray(values, np.float64)
    weights = self.counts[:, self.clusters]
    total = weights.sum(axis=1)
    with np.errstate(invalid='ignore'):
      draws = np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan)
    return uncertainty.interval(float(values.mean()), draws)


def make_resampling(clusters: np.ndarray, *, num_draws: int, seed: int) -> Resampling:
  """Draws for pictures of these clusters, int [N]."""
  _, clusters = np.unique(clusters, return_inverse=True)
  counts = uncertainty.draw_counts(int(clusters.max()) + 1, range(num_draws), seed)
  return Resampling(clusters, counts)


def as_json(interval: uncertainty.Interval) -> dict[str, float]:
  """`value`, `low`, `high`."""
  return {'value': interval.value, 'low': interval.low, 'high': interval.high}


def measure(
  explainer: Explainer,
  baselines: Baselines,
  pairs: Sequence[Pair],
  resampling: Resampling,
  *,
  points: int = 8,
  batch_size: int = 8,
  seed: int = 0,
  on_progress: OnProgress = lambda done: None,
) -> dict[str, Any]:
  """Measures the maps of a detector and the baselines on the same pairs.

  Args:
    explainer: of the detector and its changes.
    baselines: of the same detector.
    pairs: N fakes with their sources and masks.
    resampling: for these N.
    points: of the path's quadrature.
    batch_size: pictures at a time.
    seed: of random maps and of the shuffled changes.
    on_progress: told of the pairs done.

  Returns:
    JSON types. `maps`: name -> `pointing`, `energy`, `auprc`, `deletion`, `insertion`, each with
    `value`, `low`, `high`; `differences`: baseline -> the same of `ALL` minus the baseline, paired;
    `shuffled`: rank correlation with the maps of shuffled changes; `path`: completeness error and
    share of tokens that are no place.
  """
  grid = explainer.slots.grid
  shuffled = Explainer(explainer.config, shuffled_changes(explainer.changes, seed))
  scores: dict[str, dict[str, list[float]]] = {}
  correlations, errors, shares = [], [], []
  for start in range(0, len(pairs), batch_size):
    batch = list(pairs[start : start + batch_size])
    # One shape, so that nothing is compiled twice.
    padded = batch + [batch[-1]] * (batch_size - len(batch))
    fakes, reals = (np.stack([pair[side] for pair in padded]) for side in (0, 1))
    found = explainer.attribute(fakes, points=points)
    other = shuffled.attribute(fakes, points=points)
    maps = named_maps(found) | baselines.maps(fakes, seed=seed + start)
    for name, saliency in maps.items():
      of_name = scores.setdefault(name, {})
      for metric, values in _scores(baselines, saliency, fakes, reals, batch, grid).items():
        of_name.setdefault(metric, []).extend(values)
    for i in range(len(batch)):
      correlations.append(_rank_correlation(found.maps[i].sum(0), other.maps[i].sum(0)))
    errors.extend(np.abs(found.completeness_error[: len(batch)]).tolist())
    shares.extend(found.token_share[: len(batch)].tolist())
    on_progress(min(start + batch_size, len(pairs)))
  ours = scores[ALL]
  compared = baselines_of(scores)
  return {
    'num_pairs': len(pairs),
    'num_clusters': int(resampling.clusters.max()) + 1,
    'maps': {
      name: {metric: as_json(resampling.mean(values)) for metric, values in of_name.items()}
      for name, of_name in scores.items()
    },
    'differences': {
      name: {
        metric: as_json(resampling.mean(np.subtract(ours[metric], scores[name][metric])))
        for metric in ours
      }
      for name in compared
    },
    'shuffled': {'rank_correlation': as_json(resampling.mean(correlations))},
    'path': {
      'points': points,
      'largest_completeness_error': max(errors),
      'token_share': as_json(resampling.mean(shares)),
    },
  }


def named_maps(found: Attribution) -> dict[str, np.ndarray]:
  """The maps of an attribution by name, [B, G, G]: the sum, and each part if there are several."""
  maps = {ALL: found.maps.sum(axis=1)}
  num_parts = found.maps.shape[1]
  if num_parts > 1:
    maps |= {f'subspace {k + 1}': found.maps[:, k] for k in range(num_parts)}
  return maps


def baselines_of(names: Mapping[str, Any]) -> list[str]:
  """The names that are no map of ours."""
  return [name for name in names if name != ALL and not name.startswith('subspace ')]


def shuffled_changes(changes: Changes, seed: int) -> Changes:
  """The same detector with what it learned shuffled within each change (arXiv 1810.03292, for what
  was trained alone): same values, no structure."""
  rng = np.random.default_rng(seed)

  def shuffle(part: LowRank | Dense) -> LowRank | Dense:
    return type(part)(
      *(
        np.stack([rng.permutation(one.ravel()).reshape(one.shape) for one in np.asarray(values)])
        for values in part
      )
    )

  return changes._replace(parts={path: shuffle(part) for path, part in changes.parts.items()})


def _scores(
  baselines: Baselines,
  saliency: np.ndarray,
  fakes: np.ndarray,
  reals: np.ndarray,
  batch: Sequence[Pair],
  grid: int,
) -> dict[str, list[float]]:
  """All scores of one map on a batch, by metric."""
  found: dict[str, list[float]] = {}
  for i, pair in enumerate(batch):
    for metric, value in localisation.scores(saliency[i], pair.mask).items():
      found.setdefault(metric, []).append(value)
  order = np.argsort(-saliency.reshape(len(saliency), -1), axis=1, kind='stable')
  curves: dict[str, list[np.ndarray]] = {DELETION: [], INSERTION: []}
  for fraction in _FRACTIONS:
    chosen = np.zeros((len(fakes), grid * grid), bool)
    top = order[:, : round(fraction * grid * grid)]
    np.put_along_axis(chosen, top, True, axis=1)
    chosen = chosen.reshape(-1, grid, grid)
    for name, (image, other) in {DELETION: (fakes, reals), INSERTION: (reals, fakes)}.items():
      mixed = np.stack(
        [localisation.swap_patches(*of) for of in zip(image, other, chosen, strict=True)]
      )
      curves[name].append(scipy.special.expit(baselines.logits(mixed)))
  for name, curve in curves.items():
    area = np.trapezoid(np.stack(curve), _FRACTIONS, axis=0)
    found[name] = area[: len(batch)].tolist()
  return found


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
  """Spearman's, of two maps; 0 where one is constant."""
  value = float(scipy.stats.spearmanr(first.ravel(), second.ravel()).statistic)
  return 0.0 if math.isnan(value) else value
