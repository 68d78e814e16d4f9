"""Rotary position embeddings on a grid of patches (RoPE, arXiv 2104.09864), in float32.

Each pair of channels of a query or key is turned by an angle that grows with the patch's row or
column. Tokens before the patches (class token, registers) are not turned.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Which channels make a pair: i and i + d/2, or 2i and 2i + 1.
Pairs = Literal['halves', 'neighbours']


class Angles(NamedTuple):
  """Cosine and sine for every token and channel, float32 `[T, d]`."""

  cos: jax.Array
  sin: jax.Array


@functools.cache
def _dinov3(grid: int, head_dim: int) -> np.ndarray:
  frequencies = 100.0 ** (-4.0 * np.arange(head_dim // 4) / head_dim)
  centres = 2.0 * (np.arange(grid) + 0.5) / grid - 1.0
  rows, columns = np.meshgrid(centres, centres, indexing='ij')
  places = np.stack([rows.ravel(), columns.ravel()], axis=1)
  angles = 2.0 * np.pi * places[:, :, None] * frequencies
  return np.tile(angles.reshape(grid * grid, -1), 2)


@functools.cache
def _perception(grid: int, head_dim: int, reference_grid: int) -> np.ndarray:
  frequencies = 10000.0 ** (-4.0 * np.arange(head_dim // 4) / head_dim)
  places = (np.arange(grid) + 1.0) / grid * reference_grid
  rows, columns = np.meshgrid(places, places, indexing='ij')
  places = np.stack([columns.ravel(), rows.ravel()], axis=1)
  angles = places[:, :, None] * frequencies
  return np.repeat(angles.reshape(grid * grid, -1), 2, axis=1)


def angles(pairs: Pairs, *, grid: int, prefix: int, head_dim: int, reference_grid: int) -> Angles:
  """The angles of all tokens of an image.

  `halves` is DINOv3's (arXiv 2508.10104): centres of patches from -1 to 1, rows first, wavelengths
  from 1 to 100. `neighbours` is what Perception Encoder has (arXiv 2504.13181): columns first,
  counted from 1 on the grid that it was trained with, wavelengths to 10,000.

  Args:
    pairs: which channels make a pair.
    grid: patches along one side.
    prefix: tokens before the patches.
    head_dim: d, a multiple of 4.
    reference_grid: the grid of `neighbours` in training.

  Returns:
    Cosine and sine, float32 `[prefix + grid^2, d]`.
  """
  if pairs == 'halves':
    table = _dinov3(grid, head_dim)
  else:
    table = _perception(grid, head_dim, reference_grid)
  table = np.concatenate([np.zeros((prefix, head_dim)), table])
  return Angles(
    jnp.asarray(np.cos(table).astype(np.float32)), jnp.asarray(np.sin(table).astype(np.float32))
  )


def rotate(x: jax.Array, angles: Angles, pairs: Pairs) -> jax.Array:
  """Turns queries or keys `x [B, T, N, d]` by the angles of their tokens; float32 within."""
  x32 = x.astype(jnp.float32)
  if pairs == 'halves':
    first, second = jnp.split(x32, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
  else:
    turned = jnp.stack([-x32[..., 1::2], x32[..., ::2]], axis=-1).reshape(x32.shape)
  cos, sin = (table[None, :, None] for table in angles)
  return (x32 * cos + turned * sin).astype(x.dtype)
