"""Augmentation of features between and within forgery classes, an option of any method.

Taken from LSDA (arXiv 2311.11278) [kin]: examples of one forgery are moved within its region of the
latent space (towards another one of its examples, away from its mean, by Gaussian noise), and
examples of two forgeries are mixed, so that the classifier sees a wider and more even set of fakes
than the forgeries it was given.

Left out: its teachers (one encoder per forgery, one for real faces), the distillation of the
augmented features into a student, and the loss that tells forgeries apart. Here the classifier is
trained on the augmented features themselves [ours]. Also ours: real faces count as one more class
and are moved within it, so that the loss stays balanced; the partner within a forgery is drawn by
chance instead of being the example farthest from the mean (of two examples neither is); noise is
measured by the spread of the class; features are the pooled ones, not feature maps.
"""

import dataclasses

import jax
import jax.numpy as jnp

REAL = 0  # The class of real faces; forgeries are 1, 2, ...


@dataclasses.dataclass(frozen=True)
class LsdaConfig:
  """How features are augmented; the fields are documented in `configs/common.py`."""

  weight: float = 0.0
  within: float = 1.0
  noise: float = 1.0
  cross: float = 0.5


def augment(
  features: jax.Array, methods: jax.Array, key: jax.Array, config: LsdaConfig
) -> jax.Array:
  """Moves each feature within its class, or mixes it with a feature of another forgery.

  With chance `cross`, a fake f_i becomes `f_i + l (f_j - f_i)` for a fake f_j of another forgery of
  the batch, l uniform in [0, 1): `mixup` with Beta(1, 1). Every other example becomes, with equal
  chances and l uniform in [0, `within`), one of

  - `f_i + l (f_j - f_i)`, f_j being an example of the same class,
  - `f_i + l (f_i - mean of the class in the batch)`,
  - `f_i + l noise sd eps`, eps standard normal, sd the root mean square over the class and over the
    D dimensions of the distance to its mean.

  An example without such a partner stays as it is. Labels do not change: reals stay real, and a
  mixture of fakes is fake.

  Args:
    features: float32 [B, D], of the global batch.
    methods: int32 [B]: 0 for real, otherwise which forgery.
    key: a random key; example i's numbers are a function of it and of i.
    config: see `LsdaConfig`.

  Returns:
    float32 [B, D].
  """
  size, _ = features.shape
  keys = jax.random.split(key, 6)
  same = methods[:, None] == methods[None]  # [B, B]
  share = same.astype(jnp.float32) / jnp.sum(same, axis=1, keepdims=True).astype(jnp.float32)
  mean_over_class = lambda x: jnp.matmul(share, x, precision='highest')
  away = features - mean_over_class(features)
  spread = jnp.sqrt(jnp.mean(mean_over_class(jnp.square(away)), axis=-1, keepdims=True) + 1e-12)

  others = ~jnp.eye(size, dtype=bool)
  is_fake = methods != REAL
  neighbour, has_neighbour = _partner(features, same & others, keys[0])
  stranger, has_stranger = _partner(features, ~same & is_fake[None] & is_fake[:, None], keys[1])
  step = jax.random.uniform(keys[2], (size, 1))
  kind = jax.random.randint(keys[3], (size, 1), 0, 3)
  noise = jax.random.normal(keys[4], features.shape)
  directions = (
    jnp.where(has_neighbour, neighbour - features, 0.0),
    away,
    config.noise * spread * noise,
  )
  within = config.within * step * jnp.select([kind == 0, kind == 1, kind == 2], directions)
  mixes = (jax.random.uniform(keys[5], (size, 1)) < config.cross) & has_stranger
  return features + jnp.where(mixes, step * (stranger - features), within)


def _partner(
  features: jax.Array, eligible: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """For each example the feature of one that is eligible, by chance; and whether there is any.

  Args:
    features: [B, D].
    eligible: bool [B, B].
    key: a random key.

  Returns:
    [B, D] and bool [B, 1].
  """
  draw = jnp.where(eligible, jax.random.uniform(key, eligible.shape), -1.0)
  return features[jnp.argmax(draw, axis=1)], jnp.any(eligible, axis=1, keepdims=True)
