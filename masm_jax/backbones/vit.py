"""One vision transformer, driven by a config: the trunk of every preset (arXiv 2010.11929)."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from masm_jax.backbones import layers, pooling, rotary
from masm_jax.errors import UserError

# Without limits a few bytes could ask for any size; published models have less than half of each.
_MAX_PATCHES = 4096  # 1024 px in patches of 16 px.
_MAX_DEPTH = 256
_MAX_PREFIX = 64  # Tokens beside the patches.
_MAX_ATTENTION = 2**29  # Heads times patches squared: what one block's attention of an image is.


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
    activation: of the MLPs: `gelu` is the exact one, `swiglu` a gate by SiLU.
    pre_norm: a LayerNorm between the embeddings and the first block (CLIP's `pre_layrnorm`).
    patch_bias: whether the patch embedding has a bias.
    norm_eps: epsilon of every LayerNorm.
    mean: per-channel mean to take from RGB values in [0, 1].
    std: per-channel standard deviation to divide by afterwards.
    class_token: whether a class token stands before the patches.
    num_registers: register tokens between class token and patches (arXiv 2309.16588).
    positions: what learned position embeddings are added to: the class token and the patches, the
      patches alone, or nothing.
    rotary_pairs: the pairs that rotary positions turn in every block (`rotary.angles`), if any.
    rotary_grid: the grid that the rotary positions of `neighbours` were trained with.
    key_bias: whether the keys have a bias.
    layer_scale: a trained factor for each channel of what a block adds (arXiv 2103.17239).
    pooling: where the feature comes from: the class token, or attention of a learned query to all
      tokens (`pooling.AttentionPool`).
    pool_heads: heads of that attention; `num_heads` by default.
  """

  image_size: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  activation: Literal['quick_gelu', 'gelu', 'tanh_gelu', 'swiglu']
  pre_norm: bool
  patch_bias: bool
  norm_eps: float
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  class_token: bool = True
  num_registers: int = 0
  positions: Literal['tokens', 'patches', 'none'] = 'tokens'
  rotary_pairs: rotary.Pairs | None = None
  rotary_grid: int = 0
  key_bias: bool = True
  layer_scale: bool = False
  pooling: Literal['class_token', 'attention'] = 'class_token'
  pool_heads: int = 0

  def __post_init__(self):
    if self.width % self.num_heads:
      raise ValueError(f'width {self.width} is not a multiple of num_heads {self.num_heads}')
    if self.image_size < self.patch_size or self.image_size % self.patch_size:
      below = max(self.image_size // self.patch_size, 1) * self.patch_size
      raise UserError(
        f'an image size of {self.image_size} px does not divide into patches of {self.patch_size} '
        f'px: take {below} or {below + self.patch_size}'
      )
    patches = self.grid**2
    if patches > _MAX_PATCHES or self.num_heads * patches**2 > _MAX_ATTENTION:
      raise UserError(
        f'an image of {self.image_size} px is {patches:,} patches, for {self.num_heads} heads: take'
        f' a smaller one, of at most {_MAX_PATCHES:,} (fewer for more than 32 heads)'
      )
    if self.depth > _MAX_DEPTH or self.prefix > _MAX_PREFIX:
      raise UserError(
        f'{self.depth} blocks and {self.prefix} tokens beside the patches: at most {_MAX_DEPTH} and'
        f' {_MAX_PREFIX} are built'
      )

  @property
  def grid(self) -> int:
    """Patches along one side of the image."""
    return self.image_size // self.patch_size

  @property
  def prefix(self) -> int:
    """Tokens before the patches."""
    return self.class_token + self.num_registers

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
  def __call__(self, x: jax.Array, angles: rotary.Angles | None = None) -> jax.Array:
    """Maps `x [B, T, D]` to `[B, T, D]`, or to `[B, 1, D]` with `cls_only`.

    `angles` are those of all tokens, where there are rotary positions.
    """
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
      key_bias=config.key_bias,
      rotary_pairs=config.rotary_pairs,
      name='attn',
    )(y, batch_size, angles)
    x = (first if self.cls_only else x) + self._scaled(y, 'ls_1')
    y = layers.LayerNorm(config.norm_eps, name='ln_2')(x).astype(self.dtype)
    y = layers.Mlp(
      hidden_dim=config.mlp_dim,
      activation=config.activation,
      dense_cls=self.dense_cls,
      dtype=self.dtype,
      name='mlp',
    )(y)
    return (x + self._scaled(y, 'ls_2')).reshape(batch_size, -1, width)

  def _scaled(self, y: jax.Array, name: str) -> jax.Array:
    """`y [R, D]` times LayerScale's factors, where there are any."""
    if not self.config.layer_scale:
      return y
    scale = self.param(name, nn.initializers.constant(1e-5), (y.shape[-1],), jnp.float32)
    return (y.astype(jnp.float32) * scale[None]).astype(y.dtype)


# Blocks of one shape are traced once: 24 of them with their gradients are much of the time before a
# first step. XLA compiles them as if each had been written out.
_TracedBlock = nn.jit(Block)
_TracedRematBlock = nn.jit(nn.remat(Block))
_written_out = contextvars.ContextVar('written_out', default=False)


