"""Masks `[L, K]` of the layers that each subspace may update, drawn from scores.

`docs/methods.md`, Layer masks. [paper v1: selective layer masks] [paper v3: only forgery-sensitive
layers are updated] [ours: the rule of selection, its schedule and the controls]
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from masm_jax.masking import forgeries, grad_stats
from masm_jax.masking.groups import Granularity, Groups

Kind = Literal['dynamic', 'oneshot', 'inverse', 'random', 'all', 'none']
Select = Literal['per_subspace', 'per_layer', 'global']
Score = Literal['bvr', 'bvr_unbiased', 'gsnr', 'rgn', 'grad_norm', 'forgery']
KeepBy = Literal['share', 'score']
# Scores float32 [L, K] by the gradients of half the batches, or of all where it is told None.
ScoreOf = Callable[[int | None], jax.Array]

# From here on a score is a signal: see `beyond_chance`. Where half of the groups are on, two halves
# of the batches then agree on .8 of them.
SIGNAL = 0.6


@dataclasses.dataclass(frozen=True)
class MaskConfig:
  """How the layer mask is drawn; the fields are documented in `configs/common.py`."""

  kind: Kind = 'dynamic'
  score: Score = 'grad_norm'
  select: Select = 'per_subspace'
  granularity: Granularity = 'block_subspace'
  keep: float = 0.5
  keep_by: KeepBy = 'share'
  keep_count: int = 0
  hysteresis: float = 0.1
  probe_batches: int = 16
  head_batches: int = 16
  warmup_steps: int = 200
  close_steps: int = 0
  refresh_steps: int = 200
  decay: float = 0.99
  eps: float = 1e-6


@flax.struct.dataclass
class LayerMask:
  """The mask in force, and what it was drawn from.

  Attributes:
    mask: bool [L, K], True where a group may move.
    scores: float32 [L, K], the scores at the last refresh (0 before the first).
    agreement: float32 [], share of the groups on which the masks of two halves of the batches
      agreed then (1 before the first); by chance `keep^2 + (1 - keep)^2` of them do.
    steps_on: int32 [L, K], in how many steps each group was on: its duty cycle.
  """

  mask: jax.Array
  scores: jax.Array
  agreement: jax.Array
  steps_on: jax.Array


def init_mask(groups: Groups) -> LayerMask:
  """Every group on: the mask until the first refresh."""
  return LayerMask(
    mask=jnp.ones(groups.shape, bool),
    scores=jnp.zeros(groups.shape, jnp.float32),
    agreement=jnp.ones((), jnp.float32),
    steps_on=jnp.zeros(groups.shape, jnp.int32),
  )


def select_top(
  scores: jax.Array,
  *,
  keep: float | jax.Array,
  select: Select,
  keep_by: KeepBy = 'share',
  keep_count: int = 0,
) -> jax.Array:
  """Switches on the groups of the highest scores.

  Args:
    scores: float [L, K].
    keep: share that stays on, in (0, 1]; at least one group of each ranking does. Ties go to the
      lower index.
    select: `per_subspace` (each subspace ranks its L layers), `per_layer` (each layer ranks its K
      subspaces) or `global` (one ranking over all L*K).
    keep_by: a share of the groups, `ceil(keep * n)` of n, or of the score: the fewest groups that
      hold so much of the ranking's sum (scores below 0 count as 0).
    keep_count: where it is not 0, so many of each ranking stay on (all, if there are fewer),
      whatever their share is.

  Returns:
    bool [L, K].
  """

  def top(ranking: jax.Array) -> jax.Array:  # [n, lists] -> bool [n, lists]
    order = jnp.argsort(-ranking, axis=0, stable=True)
    rank = jnp.argsort(order, axis=0, stable=True)
    if keep_by == 'score' and not keep_count:
      held = jnp.cumsum(jnp.maximum(jnp.take_along_axis(ranking, order, axis=0), 0.0), axis=0)
      # The rounding of a sum must not ask for one group more.
      before = jnp.concatenate([jnp.zeros_like(held[:1]), held[:-1]])
      wanted = before < keep * held[-1:] * (1 - 1e-6)
      return jnp.take_along_axis(wanted, rank, axis=0) | (rank == 0)
    size = ranking.shape[0]
    share = jnp.asarray(keep, jnp.float32) * size
    return rank < jnp.maximum(keep_count or jnp.ceil(share - 1e-5).astype(rank.dtype), 1)

  if select == 'per_subspace':
    return top(scores)
  if select == 'per_layer':
    return top(scores.T).T
  if select == 'global':
    return top(scores.reshape(-1, 1)).reshape(scores.shape)
  raise ValueError(f'unknown selection {select!r}: use per_subspace, per_layer or global')


def draw(
  scores: jax.Array,
  *,
  config: MaskConfig,
  seed: int,
  step: int | jax.Array,
  keep: float | jax.Array | None = None,
) -> jax.Array:
  """The mask that a kind of selection makes of the scores.

  Args:
    scores: float32 [L, K].
    config: `dynamic` and `oneshot` keep the highest scores, `inverse` the lowest, `random` ranks by
      chance, `all` and `none` (no mask) keep everything on.
    seed: seed of `random` masks, which are a function of (seed, step).
    step: when the mask is drawn.
    keep: what stays on; None for `config.keep`.

  Returns:
    bool [L, K].
  """
  if config.kind in ('all', 'none'):
    return jnp.ones(scores.shape, bool)
  if config.kind == 'random':
    ranking = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), step), scores.shape)
  else:
    ranking = _lowest_first(scores) if config.kind == 'inverse' else scores
  return select_top(
    ranking,
    keep=config.keep if keep is None else keep,
    select=config.select,
    keep_by=config.keep_by,
    keep_count=config.keep_count,
  )


def _lowest_first(scores: jax.Array) -> jax.Array:
  """Scores in the opposite order, none below 0: what is kept by score needs them so."""
  return jnp.max(scores) - scores


def score_of(
  stats: grad_stats.GradStats | forgeries.ForgeryStats,
  groups: Groups,
  params: dict,
  config: MaskConfig,
) -> ScoreOf:
  """The scores that `config.score` reads from statistics, as a function of the half.

  Args:
    stats: what `init_stats` began.
    groups: the groups [L, K].
    params: the grouped leaves.
    config: of the masks.
  """
  if isinstance(stats, forgeries.ForgeryStats):
    return functools.partial(forgeries.group_scores, stats)
  return lambda half: grad_stats.group_scores(
    stats, groups, params, kind=config.score, eps=config.eps, half=half
  )


def agreement(score: ScoreOf, config: MaskConfig) -> jax.Array:
  """Share of the groups on which masks of two halves of the batches agree, float32 [].

  Each half ranks by its own gradients alone. Where they agree no better than chance, the score is
  noise, and so is the mask that is drawn from it.
  """
  ranked = dataclasses.replace(config, kind='dynamic')
  first, second = (
    draw(score(half), config=ranked, seed=0, step=0) for half in range(grad_stats.HALVES)
  )
  return jnp.mean((first == second).astype(jnp.float32))


def by_chance(kept: float) -> float:
  """Share of the groups on which two masks agree that keep so large a share at random."""
  return kept**2 + (1.0 - kept) ** 2


def beyond_chance(agreed: float, kept: float) -> float:
  """Cohen's kappa of two masks: 1 where they are the same, 0 where they agree by chance alone.

  Of masks with 11 of 12 blocks on, .85 of the groups agree whatever the score is.

  Args:
    agreed: share of the groups on which they agree.
    kept: share of the groups that each keeps.

  Returns:
    `(agreed - chance) / (1 - chance)`; 1 where everything is on, which no score has decided.
  """
  chance = by_chance(kept)
  return (agreed - chance) / (1.0 - chance) if chance < 1.0 else 1.0


def find_doubt(config: MaskConfig, agreed: Sequence[float], kept: Sequence[float]) -> str:
  """What is to be said against the layer masks of a whole run; '' if nothing is.

  Args:
    config: of the masks.
    agreed: the agreement at each refresh of the run.
    kept: share of the groups that were on from then.
  """
  if config.kind not in ('dynamic', 'inverse'):
    return ''
  if not agreed:
    return (
      f'the run ended before its first layer mask (mask.warmup_steps = {config.warmup_steps}):'
      ' every subspace of every layer was trained; a fifth of the steps is a usual warm-up'
    )
  if statistics.fmean(map(beyond_chance, agreed, kept)) >= SIGNAL:
    return ''
  mean, chance = statistics.fmean(agreed), statistics.fmean(map(by_chance, kept))
  return (
    f'mask.score = {config.score} is noise here: two halves of the batches agree on {mean:.2f} of'
    f' the groups, where {chance:.2f} is chance, so that the layer mask was drawn by chance; try'
    ' grad_norm, a mask.decay nearer to 1, or mask.kind = none'
  )


def keep_at(step: int | jax.Array, config: MaskConfig) -> jax.Array:
  """What a mask drawn at `step` keeps: everything at first, `keep` from `close_steps` steps after
  the warm-up on, and in between in proportion."""
  if not config.close_steps:
    return jnp.asarray(config.keep, jnp.float32)
  since = jnp.asarray(step - max(config.warmup_steps, 1), jnp.float32)
  return 1.0 - (1.0 - config.keep) * jnp.clip(since / config.close_steps, 0.0, 1.0)


def is_refresh(step: int | jax.Array, config: MaskConfig) -> bool | jax.Array:
  """Whether the mask is drawn anew in this step (1 is the first): at the end of the warm-up, then
  every `refresh_steps`."""
  since = step - max(config.warmup_steps, 1)
  return (since >= 0) & (since % config.refresh_steps == 0)


def refresh(
  layer_mask: LayerMask,
  *,
  score: ScoreOf,
  step: jax.Array,
  seed: int,
  config: MaskConfig,
) -> LayerMask:
  """Draws the mask anew where `step` is a refresh step, and keeps it otherwise; jit-safe.

  Called once in every step: it also counts the steps in which each group is on.

  Args:
    layer_mask: the mask so far.
    score: from `score_of`, with this step's gradient.
    step: int32 [], counted from 1.
    seed: seed of `random` masks.
    config: see `draw`.
  """

  def drawn() -> tuple[jax.Array, jax.Array, jax.Array]:
    scores = score(None)
    # What was drawn before stays on unless another group is better by a margin.
    is_chosen = layer_mask.mask & (step > max(config.warmup_steps, 1))
    sign = -1.0 if config.kind == 'inverse' else 1.0
    favoured = scores + sign * config.hysteresis * jnp.abs(scores) * is_chosen.astype(jnp.float32)
    mask = draw(favoured, config=config, seed=seed, step=step, keep=keep_at(step, config))
    return mask, scores, agreement(score, config)

  mask, scores, agreed = jax.lax.cond(
    is_refresh(step, config),
    drawn,
    lambda: (layer_mask.mask, layer_mask.scores, layer_mask.agreement),
  )
  steps_on = layer_mask.steps_on + mask.astype(jnp.int32)
  return LayerMask(mask=mask, scores=scores, agreement=agreed, steps_on=steps_on)
