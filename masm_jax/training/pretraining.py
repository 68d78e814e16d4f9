"""Trains a small backbone to tell identity, pose and light of synthetic portraits.

The demo needs a backbone that knows faces and no forgeries, small enough to come with the package.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from masm_jax import backbones, files, places, telemetry, tree
from masm_jax.data.synthetic import portrait_sample
from masm_jax.errors import UserError
from masm_jax.parallel import parents

TARGETS = ('yaw', 'pitch', 'roll', 'light_azimuth', 'light_elevation')
_CHUNK = 250
_AWAIT_STEPS = 5  # See `train`.


class SemanticModel(nn.Module):
  """A backbone with one linear head for who it is, and one for pose and light.

  Attributes:
    config: the backbone.
    num_identities: classes of the first head.
  """

  config: backbones.ViTConfig
  num_identities: int

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 [B, H, W, 3] -> identity logits [B, N], standardised pose and light [B, 5]."""
    mean = jnp.asarray(self.config.mean, jnp.float32)[None, None, None]
    std = jnp.asarray(self.config.std, jnp.float32)[None, None, None]
    pixels = (images.astype(jnp.float32) / 255.0 - mean) / std
    features = backbones.ViT(self.config, name='backbone')(pixels)
    return (
      nn.Dense(self.num_identities, name='identity')(features),
      nn.Dense(len(TARGETS), name='pose_and_light')(features),
    )


def draw_portraits(
  config: ml_collections.ConfigDict, size_px: int, start: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Portraits number `start` .. `start + count - 1` of the config's stream.

  Returns:
    Images uint8 [N, H, W, 3], identities int32 [N], `TARGETS` float32 [N, 5] in degrees.
  """
  chunks = [
    (config.seed, size_px, config.num_identities, first, min(first + _CHUNK, start + count))
    for first in range(start, start + count, _CHUNK)
  ]
  context = multiprocessing.get_context('spawn')
  parts = []
  with (
    concurrent.futures.ProcessPoolExecutor(
      config.num_processes, context, initializer=parents.end_with_parent
    ) as pool,
    telemetry.Progress(len(chunks), label='draw', images_per_step=_CHUNK) as progress,
  ):
    with parents.deaf_to_ctrl_c():
      found = pool.map(_draw_chunk, chunks)
    for done, part in enumerate(found, start=1):
      parts.append(part)
      progress.update(done)
  images, identities, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
  return images, identities, targets


def _draw_chunk(chunk: tuple[int, int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  seed, size_px, num_identities, first, end = chunk
  samples = [portrait_sample(seed, index, size_px, num_identities) for index in range(first, end)]
  return (
    np.stack([image for image, _ in samples]),
    np.array([values['identity'] for _, values in samples], np.int32),
    np.array([[values[name] for name in TARGETS] for _, values in samples], np.float32),
  )


def _shifted(images: np.ndarray, rng: np.random.Generator, shift_px: int) -> np.ndarray:
  """Moves each image by up to `shift_px` pixels, edges repeated."""
  height, width = images.shape[1:3]
  padded = np.pad(images, ((0, 0), (shift_px, shift_px), (shift_px, shift_px), (0, 0)), mode='edge')
  offsets = rng.integers(0, 2 * shift_px + 1, size=(len(images), 2))
  return np.stack(
    [image[y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)]
  )


def _check(config: ml_collections.ConfigDict) -> None:
  for name in (*(name for name in config if name.startswith('num_')), 'batch_size'):
    if config[name] < 1:
      raise UserError(f'--config.{name}={config[name]}: give 1 or more')
  for name in ('learning_rate', 'weight_decay', 'warmup_steps', 'shift_px'):
    if not 0 <= config[name] < float('inf'):
      raise UserError(f'--config.{name}={config[name]}: give 0 or more')
  if config.warmup_steps >= config.num_steps:
    raise UserError(
      f'--config.num_steps={config.num_steps}: give more than the {config.warmup_steps} steps of '
      'config.warmup_steps'
    )


def pretrain(config: ml_collections.ConfigDict, output: pathlib.Path) -> dict[str, float]:
  """Trains, writes the weights to `output`, and returns what they can tell of new portraits.

  Raises:
    UserError: `output` cannot be written, or a field makes no training: before it begins.
  """
  places.refuse_unwritable(output)
  _check(config)
  backbone = backbones.get_preset(config.backbone)
  size_px = backbone.config.image_size
  images, identities, targets = draw_portraits(config, size_px, 0, config.num_images)
  test = draw_portraits(config, size_px, config.num_images, config.num_test_images)
  center, spread = targets.mean(axis=0), targets.std(axis=0)
  targets = (targets - center) / spread

  model = SemanticModel(backbone.config, config.num_identities)
  params = jax.jit(model.init)(jax.random.key(config.seed), images[:1])['params']
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, config.learning_rate, config.warmup_steps, config.num_steps
  )
  decayed = functools.partial(tree.map_with_path, lambda path, _: path.endswith('kernel'))
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed),
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step_fn(params: Any, opt_state: Any, images: Any, identities: Any, targets: Any) -> Any:
    def loss_fn(params: Any) -> jax.Array:
      logits, predicted = model.apply({'params': params}, images)
      who = optax.softmax_cross_entropy_with_integer_labels(logits, identities).mean()
      return who + jnp.mean(jnp.square(predicted - targets))

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  opt_state = optimizer.init(params)
  rng = np.random.default_rng(config.seed)
  with telemetry.Progress(
    config.num_steps, label='pretrain', images_per_step=config.batch_size
  ) as progress:
    for step in range(1, config.num_steps + 1):
      rows = rng.integers(len(images), size=config.batch_size)
      batch = _shifted(images[rows], rng, config.shift_px)
      params, opt_state, loss = step_fn(params, opt_state, batch, identities[rows], targets[rows])
      progress.update(step, loss=float(loss) if step % _AWAIT_STEPS == 0 else None)

  metrics = _metrics(model, params, test, center, spread)
  weights = backbones.export_weights(params['backbone'], backbone)
  half = {name: np.asarray(value, np.float16) for name, value in weights.items()}
  metadata = {'config': json.dumps(config.to_dict()), 'metrics': json.dumps(metrics)}
  files.write_arrays(output, half, metadata)
  return metrics


def _metrics(
  model: SemanticModel,
  params: Any,
  test: tuple[np.ndarray, np.ndarray, np.ndarray],
  center: np.ndarray,
  spread: np.ndarray,
) -> dict[str, float]:
  """Top-1 identity accuracy and R^2 of each target, on portraits that were not trained on."""
  images, identities, targets = test
  outputs = [
    jax.jit(model.apply)({'params': params}, images[i : i + 100])
    for i in range(0, len(images), 100)
  ]
  logits = np.concatenate([np.asarray(who) for who, _ in outputs])
  predicted = np.concatenate([np.asarray(other) for _, other in outputs]) * spread + center
  unexplained = np.mean((predicted - targets) ** 2, axis=0) / np.var(targets, axis=0)
  return {
    'identity_accuracy': float(np.mean(logits.argmax(axis=1) == identities)),
    **{f'r2_{name}': float(1 - u) for name, u in zip(TARGETS, unexplained, strict=True)},
  }
