"""Attention pooling: one learned query reads the feature from all tokens (arXiv 1810.00825)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from masm_jax.backbones import attention, layers


class AttentionPool(nn.Module):
  """`y + mlp(ln_mlp(y))` with `y` the attention of a learned query to the tokens.

  The parameters are `latent [1, 1, D]`, `attn/{q,k,v,out}/{kernel,bias}`, `ln_mlp/{scale,bias}` and
  `mlp/{fc1,fc2}/{kernel,bias}`. No method decomposes them: they belong to no block.

  Attributes:
    num_heads: heads of the attention.
    mlp_dim: hidden width of the MLP.
    activation: of the MLP, a key of `layers.ACTIVATIONS`.
    norm_eps: epsilon of the LayerNorm.
    dtype: compute dtype.
  """

  num_heads: int
  mlp_dim: int
  activation: str
  norm_eps: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `x [B, T, D]` to the feature `[B, D]`, float32."""
    batch_size, _, width = x.shape
    latent = self.param('latent', nn.initializers.normal(0.02), (1, 1, width), jnp.float32)
    y = _LatentAttention(self.num_heads, self.dtype, name='attn')(latent, x.astype(self.dtype))
    y = y.reshape(batch_size, width).astype(jnp.float32)
    z = layers.LayerNorm(self.norm_eps, name='ln_mlp')(y).astype(self.dtype)
    z = layers.Mlp(
      hidden_dim=self.mlp_dim,
      activation=self.activation,
      dense_cls=layers.Dense,
      dtype=self.dtype,
      name='mlp',
    )(z)
    return y + z.astype(jnp.float32)


class _LatentAttention(nn.Module):
  num_heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, latent: jax.Array, x: jax.Array) -> jax.Array:
    """The attention of `latent [1, 1, D]` to `x [B, T, D]`: `[B, 1, D]`."""
    batch_size, _, width = x.shape

    def project(tokens: jax.Array, name: str) -> jax.Array:
      return layers.Dense(features=width, dtype=self.dtype, name=name)(tokens)

    def heads(tokens: jax.Array) -> jax.Array:
      return tokens.reshape(
        tokens.shape[0], tokens.shape[1], self.num_heads, width // self.num_heads
      )

    query = heads(project(latent, 'q'))
    query = jnp.broadcast_to(query, (batch_size, *query.shape[1:]))
    y = attention.attend(query, heads(project(x, 'k')), heads(project(x, 'v')))
    return project(y.reshape(batch_size, 1, width), 'out')
