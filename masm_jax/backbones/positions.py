"""Position embeddings on a grid of another size, as the authors' code of each family does it."""

import math

import numpy as np

from masm_jax.backbones.backbone import Resample, Shape


def resample_positions(positions: np.ndarray, grid: int) -> np.ndarray:
  """Resamples position embeddings to a grid of another size, the class token's left as it is.

  Bicubic with a = -0.75 (Keys 1981), half-pixel centres, edges repeated, no antialiasing: as
  PyTorch's `interpolate(mode='bicubic', align_corners=False)` and Hugging Face's models do it.

  Args:
    positions: `[1, 1 + M, D]`, M a square number.
    grid: side of the new grid.

  Returns:
    `[1, 1 + grid^2, D]`, float32.
  """
  side = math.isqrt(positions.shape[1] - 1)
  weights = _bicubic(side, grid)
  table = positions[0, 1:].reshape(side, side, -1).astype(np.float64)
  table = np.einsum('yh,xw,hwd->yxd', weights, weights, table, optimize=True)
  table = table.reshape(1, grid * grid, -1).astype(np.float32)
  return np.concatenate([positions[:, :1].astype(np.float32), table], axis=1)


def _bicubic(size_in: int, size_out: int) -> np.ndarray:
  """`[size_out, size_in]`: the matrix that resamples one axis."""
  a = -0.75
  centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
  first = np.floor(centres).astype(int)
  weights = np.zeros((size_out, size_in))
  for tap in range(-1, 3):
    t = np.abs(centres - (first + tap))
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    column = np.clip(first + tap, 0, size_in - 1)
    np.add.at(weights, (np.arange(size_out), column), np.where(t <= 1, near, far))
  return weights


def is_resampled(shape: Shape, expected: Shape) -> bool:
  """Whether position embeddings with a class token on a square grid may have this `shape`."""
  if len(shape) != len(expected) or shape[-1] != expected[-1] or shape[:-2] != expected[:-2]:
    return False
  patches = shape[-2] - 1
  return patches >= 1 and math.isqrt(patches) ** 2 == patches


def _to_shape(positions: np.ndarray, shape: Shape) -> np.ndarray:
  return resample_positions(positions, math.isqrt(shape[1] - 1))


# `[1, 1 + N, D]` with the class token's first: timm's ViTs, CLIP.
WITH_CLASS_TOKEN = Resample(fits=is_resampled, apply=_to_shape)
