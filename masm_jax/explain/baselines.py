"""The maps that an explanation has to beat: chance, the centre, and what others show.

Each is float64 [B, G, G] over the patches of B pictures; only the order within a picture counts,
and higher speaks for fake.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from masm_jax import backbones
from masm_jax import detector as detector_lib
from masm_jax.explain.gates import log_odds

_CENTRE_SIGMA = 0.25  # Of the picture's side.
_WINDOWS = 7  # Occluded places along a side.


class Baselines:
  """Baseline maps of one detector.

  Args:
    config: of the detector; computes in float32.
    params: plain parameters.
    grid: G, patches along one side.
  """

  def __init__(self, config: detector_lib.DetectorConfig, params: Any, grid: int):
    self.config = dataclasses.replace(config, dtype=jnp.float32, remat=False)
    self.grid = grid
    self._model = detector_lib.Detector(self.config)
    self._params = jax.device_put(params)
    self._logits = jax.jit(lambda p, x: log_odds(self._model.apply({'params': p}, x).logits))
    self._cam = jax.jit(self._cam_of)
    self._attention = jax.jit(self._attention_of)

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Log-odds of fake, float64 [B], of images uint8 [B, S, S, 3]."""
    return np.asarray(self._logits(self._params, images), np.float64)

  def maps(self, images: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Every baseline that this backbone has, by name.

    Args:
      images: uint8 [B, S, S, 3].
      seed: of the random maps.
    """
    found = {
      'random': np.random.default_rng(seed).random((len(images), self.grid, self.grid)),
      'centre prior': np.broadcast_to(centre_prior(self.grid), (len(images), self.grid, self.grid)),
      'Grad-CAM': self.grad_cam(images),
      'occlusion': self.occlusion(images),
    }
    rollout = self.rollout(images)
    return found if rollout is None else found | {'attention rollout': rollout}

  def grad_cam(self, images: np.ndarray) -> np.ndarray:
    """Grad-CAM (arXiv 1610.02391) on the tokens that enter the last block."""
    return np.asarray(self._cam(self._params, images), np.float64)

  def rollout(self, images: np.ndarray) -> np.ndarray | None:
    """Attention rollout (arXiv 2005.00928), heads averaged: from the first token to the patches.

    None for backbones whose attention has no such queries and keys.
    """
    if getattr(self.config.backbone, 'num_heads', 0) == 0:
      return None
    weights = [np.asarray(w, np.float64) for w in self._attention(self._params, images)]
    if not weights:
      return None
    num_tokens = weights[0].shape[-1]
    flow = np.eye(num_tokens)[None]
    for attention in weights:
      if attention.shape[1] == num_tokens:
        flow = (attention + np.eye(num_tokens)) / 2 @ flow
      else:  # The last block computes the first token alone.
        flow = (attention + np.eye(num_tokens)[:1]) / 2 @ flow
    patches = flow[:, 0, num_tokens - self.grid**2 :]
    return patches.reshape(-1, self.grid, self.grid)

  def occlusion(self, images: np.ndarray) -> np.ndarray:
    """How much the logit falls when a window is painted in the backbone's mean colour.

    [kin: Zeiler and Fergus 2014] Windows lie side by side, about `_WINDOWS` along a side.
    """
    side = images.shape[1]
    patch = side // self.grid
    step = max(round(self.grid / _WINDOWS), 1)
    colour = np.round(np.asarray(self.config.backbone.mean) * 255).astype(np.uint8)
    before = self.logits(images)
    found = np.zeros((len(images), self.grid, self.grid))
    for row in range(0, self.grid, step):
      for column in range(0, self.grid, step):
        covered = images.copy()
        covered[:, row * patch : (row + step) * patch, column * patch : (column + step) * patch] = (
          colour
        )
        fall = before - self.logits(covered)
        found[:, row : row + step, column : column + step] = fall[:, None, None]
    return found

  def _cam_of(self, params: Any, images: jax.Array) -> jax.Array:
    last = ('backbone', f'block_{self.config.backbone.depth - 1:02d}')

    def logit(moved: jax.Array | None, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      tokens: list[jax.Array] = []

      def enter(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.module.path != last or context.method_name != '__call__':
          return next_fun(*args, **kwargs)
        x, *rest = args
        tokens.append(x)
        return next_fun(x if moved is None else x + moved, *rest, **kwargs)

      with backbones.intercept_layers(enter):
        out = self._model.apply({'params': params}, image[None])
      return log_odds(out.logits)[0], tokens[0]

    _, shape = jax.eval_shape(functools.partial(logit, None), images[0])
    zero = jnp.zeros(shape.shape, shape.dtype)

    def cam(image: jax.Array) -> jax.Array:
      slopes, tokens = jax.grad(logit, has_aux=True)(zero, image)
      patches = slice(tokens.shape[1] - self.grid**2, None)
      weights = slopes[0, patches].mean(axis=0)
      return jnp.maximum(tokens[0, patches] @ weights, 0.0).reshape(self.grid, self.grid)

    return jax.vmap(cam)(images)

  def _attention_of(self, params: Any, images: jax.Array) -> list[jax.Array]:
    """Attention of every block, averaged over heads: [B, Q, T] each."""
    batch, heads = len(images), self.config.backbone.num_heads
    found: dict[tuple[str, ...], dict[str, jax.Array]] = {}

    def record(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
      y = next_fun(*args, **kwargs)
      *where, name = context.module.path or ('',)
      if context.method_name == '__call__' and where[-1:] == ['attn'] and name in ('q', 'k'):
        found.setdefault(tuple(where), {})[name] = y
      return y

    with backbones.intercept_layers(record):
      self._model.apply({'params': params}, images)
    weights = []
    for _, layer in sorted(found.items()):
      if set(layer) != {'q', 'k'}:
        continue
      q, k = (
        x.reshape(batch, -1, heads, x.shape[-1] // heads).astype(jnp.float32)
        for x in (layer['q'], layer['k'])
      )
      scale = 1.0 / np.sqrt(q.shape[-1]).astype(np.float32)
      scores = jnp.einsum('bqhd,bkhd->bhqk', q, k) * scale
      weights.append(jax.nn.softmax(scores, axis=-1).mean(axis=1))
    return weights


def centre_prior(grid: int) -> np.ndarray:
  """A bump in the middle, where faces are: float64 [G, G], highest 1."""
  places = (np.arange(grid) + 0.5) / grid - 0.5
  line = np.exp(-0.5 * np.square(places / _CENTRE_SIGMA))
  return line[:, None] * line[None]