@contextlib.contextmanager
def intercept_layers(interceptor: Callable[..., Any]) -> Iterator[None]:
  """`flax.linen.intercept_methods` that sees the layers of every block, by their own paths.

  Flax's alone would see those of a block that stands for all others of its shape, or none.

  Args:
    interceptor: as there.
  """
  token = _written_out.set(True)
  try:
    with nn.intercept_methods(interceptor):
      yield
  finally:
    _written_out.reset(token)


class HiddenStates(NamedTuple):
  """What a forward pass goes through.

  Attributes:
    embeddings: `[B, T, D]`, the input of the first block (after CLIP's `ln_pre`): class token,
      registers, patches.
    blocks: the output of each block, `[B, T, D]`; `[B, 1, D]` for a last block that computed the
      class token alone.
    features: `[B, D]`, float32: the class token after the last LayerNorm, or what attention pools
      from all tokens after it.
  """

  embeddings: jax.Array
  blocks: tuple[jax.Array, ...]
  features: jax.Array


class ViT(nn.Module):
  """Vision transformer: `[B, S, S, 3] -> [B, D]`.

  The parameters are `patch_embed/{kernel [p,p,3,D], bias}`, `cls_token [1,1,D]`,
  `pos_embed [1,1+N,D]` (or `[1,N,D]`), `registers [1,R,D]`, `ln_pre/{scale,bias}`, then for each
  block `block_00/{ln_1,ln_2}/{scale,bias}`, `block_00/attn/{q,k,v,out}/{kernel,bias}`,
  `block_00/mlp/{fc1,fc2}/{kernel,bias}`, with SwiGLU `block_00/mlp/gate`, with LayerScale
  `block_00/{ls_1,ls_2} [D]`, then `ln_post/{scale,bias}`, and with attention pooling those of
  `pooling.AttentionPool` below `pool/`: float32, kernels `[d_in, d_out]`.

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
    """The pooled feature.

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
    # The sum stays in float32: positions are small beside the patches, and it is done only once.
    x = self._with_prefix(x.astype(jnp.float32))
    if config.pre_norm:
      x = layers.LayerNorm(config.norm_eps, name='ln_pre')(x)
    embeddings = x = x.astype(self.dtype)

    inputs: tuple[rotary.Angles, ...] = ()
    if config.rotary_pairs is not None:
      inputs = (
        rotary.angles(
          config.rotary_pairs,
          grid=config.grid,
          prefix=config.prefix,
          head_dim=config.width // config.num_heads,
          reference_grid=config.rotary_grid,
        ),
      )
    reads_class_token = config.pooling == 'class_token'
    if self._traces_once():
      block_cls = _TracedRematBlock if self.remat else _TracedBlock
    else:
      block_cls = nn.remat(Block) if self.remat else Block
    blocks = []
    for i in range(config.depth):
      x = block_cls(
        config=config,
        cls_only=reads_class_token and last_block == 'cls' and i == config.depth - 1,
        dense_cls=self.dense_cls,
        dtype=self.dtype,
        name=f'block_{i:02d}',
      )(x, *inputs)
      blocks.append(x)
    norm = layers.LayerNorm(config.norm_eps, name='ln_post')
    if reads_class_token:
      features = norm(x[:, 0])
    else:
      features = pooling.AttentionPool(
        num_heads=config.pool_heads or config.num_heads,
        mlp_dim=config.mlp_dim,
        activation=config.activation,
        norm_eps=config.norm_eps,
        dtype=self.dtype,
        name='pool',
      )(norm(x))
    return HiddenStates(embeddings=embeddings, blocks=tuple(blocks), features=features)

  def _traces_once(self) -> bool:
    """Whether one block may stand for all of its shape.

    Not where they are made: `nn.jit` has random keys of its own, and a seed would give other
    weights. Nor with a builder of layers that Flax does not tell from another one: it knows a class
    by its fields alone, and a function by its address.
    """
    is_known = self.dense_cls is layers.Dense or (
      dataclasses.is_dataclass(self.dense_cls) and not isinstance(self.dense_cls, type)
    )
    return is_known and not self.is_initializing() and not _written_out.get()

  def _with_prefix(self, x: jax.Array) -> jax.Array:
    """Patches `[B, N, D]` with their positions, behind class token and registers; float32."""
    config = self.config

    def parameter(name: str, num_tokens: int) -> jax.Array:
      shape = (1, num_tokens, config.width)
      value = self.param(name, nn.initializers.normal(0.02), shape, jnp.float32)
      return jnp.broadcast_to(value, (x.shape[0], *shape[1:]))

    if config.positions == 'patches':
      x = x + parameter('pos_embed', config.grid**2)
    if config.class_token:
      x = jnp.concatenate([parameter('cls_token', 1), x], axis=1)
    if config.positions == 'tokens':
      x = x + parameter('pos_embed', config.class_token + config.grid**2)
    if config.num_registers:
      registers = parameter('registers', config.num_registers)
      before = int(config.class_token)
      x = jnp.concatenate([x[:, :before], registers, x[:, before:]], axis=1)
    return x
