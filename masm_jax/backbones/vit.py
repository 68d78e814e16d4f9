"""One vision transformer, driven by a config: the trunk of every preset (arXiv 2010.11929)."""

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from masm_jax.backbones import layers
from masm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """The shape of a vision transformer and the input that it was trained on.

  Attributes:
    image_size: side of the square input, in pixels; a multiple of `patch_size`.
    patch_size: side of a patch, in pixels.
    width: D, the width of the tokens.
    depth: number of blocks.
    num_heads: attention heads; they divide `width`.
    mlp_dim: hidden width of the MLPs.
    activation: `gelu` is the exact one.
    pre_norm: a LayerNorm between the embeddings and the first block (CLIP's `pre_layrnorm`).
    patch_bias: whether the patch embedding has a bias.
    norm_eps: epsilon of every LayerNorm.
    mean: per-channel mean to take from RGB values in [0, 1].
    std: per-channel standard deviation to divide by afterwards.
  """

  image_size: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  activation: Literal['quick_gelu', 'gelu']
  pre_norm: bool
  patch_bias: bool
  norm_eps: float
  mean: tuple[float, float, float]
  std: tuple[float, float, float]

  def __post_init__(self):
    if self.width % self.num_heads:
      raise ValueError(f'width {self.width} is not a multiple of num_heads {self.num_heads}')
    if self.image_size < self.patch_size or self.image_size % self.patch_size:
      below = max(self.image_size // self.patch_size, 1) * self.patch_size
      raise UserError(
        f'an image size of {self.image_size} px does not divide into patches of {self.patch_size} '
        f'px: take {below} or {below + self.patch_size}'
      )

  @property
  def grid(self) -> int:
    """Patches along one side of the image."""
    return self.image_size // self.patch_size

  def build(
    self,
    *,
    dense_cls: layers.DenseCls = layers.Dense,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
  ) -> 'ViT':
    """See `backbone.Architecture`."""
    return ViT(config=self, dense_cls=dense_cls, dtype=dtype, remat=remat)


class Block(nn.Module):
  """A pre-norm transformer block.

  Attributes:
    config: shape of the transformer.
    cls_only: compute the first token alone. Its keys and values still come from every token, so
      the result equals the whole block's, without the work for tokens that nobody reads.
    dense_cls: builds the six dense layers.
    dtype: compute dtype, also of the residual stream.
  """

  config: ViTConfig
  cls_only: bool
  dense_cls: layers.DenseCls
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [B, T, D]` to `[B, T, D]`, or to `[B, 1, D]` with `cls_only`."""
    config = self.config
    batch_size, _, width = x.shape
    # Tokens as rows of one matrix: elementwise work then has the shape of the products around it.
    # With images apart from tokens, XLA's CPU backend does it anew for each product that reads it,
    # a whole chain of residual gradients over several blocks among it.
    first = x[:, 0]
    x = x.reshape(-1, width)
    y = layers.LayerNorm(config.norm_eps, name='ln_1')(x).astype(self.dtype)
    y = layers.Attention(
      num_heads=config.num_heads,
      cls_query=self.cls_only,
      dense_cls=self.dense_cls,
      dtype=self.dtype,
      name='attn',
    )(y, batch_size)
    x = (first if self.cls_only else x) + y
    y = layers.LayerNorm(config.norm_eps, name='ln_2')(x).astype(self.dtype)
    y = layers.Mlp(
      hidden_dim=config.mlp_dim,
      activation=config.activation,
      dense_cls=self.dense_cls,
      dtype=self.dtype,
      name='mlp',
    )(y)
    return (x + y).reshape(batch_size, -1, width)


class HiddenStates(NamedTuple):
  """What a forward pass goes through.

  Attributes:
    embeddings: `[B, 1+N, D]`, the input of the first block (after CLIP's `ln_pre`).
    blocks: the output of each block, `[B, 1+N, D]`; `[B, 1, D]` for a last block that computed the
      class token alone.
    features: `[B, D]`, float32: the class token after the last LayerNorm.
  """

  embeddings: jax.Array
  blocks: tuple[jax.Array, ...]
  features: jax.Array


class ViT(nn.Module):
  """Vision transformer with a class token: `[B, S, S, 3] -> [B, D]`.

  The parameters are `patch_embed/{kernel [p,p,3,D], bias}`, `cls_token [1,1,D]`,
  `pos_embed [1,1+N,D]`, `ln_pre/{scale,bias}`, then for each block `block_00/{ln_1,ln_2}/{scale,
  bias}`, `block_00/attn/{q,k,v,out}/{kernel,bias}`, `block_00/mlp/{fc1,fc2}/{kernel,bias}`, and
  `ln_post/{scale,bias}`: float32, kernels `[d_in, d_out]`.

  Attributes:
    config: shape of the transformer.
    dense_cls: builds every dense layer of the blocks, called with `features`, `dtype` and `name`.
    dtype: compute dtype.
    remat: compute the inside of each block again in the backward pass, rather than store it.
  """

  config: ViTConfig
  dense_cls: layers.DenseCls = layers.Dense
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def __call__(self, images: jax.Array) -> jax.Array:
    """Features of the class token.

    Args:
      images: `[B, S, S, 3]`, RGB, normalised with the config's mean and std; `S = image_size`.

    Returns:
      `[B, D]`, float32.

    Raises:
      UserError: the images are not of the size that the position embeddings are for.
    """
    return self._run(images, last_block='cls').features

  def hidden_states(self, images: jax.Array) -> HiddenStates:
    """As `__call__`, with every token of every block: `apply(..., method='hidden_states')`."""
    return self._run(images, last_block='all')

  @nn.compact
  def _run(self, images: jax.Array, last_block: Literal['cls', 'all']) -> HiddenStates:
    config = self.config
    if images.ndim != 4 or images.shape[1:] != (config.image_size, config.image_size, 3):
      raise UserError(
        f'the backbone takes images [B, {config.image_size}, {config.image_size}, 3], not '
        f'{list(images.shape)}: set the image size of data and backbone to the same value'
      )
    x = layers.PatchEmbed(
      features=config.width,
      patch_size=config.patch_size,
      use_bias=config.patch_bias,
      dtype=self.dtype,
      name='patch_embed',
    )(images)
    normal = nn.initializers.normal(0.02)
    cls_token = self.param('cls_token', normal, (1, 1, config.width), jnp.float32)
    positions = self.param('pos_embed', normal, (1, 1 + config.grid**2, config.width), jnp.float32)
    # The sum stays in float32: positions are small beside the patches, and it is done only once.
    cls_tokens = jnp.broadcast_to(cls_token, (x.shape[0], 1, config.width))
    x = jnp.concatenate([cls_tokens, x.astype(jnp.float32)], axis=1)
    x = x + jnp.broadcast_to(positions, x.shape)
    if config.pre_norm:
      x = layers.LayerNorm(config.norm_eps, name='ln_pre')(x)
    embeddings = x = x.astype(self.dtype)

    block_cls = nn.remat(Block) if self.remat else Block
    blocks = []
    for i in range(config.depth):
      x = block_cls(
        config=config,
        cls_only=last_block == 'cls' and i == config.depth - 1,
        dense_cls=self.dense_cls,
        dtype=self.dtype,
        name=f'block_{i:02d}',
      )(x)
      blocks.append(x)
    features = layers.LayerNorm(config.norm_eps, name='ln_post')(x[:, 0])
    return HiddenStates(embeddings=embeddings, blocks=tuple(blocks), features=features)
