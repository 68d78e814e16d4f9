"""Methods that train some of the plain parameters as they are, chosen by path."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.methods.base import Params, Parts, Unconstrained


@dataclasses.dataclass(frozen=True)
class Selective(Unconstrained):
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

  def merge(self, trainable: Params, frozen: Params) -> dict:
    """The two trees in one."""
    return tree.combine(trainable, frozen)
