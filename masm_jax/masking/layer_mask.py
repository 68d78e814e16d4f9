"""Masks `[L, K]` of the layers that each subspace may update, drawn from scores.

`docs/methods.md`, Layer masks. [paper v1: selective layer masks] [paper v3: only forgery-sensitive
layers are updated] [ours: the rule of selection, its schedule and the controls]
"""

import dataclasses
import math
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from masm_jax.masking import grad_stats
from masm_jax.masking.groups import Granularity, Groups

Kind = Literal['dynamic', 'oneshot', 'inverse', 'random', 'all', 'none']
Select = Literal['per_subspace', 'per_layer', 'global']
Score = Literal['bvr', 'gsnr', 'rgn', 'grad_norm']


@dataclasses.dataclass(frozen=True)
class MaskConfig:
  """How the layer mask is drawn; the fields are documented in `configs/common.py`."""

  kind: Kind = 'dynamic'
  score: Score = 'bvr'
  select: Select = 'per_subspace'
  granularity: Granularity = 'block_subspace'
  keep: float = 0.5
  keep_count: int = 0
  probe_batches: int = 16
  warmup_steps: int = 20
  refresh_steps: int = 20
  decay: float = 0.9
  eps: float = 1e-12


@flax.struct.dataclass
class LayerMask:
  """The mask in force, and what it was drawn from.

  Attributes:
    mask: bool [L, K], True where a group may move.
    scores: float32 [L, K], the scores at the last refresh (0 before the first).
    steps_on: int32 [L, K], in how many steps each group was on: its duty cycle.
  """

  mask: jax.Array
  scores: jax.Array
  steps_on: jax.Array


def init_mask(groups: Groups) -> LayerMask:
  """Every group on: the mask until the first refresh."""
  return LayerMask(
    mask=jnp.ones(groups.shape, bool),
    scores=jnp.zeros(groups.shape, jnp.float32),
    steps_on=jnp.zeros(groups.shape, jnp.int32),
  )


def select_top(scores: jax.Array, *, keep: float, select: Select, keep_count: int = 0) -> jax.Array:
  """Switches on the groups of the highest scores.

  Args:
    scores: float [L, K].
    keep: share of groups that stay on, in (0, 1]; at least one of each ranking does, and
      `ceil(keep * n)` of n do. Ties go to the lower index.
    select: `per_subspace` (each subspace ranks its L layers), `per_layer` (each layer ranks its K
      subspaces) or `global` (one ranking over all L*K).
    keep_count: where it is not 0, so many of each ranking stay on (all, if there are fewer),
      whatever their share is.

  Returns:
    bool [L, K].
  """

  def top(ranking: jax.Array) -> jax.Array:  # [n, lists] -> bool [n, lists]
    num_kept = keep_count or max(1, math.ceil(keep * ranking.shape[0] - 1e-9))
    rank = jnp.argsort(jnp.argsort(-ranking, axis=0, stable=True), axis=0, stable=True)
    return rank < num_kept

  if select == 'per_subspace':
    return top(scores)
  if select == 'per_layer':
    return top(scores.T).T
  if select == 'global':
    return top(scores.reshape(-1, 1)).reshape(scores.shape)
  raise ValueError(f'unknown selection {select!r}: use per_subspace, per_layer or global')


def draw(scores: jax.Array, *, config: MaskConfig, seed: int, step: int | jax.Array) -> jax.Array:
  """The mask that a kind of selection makes of the scores.

  Args:
    scores: float32 [L, K].
    config: `dynamic` and `oneshot` keep the highest scores, `inverse` the lowest, `random` ranks by
      chance, `all` and `none` (no mask) keep everything on.
    seed: seed of `random` masks, which are a function of (seed, step).
    step: when the mask is drawn.

  Returns:
    bool [L, K].
  """
  if config.kind in ('all', 'none'):
    return jnp.ones(scores.shape, bool)
  if config.kind == 'random':
    ranking = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), step), scores.shape)
  else:
    ranking = -scores if config.kind == 'inverse' else scores
  return select_top(ranking, keep=config.keep, select=config.select, keep_count=config.keep_count)


def is_refresh(step: int | jax.Array, config: MaskConfig) -> bool | jax.Array:
  """Whether the mask is drawn anew in this step (1 is the first): at the end of the warm-up, then
  every `refresh_steps`."""
  since = step - max(config.warmup_steps, 1)
  return (since >= 0) & (since % config.refresh_steps == 0)


def refresh(
  layer_mask: LayerMask,
  *,
  stats: grad_stats.GradStats,
  groups: Groups,
  params: dict,
  step: jax.Array,
  seed: int,
  config: MaskConfig,
) -> LayerMask:
  """Draws the mask anew where `step` is a refresh step, and keeps it otherwise; jit-safe.

  Called once in every step: it also counts the steps in which each group is on.

  Args:
    layer_mask: the mask so far.
    stats: gradient statistics, this step's gradient included.
    groups: the groups [L, K].
    params: the grouped leaves.
    step: int32 [], counted from 1.
    seed: seed of `random` masks.
    config: see `draw`.
  """

  def drawn() -> tuple[jax.Array, jax.Array]:
    scores = grad_stats.group_scores(
      stats, groups, params, kind=config.score, decay=config.decay, eps=config.eps
    )
    return draw(scores, config=config, seed=seed, step=step), scores

  mask, scores = jax.lax.cond(
    is_refresh(step, config), drawn, lambda: (layer_mask.mask, layer_mask.scores)
  )
  steps_on = layer_mask.steps_on + mask.astype(jnp.int32)
  return LayerMask(mask=mask, scores=scores, steps_on=steps_on)
