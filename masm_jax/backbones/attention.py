"""Scaled dot-product attention: cuDNN's fused kernels where they run, our own form elsewhere.

Both compute `softmax(Q K^T / sqrt(d)) V` (arXiv 1706.03762) with the softmax in float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
from absl import logging
from jax import lax


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Attention of every query to all keys of its image, head by head.

  Args:
    query: [B, T, N, d] for N heads of width d.
    key: [B, S, N, d].
    value: [B, S, N, d].

  Returns:
    [B, T, N, d], of the query's dtype.
  """
  if has_fused_attention(query.shape[1:], key.shape[1:], query.dtype.name):
    return jax.nn.dot_product_attention(query, key, value, implementation='cudnn')
  return _attend(query, key, value)


@functools.cache
def has_fused_attention(query: tuple[int, ...], key: tuple[int, ...], dtype: str) -> bool:
  """Whether cuDNN computes attention of these shapes, gradient included: it is tried, once.

  What cuDNN takes depends on its version, the GPU, the lengths and the type; where it does not take
  it, our form is as right and slower.

  Args:
    query: `(T, N, d)` of one image.
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


@jax.custom_vjp
def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """`attend` with its own gradient, because the T x S weights are what costs.

  They are written and read once, where automatic differentiation does it several times. As in
  FlashAttention (arXiv 2205.14135), rows are divided by their sum after the product with the
  values, and the softmax's gradient takes its sum over keys from the output, `sum_s P dP = sum_d O
  dO`.
  """
  return _attend_fwd(query, key, value)[0]


def _heads_first(x: jax.Array) -> jax.Array:
  """[B, T, N, d] -> [B, N, T, d], and back."""
  return x.transpose(0, 2, 1, 3)


def _product(x: jax.Array, y: jax.Array, over: tuple[int, int]) -> jax.Array:
  """Of [B, N, ., .] each, batched over images and heads, contracted over one axis each; float32."""
  dims = (((over[0],), (over[1],)), ((0, 1), (0, 1)))
  return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _attend_fwd(*operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  query, key, value = map(_heads_first, operands)
  logits = _product(query, key, (3, 3)) / math.sqrt(query.shape[-1])
  # In (0, 1], and 1 somewhere in each row.
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights.astype(value.dtype)
  output = _heads_first(_product(weights, value, (3, 2)) / total).astype(query.dtype)
  # Kept in the shape that the next layer keeps it in.
  rows = output.reshape(-1, output.shape[2] * output.shape[3])
  return output, (*operands, weights, total, rows)


def _attend_bwd(residuals: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
  # Transposes, too, are made again: otherwise XLA would keep the forward pass's beside these.
  residuals, g = lax.optimization_barrier((residuals, g))
  *operands, weights, total, rows = residuals
  query, key, value = map(_heads_first, operands)
  dtype = query.dtype
  output = rows.reshape(g.shape).astype(jnp.float32)
  mean = _heads_first(jnp.sum(g.astype(jnp.float32) * output, axis=-1, keepdims=True))
  g = _heads_first(g)
  d_value = _product(weights, (g.astype(jnp.float32) / total).astype(dtype), (2, 2))
  d_weights = _product(g, value, (3, 3)) - mean
  scale = 1.0 / (total * math.sqrt(query.shape[-1]))
  d_logits = (weights.astype(jnp.float32) * d_weights * scale).astype(dtype)
  d_query = _product(d_logits, key, (3, 2))
  d_key = _product(d_logits, query, (2, 2))
  return tuple(_heads_first(d).astype(dtype) for d in (d_query, d_key, d_value))


_attend.defvjp(_attend_fwd, _attend_bwd)
