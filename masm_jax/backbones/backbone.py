"""The contract of a backbone: its architecture, its published names, where its file comes from.

A key table maps published names to parameter paths: `{source pattern: (target patterns,
transform)}`. `{}` in a pattern stands for the number of a block. Every transform has its inverse,
so that one table serves loading, exporting and the check of the shapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from masm_jax.backbones.layers import Dense, DenseCls

Shape = tuple[int, ...]


class Architecture(Protocol):
  """What the rest of the program asks of a family of backbones: a frozen dataclass of shapes.

  Attributes:
    image_size: side of the square input, pixels.
    depth: number of blocks, named `block_00`, `block_01`, ...; all have the same shapes.
    mean: per-channel mean to take from RGB values in [0, 1].
    std: per-channel standard deviation to divide by afterwards.
  """

  image_size: int
  depth: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]

  def build(
    self, *, dense_cls: DenseCls = Dense, dtype: DTypeLike = jnp.float32, remat: bool = False
  ) -> nn.Module:
    """The module: normalised images `[B, S, S, 3]` -> the pooled feature `[B, D]`, float32.

    Every dense layer that a method may adapt is made by `dense_cls`, with a 2-D kernel
    `[d_in, d_out]` below its block; how features are pooled (class token, attention, mean) and
    where positions enter is the family's own affair. `dense_cls` is called with `features`,
    `dtype`, `name`, and `use_bias=False` where the layer has no bias.
    """


@functools.cache
def param_shapes(config: Architecture) -> dict[str, Shape]:
  """Shape of every parameter by its path, `'block_00/attn/q/kernel'`, without making any array."""
  # One block stands for all: to trace forty of them takes seconds.
  shallow: Architecture = dataclasses.replace(config, depth=1)  # type: ignore[type-var]

  def init() -> Any:
    images = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    return shallow.build().init(jax.random.key(0), images)['params']

  shapes: dict[str, Shape] = {}
  for path, leaf in traverse_util.flatten_dict(jax.eval_shape(init), sep='/').items():
    first, _, rest = path.partition('/')
    if first == 'block_00':
      shapes |= {f'block_{i:02d}/{rest}': leaf.shape for i in range(config.depth)}
    else:
      shapes[path] = leaf.shape
  return shapes


def num_params(config: Architecture) -> int:
  """Exact number of parameters of the backbone, without any head."""
  return sum(math.prod(shape) for shape in param_shapes(config).values())


class Resample(NamedTuple):
  """How an array that depends on the image size is brought to another one.

  Attributes:
    fits: `(shape of the parameter in the file, shape of the model's parameter) -> bool`: whether
      the one can be resampled to the other.
    apply: `(parameter, shape of the model's parameter) -> parameter`.
  """

  fits: Callable[[Shape, Shape], bool]
  apply: Callable[[np.ndarray, Shape], np.ndarray]


class Transform(NamedTuple):
  """A change of layout between one published array and the parameters that it holds.

  Attributes:
    load: published array -> parameters, one for each target.
    export: the parameters -> the published array; the exact inverse of `load`.
  """

  load: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  export: Callable[..., np.ndarray]


Rules = Mapping[str, tuple[tuple[str, ...], Transform]]

IDENTITY = Transform(load=lambda x: (x,), export=lambda x: x)
# PyTorch linear: [out, in] <-> [in, out].
LINEAR = Transform(load=lambda x: (x.T,), export=lambda x: x.T)
# PyTorch convolution: [D, 3, p, p] <-> [p, p, 3, D].
CONV = Transform(
  load=lambda x: (x.transpose(2, 3, 1, 0),), export=lambda x: x.transpose(3, 2, 0, 1)
)
# Class token as a vector: [D] <-> [1, 1, D].
VECTOR_TOKEN = Transform(load=lambda x: (x[None, None],), export=lambda x: x[0, 0])
# Position embeddings as an embedding table: [1+N, D] <-> [1, 1+N, D].
EMBEDDING = Transform(load=lambda x: (x[None],), export=lambda x: x[0])
# One linear for q, k and v: [3 D, D] <-> three [D, D].
FUSED_LINEAR = Transform(
  load=lambda x: tuple(part.T for part in np.split(x, 3, axis=0)),
  export=lambda q, k, v: np.concatenate([q.T, k.T, v.T], axis=0),
)
# Its bias: [3 D] <-> three [D].
FUSED_BIAS = Transform(
  load=lambda x: tuple(np.split(x, 3, axis=0)),
  export=lambda q, k, v: np.concatenate([q, k, v], axis=0),
)
# One linear for two layers, as gate and up, or key and value: [2 h, D] <-> two [D, h].
PAIRED_LINEAR = Transform(
  load=lambda x: tuple(part.T for part in np.split(x, 2, axis=0)),
  export=lambda first, second: np.concatenate([first.T, second.T], axis=0),
)
# Its bias: [2 h] <-> two [h].
PAIRED_BIAS = Transform(
  load=lambda x: tuple(np.split(x, 2, axis=0)),
  export=lambda first, second: np.concatenate([first, second], axis=0),
)
# Positions of a file that has added the class token's to the class token: [1, N, D] <-> [1, 1+N, D]
# with zeros in the first row, which is not written.
WITHOUT_CLASS_ROW = Transform(
  load=lambda x: (np.concatenate([np.zeros_like(x[:, :1]), x], axis=1),),
  export=lambda x: x[:, 1:],
)


def linear_rules(source: str, target: str, bias: bool = True) -> Rules:
  """Rules for a PyTorch linear layer."""
  rules: dict[str, tuple[tuple[str, ...], Transform]] = {
    f'{source}.weight': ((f'{target}/kernel',), LINEAR)
  }
  if bias:
    rules[f'{source}.bias'] = ((f'{target}/bias',), IDENTITY)
  return rules


def fused_rules(source: tuple[str, str], target: str, parts: Sequence[str] = 'qkv') -> Rules:
  """Rules for one PyTorch layer (names of its weight and its bias) that holds two or three."""
  linear, bias = (FUSED_LINEAR, FUSED_BIAS) if len(parts) == 3 else (PAIRED_LINEAR, PAIRED_BIAS)
  return {
    source[0]: (tuple(f'{target}/{part}/kernel' for part in parts), linear),
    source[1]: (tuple(f'{target}/{part}/bias' for part in parts), bias),
  }


def norm_rules(source: str, target: str) -> Rules:
  """Rules for a PyTorch LayerNorm."""
  return {
    f'{source}.weight': ((f'{target}/scale',), IDENTITY),
    f'{source}.bias': ((f'{target}/bias',), IDENTITY),
  }


@dataclasses.dataclass(frozen=True)
class KeyTable:
  """The names of a published format.

  Attributes:
    rules: published name patterns, without `prefix`, to parameter paths.
    prefix: put before every name on export; accepted but not asked for on loading.
    ignored: regular expressions; a leftover name that one of them matches in full is no error.
    zeros: parameter paths that the format has no name for, because they are 0 in it.
  """

  rules: Rules = dataclasses.field(hash=False)
  prefix: str = ''
  ignored: tuple[str, ...] = ()
  zeros: tuple[str, ...] = ()

  def expand(self, depth: int) -> dict[str, tuple[tuple[str, ...], Transform]]:
    """The rules for a model of `depth` blocks, with every `{}` filled in."""
    expanded = {}
    for source, (targets, transform) in self.rules.items():
      if '{}' not in source:
        expanded[source] = (targets, transform)
        continue
      for layer in range(depth):
        filled = tuple(target.format(f'{layer:02d}') for target in targets)
        expanded[source.format(layer)] = (filled, transform)
    return expanded


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A preset.

  Attributes:
    name: what the config calls it.
    config: the architecture and the normalisation of its input.
    keys: names of its published format, which export writes.
    source: where its weights come from, as the end of the sentence 'To get them, ...'.
    resamples: parameters that depend on the image size, by path; none for rotary positions.
    other_keys: names that its weights have elsewhere; they are read, too.
    published_size: side of the images that the published positions are for, where it is not the
      config's.
    refuses: says what other model the file is of, from the shapes of its arrays, or None.
  """

  name: str
  config: Architecture
  keys: KeyTable
  source: str
  resamples: Mapping[str, Resample] = dataclasses.field(default_factory=dict, hash=False)
  other_keys: tuple[KeyTable, ...] = ()
  published_size: int | None = None
  refuses: Callable[[Mapping[str, Shape]], str | None] = lambda shapes: None

  def with_image_size(self, image_size: int) -> Self:
    """The same backbone for images of another size, pixels.

    Raises:
      UserError: the architecture cannot have that size.
    """
    config = dataclasses.replace(self.config, image_size=image_size)
    return dataclasses.replace(self, config=config)
