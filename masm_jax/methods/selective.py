"""Methods that train some of the plain parameters as they are, chosen by path."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.methods.base import Parts

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Selective:
  """Trains the leaves that a pattern matches, freezes the rest; see `methods.base.Method`.

  Attributes:
    name: the method's name.
    patterns: regular expressions over whole paths, `backbone/block_00/attn/q/kernel`.
  """

  name: str
  patterns: tuple[str, ...]

  @property
  def dense_cls(self) -> Callable[..., nn.Module]:
    """The backbone's own dense layers."""
    return layers.Dense

  def init(self, params: Params, rng: jax.Array) -> Parts:
    """Splits the parameters by path. No randomness is used."""
    del rng
    return Parts(*tree.partition(params, lambda path: tree.match_any(self.patterns, path)), {})

  def regularize(
    self, trainable: Params, frozen: Params, reference: Params
  ) -> dict[str, jax.Array]:
    """Nothing."""
    del trainable, frozen, reference
    return {}

  def merge(self, trainable: Params, frozen: Params) -> dict:
    """The two trees in one."""
    return tree.combine(trainable, frozen)

  def groups(self, trainable: Params) -> None:
    """Nothing to mask."""
    del trainable
