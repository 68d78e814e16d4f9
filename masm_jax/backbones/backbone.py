"""What a preset is made of: a config, the table of its published names, where its file comes from.

A key table maps published names to parameter paths: `{source pattern: (target patterns,
transform)}`. `{}` in a pattern stands for the number of a block. Every transform has its inverse,
so that one table serves loading, exporting and the check of the shapes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from masm_jax.backbones import vit


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


def linear_rules(source: str, target: str) -> Rules:
  """Rules for a PyTorch linear layer."""
  return {
    f'{source}.weight': ((f'{target}/kernel',), LINEAR),
    f'{source}.bias': ((f'{target}/bias',), IDENTITY),
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
  """

  rules: Rules = dataclasses.field(hash=False)
  prefix: str = ''
  ignored: tuple[str, ...] = ()

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
    config: shape of the transformer and normalisation of its input.
    keys: names of its published format.
    source: where its weights come from, as the end of the sentence 'To get them, ...'.
  """

  name: str
  config: vit.ViTConfig
  keys: KeyTable
  source: str

  def with_image_size(self, image_size: int) -> 'Backbone':
    """The same backbone for images of another size (pixels); its position embeddings differ.

    Raises:
      UserError: the size is not a multiple of the patch size.
    """
    config = dataclasses.replace(self.config, image_size=image_size)
    return dataclasses.replace(self, config=config)

  def model(self, **fields: Any) -> vit.ViT:
    """The module; `fields` are those of `vit.ViT` (dense_cls, dtype, remat)."""
    return vit.ViT(config=self.config, **fields)
