"""The layers that a vision transformer is made of.

Parameters are float32. Matrix products run in the compute dtype; LayerNorm and the softmax of the
attention run in float32 whatever it is.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from masm_jax.backbones import attention, rotary

# The gradients written out below keep a layer's input and compute the rest again. A barrier around
# what is kept holds XLA from merging that with the forward pass, whose results it would then keep.

# Builds a dense layer from `features`, `dtype`, `name` and `use_bias`; a method passes its own.
DenseCls = Callable[..., nn.Module]


@jax.custom_vjp
def quick_gelu(x: jax.Array) -> jax.Array:
  """`x * sigmoid(1.702 x)`, the activation that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


def _quick_gelu_bwd(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
  x, g = jax.lax.optimization_barrier((x, g))
  gate = jax.nn.sigmoid(1.702 * x)
  return (g * gate * (1.0 + 1.702 * x * (1.0 - gate)),)


quick_gelu.defvjp(lambda x: (quick_gelu(x), x), _quick_gelu_bwd)


@jax.custom_vjp
def exact_gelu(x: jax.Array) -> jax.Array:
  """GELU through erf (arXiv 1606.08415), not the tanh approximation that is Flax's default.

  Of the input alone the backward pass makes all it needs. In float32 whatever the input is: in
  bfloat16 `1 + erf` would be a multiple of 1/256, and nothing below -3. (jax's own, by erfc, needs
  no float32 for that, but costs several times as much on CPUs.)
  """
  x32 = x.astype(jnp.float32)
  return (x32 * _normal_cdf(x32)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
  return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _exact_gelu_bwd(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
  x, g = jax.lax.optimization_barrier((x, g))
  x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
  density = jnp.exp(-0.5 * jnp.square(x32)) * (1.0 / math.sqrt(2.0 * math.pi))
  return ((g32 * (_normal_cdf(x32) + x32 * density)).astype(x.dtype),)


exact_gelu.defvjp(lambda x: (exact_gelu(x), x), _exact_gelu_bwd)


def tanh_gelu(x: jax.Array) -> jax.Array:
  """GELU by its tanh approximation, in float32: what SigLIP was trained with."""
  return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'quick_gelu': quick_gelu,
  'gelu': exact_gelu,
  'tanh_gelu': tanh_gelu,
}


class Dense(nn.Module):
  """`y = x @ kernel + bias` with a 2-D kernel: `[..., d_in] -> [..., features]`.

  Attributes:
    features: d_out.
    dtype: the dtype of the product and of the output; the parameters are float32.
    use_bias: whether there is a bias.
  """

  features: int
  dtype: DTypeLike = jnp.float32
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [..., d_in]` to `[..., features]`."""
    kernel = self.param(
      'kernel', nn.initializers.xavier_uniform(), (x.shape[-1], self.features), jnp.float32
    )
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if not self.use_bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))


class PatchEmbed(nn.Module):
  """A convolution whose stride is its kernel size, written as one matrix product per patch.

  Attributes:
    features: D, the width of the tokens.
    patch_size: p, in pixels.
    use_bias: False for CLIP.
    dtype: the dtype of the product and of the output.
  """

  features: int
  patch_size: int
  use_bias: bool
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps `images [B, H, W, 3]` to tokens `[B, H/p * W/p, D]` in row-major order."""
    size = self.patch_size
    batch, height, width, channels = images.shape
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (size, size, channels, self.features),
      jnp.float32,
    )
    rows, columns = height // size, width // size
    patches = images.astype(self.dtype).reshape(batch, rows, size, columns, size, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
    tokens = patches @ kernel.astype(self.dtype).reshape(-1, self.features)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      tokens = tokens + bias.astype(self.dtype)[None, None]
    return tokens


class LayerNorm(nn.Module):
  """LayerNorm over the last axis (arXiv 1607.06450), in float32 whatever the input is.

  Not Flax's: that one subtracts before it casts, and its one-pass variance loses digits.

  Attributes:
    eps: added to the variance.
  """

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [..., D]` to `[..., D]`, float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return layer_norm(x, scale, bias, self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
  """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis, float32.

  Its own gradient keeps the input, its mean and its spread, and needs two sums per row;
  differentiated as it stands, it keeps and reads several arrays of the input's size.

  Args:
    x: [..., D], of any float type.
    scale: float32 [D].
    bias: float32 [D].
    eps: added to the variance.

  Returns:
    float32 [..., D].
  """
  return _layer_norm_fwd(x, scale, bias, eps)[0]


def _normalise(x: jax.Array, mean: jax.Array, inverse_std: jax.Array) -> jax.Array:
  return (x.astype(jnp.float32) - mean) * inverse_std


def _layer_norm_fwd(
  x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  leading = tuple(range(x.ndim - 1))
  mean = jnp.mean(x.astype(jnp.float32), axis=-1, keepdims=True)
  # In two passes: the mean of squares minus the squared mean loses digits.
  variance = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axis=-1, keepdims=True)
  inverse_std = jax.lax.rsqrt(variance + eps)
  y = _normalise(x, mean, inverse_std) * jnp.expand_dims(scale, leading)
  return y + jnp.expand_dims(bias, leading), (x, scale, mean, inverse_std)


def _layer_norm_bwd(
  eps: float, residuals: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, ...]:
  del eps
  (x, scale, mean, inverse_std), g = jax.lax.optimization_barrier((residuals, g))
  leading = tuple(range(x.ndim - 1))
  normalised = _normalise(x, mean, inverse_std)
  scaled = g * jnp.expand_dims(scale, leading)
  along = jnp.mean(scaled * normalised, axis=-1, keepdims=True)
  dx = (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normalised * along) * inverse_std
  # Where the scale and the bias are frozen nothing reads their sums, and XLA drops them.
  return dx.astype(x.dtype), jnp.sum(g * normalised, axis=leading), jnp.sum(g, axis=leading)


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


class Attention(nn.Module):
  """Multi-head self-attention with four separate 2-D kernels: q, k, v, out.

  Attributes:
    num_heads: heads; they divide the width.
    cls_query: attend from the first token alone; the keys and values are still those of all tokens.
    dense_cls: builds the four layers.
    dtype: compute dtype.
    key_bias: whether k has a bias.
    rotary_pairs: the pairs that rotary positions turn, if there are any; the first token stays.
  """

  num_heads: int
  cls_query: bool
  dense_cls: DenseCls
  dtype: DTypeLike
  key_bias: bool = True
  rotary_pairs: rotary.Pairs | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, batch_size: int, angles: rotary.Angles | None = None
  ) -> jax.Array:
    """Maps tokens of B images, `x [B * T, D]`, to `[B * T, D]`; to `[B, D]` with `cls_query`.

    `angles` are those of `rotary.angles`, where there are rotary positions.
    """
    width = x.shape[-1]
    first = x.reshape(batch_size, -1, width)[:, 0]

    def project(tokens: jax.Array, name: str, **kwargs: bool) -> jax.Array:
      return self.dense_cls(features=width, dtype=self.dtype, name=name, **kwargs)(tokens)

    def heads(tokens: jax.Array) -> jax.Array:
      return tokens.reshape(batch_size, -1, self.num_heads, width // self.num_heads)

    query = project(first if self.cls_query else x, 'q')
    query = heads(query)
    # Without a word about the bias where there is one: a method's layers need not know of it.
    key = heads(project(x, 'k') if self.key_bias else project(x, 'k', use_bias=False))
    value = heads(project(x, 'v'))
    if self.rotary_pairs is not None:
      key = rotary.rotate(key, angles, self.rotary_pairs)
      if not self.cls_query:
        query = rotary.rotate(query, angles, self.rotary_pairs)
    y = attention.attend(query, key, value)
    return project(y.reshape(-1, width), 'out')


class Mlp(nn.Module):
  """Two dense layers with an activation between them; three with a gate.

  `fc2(act(fc1(x)))`, or `fc2(silu(gate(x)) * fc1(x))` (SwiGLU, arXiv 2002.05202).

  Attributes:
    hidden_dim: width of the hidden layer.
    activation: a key of `ACTIVATIONS`, or `swiglu`.
    dense_cls: builds the layers.
    dtype: compute dtype.
  """

  hidden_dim: int
  activation: str
  dense_cls: DenseCls
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [..., D]` to `[..., D]`."""
    y = self.dense_cls(features=self.hidden_dim, dtype=self.dtype, name='fc1')(x)
    if self.activation == 'swiglu':
      y *= nn.silu(self.dense_cls(features=self.hidden_dim, dtype=self.dtype, name='gate')(x))
    else:
      y = ACTIVATIONS[self.activation](y)
    return self.dense_cls(features=x.shape[-1], dtype=self.dtype, name='fc2')(y)
