"""The layers that a vision transformer is made of.

Parameters are float32. Matrix products run in the compute dtype; LayerNorm and the softmax of the
attention run in float32 whatever it is.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.typing import DTypeLike

# Builds a dense layer from `features`, `dtype` and `name`; a method passes its own.
DenseCls = Callable[..., nn.Module]


def quick_gelu(x: jax.Array) -> jax.Array:
  """`x * sigmoid(1.702 x)`, the activation that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
  """GELU through erf (arXiv 1606.08415), not the tanh approximation that is Flax's default."""
  return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'quick_gelu': quick_gelu,
  'gelu': exact_gelu,
}


class Dense(nn.Module):
  """`y = x @ kernel + bias` with a 2-D kernel: `[..., d_in] -> [..., features]`.

  Attributes:
    features: d_out.
    dtype: the dtype of the product and of the output; the parameters are float32.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [..., d_in]` to `[..., features]`."""
    kernel = self.param(
      'kernel', nn.initializers.xavier_uniform(), (x.shape[-1], self.features), jnp.float32
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
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
    leading = tuple(range(x.ndim - 1))
    centred = x.astype(jnp.float32)
    centred -= jnp.mean(centred, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + self.eps)
    return y * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)


@functools.cache
def has_fused_attention(query: tuple[int, ...], key: tuple[int, ...], dtype: str) -> bool:
  """Whether cuDNN computes attention of these shapes, gradient included: it is tried, once.

  jax's own default is the unfused form on every backend. What cuDNN takes depends on its version,
  the GPU, the lengths and the type; where it does not take it, XLA's form is as right and slower.

  Args:
    query: `(T, heads, head_dim)` of one image.
    key: the same of the keys and values.
    dtype: name of the compute dtype; cuDNN takes bfloat16 and float16.
  """
  if jax.default_backend() != 'gpu' or dtype not in ('bfloat16', 'float16'):
    return False
  operands = [jax.ShapeDtypeStruct((2, *shape), dtype) for shape in (query, key, key)]

  def total(*qkv: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(*qkv, implementation='cudnn').astype(jnp.float32).sum()

  try:
    jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*operands).compile()
  except Exception as error:  # Of many types, from the checks in jax to cuDNN's own.
    logging.warning('no fused attention for %s queries, %s keys: %s', query, key, error)
    return False
  return True


class Attention(nn.Module):
  """Multi-head self-attention with four separate 2-D kernels: q, k, v, out.

  Attributes:
    num_heads: heads; they divide the width.
    cls_query: attend from the first token alone; the keys and values are still those of all tokens.
    dense_cls: builds the four layers.
    dtype: compute dtype.
  """

  num_heads: int
  cls_query: bool
  dense_cls: DenseCls
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [B, T, D]` to `[B, T, D]`, or to `[B, 1, D]` with `cls_query`."""
    width = x.shape[-1]

    def heads(tokens: jax.Array, name: str) -> jax.Array:
      y = self.dense_cls(features=width, dtype=self.dtype, name=name)(tokens)
      return y.reshape(*y.shape[:2], self.num_heads, width // self.num_heads)

    query = heads(x[:, :1] if self.cls_query else x, 'q')
    key, value = heads(x, 'k'), heads(x, 'v')
    fused = has_fused_attention(query.shape[1:], key.shape[1:], jnp.dtype(self.dtype).name)
    # In bfloat16 it makes its float32 logits by a promotion that the strict mode forbids. (The mode
    # rejects its bfloat16 gradient even so: at lowering, out of reach from here.)
    with jax.numpy_dtype_promotion('standard'):
      y = jax.nn.dot_product_attention(
        query, key, value, implementation='cudnn' if fused else 'xla'
      )
    y = y.reshape(*y.shape[:2], width)
    return self.dense_cls(features=width, dtype=self.dtype, name='out')(y)


class Mlp(nn.Module):
  """Two dense layers with an activation between them.

  Attributes:
    hidden_dim: width of the hidden layer.
    activation: a key of `ACTIVATIONS`.
    dense_cls: builds the two layers.
    dtype: compute dtype.
  """

  hidden_dim: int
  activation: str
  dense_cls: DenseCls
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `x [B, T, D]` to `[B, T, D]`."""
    y = self.dense_cls(features=self.hidden_dim, dtype=self.dtype, name='fc1')(x)
    y = ACTIVATIONS[self.activation](y)
    return self.dense_cls(features=x.shape[-1], dtype=self.dtype, name='fc2')(y)
