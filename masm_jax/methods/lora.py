"""LoRA (arXiv 2106.09685): a trained low-rank update beside each frozen kernel, and the head.

`y = x @ kernel + (alpha / r) (dropout(x) @ A) @ B + b`, with `A [d_in, r]` and `B [r, d_out]`. A
starts uniform in `+-1/sqrt(d_in)` as the authors' code has it (Kaiming with a = sqrt 5), B at 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.errors import UserError
from masm_jax.methods.base import OnProgress, Params, Parts, Unconstrained, check_definition
from masm_jax.subspaces import decompose
from masm_jax.subspaces import layer as subspace

_STREAM = 0x10A  # Keeps A's random numbers apart from others of the same key.


class LoraDense(layers.Dense):
  """A dense layer with a low-rank update where its parameters have one.

  With the leaves `kernel [d_in, d_out]`, `bias [d_out]`, `lora_a [d_in, r]` and `lora_b [r, d_out]`
  it computes the adapted layer; without the last two it is `layers.Dense`.

  Attributes:
    alpha: the update is scaled by alpha / r.
    dropout: share of the entries of x that the update does not see. Only where the caller gives a
      `dropout` key: an entry's fate is a function of that key, the layer and its place in the
      global batch.
  """

  alpha: float = 1.0
  dropout: float = 0.0

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., d_in] -> [..., d_out]."""
    if not self.has_variable('params', 'lora_a'):
      return super().__call__(x)
    leaf = lambda name: self.get_variable('params', name)
    lora_a, lora_b = leaf('lora_a'), leaf('lora_b')
    x = x.astype(self.dtype)
    seen = x
    if self.dropout and self.has_rng('dropout'):
      kept = jax.random.bernoulli(self.make_rng('dropout'), 1.0 - self.dropout, x.shape)
      seen = jnp.where(kept, x / jnp.asarray(1.0 - self.dropout, x.dtype), jnp.zeros_like(x))
    inner = subspace.matmul_f32(seen, lora_a.astype(self.dtype)) * (self.alpha / lora_a.shape[1])
    # The update is small beside the output: it is added before the rounding to bfloat16.
    y = subspace.matmul_f32(x, leaf('kernel').astype(self.dtype)) + subspace.matmul_f32(
      inner.astype(self.dtype), lora_b.astype(self.dtype)
    )
    if self.has_variable('params', 'bias'):
      y += jnp.expand_dims(leaf('bias').astype(jnp.float32), tuple(range(y.ndim - 1)))
    return y.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class _DenseFactory:
  """Builds `LoraDense` layers; hashable, so that it can be a static field of a module."""

  alpha: float
  dropout: float

  def __call__(self, **kwargs: Any) -> nn.Module:
    return LoraDense(alpha=self.alpha, dropout=self.dropout, **kwargs)


@dataclasses.dataclass(frozen=True)
class Lora(Unconstrained):
  """Trains A and B of every target kernel and the head; see `methods.base.Method`.

  Attributes:
    targets: patterns over dense layers, as `subspace.targets`.
    rank: r.
    alpha: the update is scaled by alpha / r.
    dropout: see `LoraDense`.
  """

  targets: tuple[str, ...]
  rank: int
  alpha: float
  dropout: float
  name: str = 'lora'

  @property
  def dense_cls(self) -> Callable[..., nn.Module]:
    """Layers that add the update."""
    return _DenseFactory(self.alpha, self.dropout)

  def init(self, params: Params, rng: jax.Array) -> Parts:
    """Adds A and B to the target layers; everything but them and the head is frozen."""
    trainable, frozen = tree.partition(params, lambda path: path.startswith(tree.HEAD))
    flat, rng = tree.flatten(params), jax.random.fold_in(rng, _STREAM)
    owners = decompose.find_targets(params, self.targets, field='lora.targets')
    for i, owner in enumerate(owners):
      d_in, d_out = flat[f'{owner}/kernel'].shape
      if self.rank > min(d_in, d_out):
        raise UserError(f'lora.rank = {self.rank} is more than {owner} [{d_in}, {d_out}] can have')
      bound = 1.0 / math.sqrt(d_in)
      draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
      adapter = {
        f'{owner}/lora_a': draw(jax.random.fold_in(rng, i), (d_in, self.rank), jnp.float32),
        f'{owner}/lora_b': jnp.zeros((self.rank, d_out), jnp.float32),
      }
      trainable = tree.combine(trainable, tree.unflatten(adapter))
    return Parts(trainable, frozen, {})

  def merge(self, trainable: Params, frozen: Params) -> dict:
    """`kernel + (alpha / r) A B`; dropout is off where nothing is trained."""
    merged = {**tree.flatten(trainable), **tree.flatten(frozen)}
    for path in [path for path in merged if path.endswith('/lora_a')]:
      owner = path.removesuffix('/lora_a')
      lora_a, lora_b = merged.pop(path), merged.pop(f'{owner}/lora_b')
      update = jnp.matmul(lora_a, lora_b, precision='highest')
      merged[f'{owner}/kernel'] += self.alpha / self.rank * update
    return tree.unflatten(merged)


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Lora:
  """LoRA as `config.lora` describes it; see `make_method`."""
  del cache_dir, on_progress
  check_definition(config, {'mask.kind': 'none'})
  return Lora(
    targets=decompose.TARGETS.get(config.lora.targets, (config.lora.targets,)),
    rank=config.lora.rank,
    alpha=config.lora.alpha,
    dropout=config.lora.dropout,
  )
