"""The detector: pixels in, two logits and the feature they were read from out."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from masm_jax import backbones, tree
from masm_jax.backbones import Architecture, Backbone, layers

NUM_CLASSES = 2
FAKE = 1  # Index of the class 'fake'.
RANDOM_WEIGHTS = 'random'  # In place of a path: an untrained backbone.


@flax.struct.dataclass
class Output:
  """What a detector says of a batch.

  Attributes:
    logits: float32 [B, 2]; index 1 is fake.
    features: float32 [B, D], what the head saw (of length 1 where features are normalised).
  """

  logits: jax.Array
  features: jax.Array


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
  """What a detector is built from, methods aside.

  Attributes:
    backbone: architecture and normalisation of the backbone.
    normalize_features: put features on the unit sphere before the head [kin: GenD, 2508.06248].
    dtype: compute type of the backbone: float32 or bfloat16.
    remat: recompute each block in the backward pass instead of keeping its activations.
  """

  backbone: Architecture
  normalize_features: bool = False
  dtype: Any = jnp.float32
  remat: bool = False


def from_config(config: ml_collections.ConfigDict) -> tuple[Backbone, DetectorConfig]:
  """The backbone's preset at the image size of a run, and the detector on it.

  Args:
    config: the run's config; `backbone` and `head` are read.

  Raises:
    UserError: no such preset or dtype, or a size that it cannot have.
  """
  backbone = backbones.get_preset(config.backbone.name)
  if config.backbone.image_size:
    backbone = backbone.with_image_size(config.backbone.image_size)
  dtype = compute_dtype(config.backbone.dtype)
  return backbone, DetectorConfig(
    backbone.config, config.head.normalize_features, dtype, config.backbone.remat
  )


def compute_dtype(name: str) -> Any:
  """The compute type that a config names; `auto` is bfloat16 on accelerators, float32 elsewhere."""
  if name == 'auto':
    name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return jnp.dtype(name)


class Detector(nn.Module):
  """Backbone, pooled feature, dense head (`docs/methods.md`, Head) [ours: the head's start].

  Attributes:
    config: see `DetectorConfig`.
    dense_cls: builds the dense layers of the backbone's blocks, as the method wants them.
  """

  config: DetectorConfig
  dense_cls: Callable[..., nn.Module] = layers.Dense

  def setup(self) -> None:
    """Makes the two parts; their names are the top level of the parameters."""
    self.backbone = self.config.backbone.build(
      dense_cls=self.dense_cls, dtype=self.config.dtype, remat=self.config.remat
    )
    self.head = nn.Dense(NUM_CLASSES, dtype=jnp.float32, kernel_init=nn.initializers.normal(0.02))

  def __call__(self, images: jax.Array) -> Output:
    """Scores images.

    Args:
      images: uint8 [B, H, W, 3], RGB. Normalised here: bytes travel to the device, not floats.

    Returns:
      An `Output`.
    """
    backbone = self.config.backbone
    mean = jnp.asarray(backbone.mean, jnp.float32) * 255.0
    scale = 1.0 / (jnp.asarray(backbone.std, jnp.float32) * 255.0)
    pixels = (images.astype(jnp.float32) - mean[None, None, None]) * scale[None, None, None]
    return self.classify(self.backbone(pixels).astype(jnp.float32))

  def classify(self, features: jax.Array) -> Output:
    """Scores pooled features, float32 [B, D]: `apply(..., method='classify')`."""
    if self.config.normalize_features:
      features /= jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return Output(logits=self.head(features), features=features)


def init_params(config: DetectorConfig, rng: jax.Array) -> dict:
  """Random parameters of a whole detector: `{'backbone': ..., 'head': ...}`, float32."""
  return jax.jit(lambda key: _init(config, key))(rng)


def param_shapes(config: DetectorConfig) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of `init_params` by its path; in the time of a backbone of a block."""
  shapes = backbones.param_shapes(config.backbone)
  head = jax.eval_shape(lambda: init_head(config, jax.random.key(0)))
  return {f'backbone/{path}': shape for path, shape in shapes.items()} | {
    f'{tree.HEAD}{path}': leaf.shape for path, leaf in tree.flatten(head).items()
  }


def init_head(config: DetectorConfig, rng: jax.Array) -> dict:
  """The head of `init_params(config, rng)` alone: the same values, without making a backbone.

  They depend on the key, the head's name and the width of a feature: a backbone of one block has
  the same head, and is traced in a fraction of the time. The rest is dead code to XLA.
  """
  shallow = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, depth=1))
  return jax.jit(lambda key: _init(shallow, key)['head'])(rng)


def _init(config: DetectorConfig, rng: jax.Array) -> dict:
  size = config.backbone.image_size
  return Detector(config).init(rng, jnp.zeros((1, size, size, 3), jnp.uint8))['params']


def load_params(
  backbone: Backbone, weights: str, config: DetectorConfig, rng: jax.Array
) -> tuple[dict, str]:
  """The parameters that a run starts from: a pretrained backbone, and a fresh head.

  Args:
    backbone: the preset, at the image size of the run.
    weights: path of its safetensors file; '' for the file that ships with a preset, `random` for
      an untrained backbone.
    config: the detector.
    rng: seeds the head (and an untrained backbone).

  Returns:
    Parameters `{'backbone': ..., 'head': ...}`, float32, on the host, and the hash that
    names the base weights.

  Raises:
    UserError: no weights, or not those of this backbone.
  """
  if weights == RANDOM_WEIGHTS:
    seed = int(jax.random.key_data(rng).astype(jnp.int32).sum())
    return jax.device_get(init_params(config, rng)), f'random initialisation, seed {seed}'
  shipped = pathlib.Path(__file__).parent / 'assets' / f'{backbone.name}.safetensors'
  path = weights or (str(shipped) if shipped.is_file() else '')
  loaded = backbones.load_weights(path, backbone, backbone.config.image_size)
  params = {'backbone': loaded, 'head': jax.device_get(init_head(config, rng))}
  return params, backbones.weights_hash(path)
