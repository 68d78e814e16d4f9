"""Position embeddings on a grid of another size, as the authors' code of each family does it."""

import math

import numpy as np

from masm_jax.backbones.backbone import Resample, Shape


def resample_positions(
  positions: np.ndarray, grid: int, *, prefix: int = 1, antialias: bool = False
) -> np.ndarray:
  """Resamples position embeddings to a grid of another size, those before it left as they are.

  Bicubic with half-pixel centres, as PyTorch's `interpolate(mode='bicubic', align_corners=False)`
  does it: without antialiasing a = -0.75 (Keys 1981) and edges repeated, with it a = -0.5, a kernel
  as wide as the larger of both pixels, and weights off the edge left out.

  Args:
    positions: `[1, prefix + M, D]`, M a square number.
    grid: side of the new grid.
    prefix: embeddings before those of the grid: 1 for a class token's.
    antialias: see above.

  Returns:
    `[1, prefix + grid^2, D]`, float32.
  """
  side = math.isqrt(positions.shape[1] - prefix)
  weights = _bicubic_antialiased(side, grid) if antialias else _bicubic(side, grid)
  table = positions[0, prefix:].reshape(side, side, -1).astype(np.float64)
  table = np.einsum('yh,xw,hwd->yxd', weights, weights, table, optimize=True)
  table = table.reshape(1, grid * grid, -1).astype(np.float32)
  return np.concatenate([positions[:, :prefix].astype(np.float32), table], axis=1)


def _bicubic(size_in: int, size_out: int) -> np.ndarray:
  """`[size_out, size_in]`: the matrix that resamples one axis."""
  centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
  first = np.floor(centres).astype(int)
  weights = np.zeros((size_out, size_in))
  for tap in range(-1, 3):
    column = np.clip(first + tap, 0, size_in - 1)
    np.add.at(weights, (np.arange(size_out), column), _cubic(centres - (first + tap), -0.75))
  return weights


def _bicubic_antialiased(size_in: int, size_out: int) -> np.ndarray:
  """The same, with a kernel that covers all of the pixels that one new pixel does."""
  if size_in == size_out:
    return np.eye(size_in)
  scale = max(size_in / size_out, 1.0)
  centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
  weights = _cubic((centres[:, None] - np.arange(size_in)) / scale, -0.5)
  return weights / weights.sum(axis=1, keepdims=True)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
  """Keys' kernel, 0 from a distance of 2."""
  t = np.abs(t)
  near = ((a + 2) * t - (a + 3)) * t * t + 1
  far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
  return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _resample(*, prefix: int, antialias: bool) -> Resample:
  def fits(shape: Shape, expected: Shape) -> bool:
    if len(shape) != len(expected) or shape[-1] != expected[-1] or shape[:-2] != expected[:-2]:
      return False
    patches = shape[-2] - prefix
    return patches >= 1 and math.isqrt(patches) ** 2 == patches

  def apply(positions: np.ndarray, shape: Shape) -> np.ndarray:
    grid = math.isqrt(shape[1] - prefix)
    return resample_positions(positions, grid, prefix=prefix, antialias=antialias)

  return Resample(fits, apply)


# `[1, 1 + N, D]` with the class token's first: timm's ViTs, CLIP, DINOv2.
WITH_CLASS_TOKEN = _resample(prefix=1, antialias=False)
# The same, for DINOv2 with registers and Perception Encoder.
WITH_CLASS_TOKEN_ANTIALIASED = _resample(prefix=1, antialias=True)
# `[1, N, D]`: SigLIP.
PATCHES_ALONE = _resample(prefix=0, antialias=False)
