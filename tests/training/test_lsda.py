"""Latent augmentation: who is mixed with whom, by how much, and that chance is reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.parallel import sharding
from masm_jax.training import lsda

FORGERY = np.array([0, 1, 2, 0, 1, 3, 0, 2, 1, 0, 3, 2, 0, 1, 0, 0], np.int32)
FEATURES = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)


def augment(config, methods=FORGERY, features=FEATURES, seed=0):
  moved = lsda.augment(jnp.asarray(features), jnp.asarray(methods), jax.random.key(seed), config)
  return np.asarray(moved)


def place_between(point, ends):
  """Where `point` stands on the way from ends[0] to ends[1], or nan if it is off that line."""
  start, end = ends
  along = np.dot(point - start, end - start) / np.dot(end - start, end - start)
  return along if np.allclose(start + along * (end - start), point, atol=1e-5) else np.nan


def test_a_fake_is_mixed_with_a_fake_of_another_forgery_alone():
  partners = set()
  for seed in range(20):
    moved = augment(lsda.LsdaConfig(within=0.0, cross=1.0), seed=seed)
    np.testing.assert_array_equal(moved[FORGERY == 0], FEATURES[FORGERY == 0])
    for i in np.flatnonzero(FORGERY):
      strangers = np.flatnonzero(~np.isin(FORGERY, FORGERY[i]) & (FORGERY != 0))
      places = {j: place_between(moved[i], FEATURES[[i, j]]) for j in strangers}
      (found,) = [j for j, place in places.items() if 0 <= place <= 1]
      partners.add((int(i), int(found)))
  assert len(partners) > 40  # Of 64 ordered pairs: the partner is drawn anew each time.


def test_within_a_class_it_is_a_step_to_a_neighbour_off_the_mean_or_noise():
  config = lsda.LsdaConfig(within=0.5, noise=0.0, cross=0.0)
  kinds = {'neighbour': 0, 'mean': 0, 'noise': 0}
  for seed in range(30):
    moved = augment(config, seed=seed)
    for i, method in enumerate(FORGERY):
      peers = np.flatnonzero(np.isin(FORGERY, method))
      mean = FEATURES[peers].mean(axis=0)
      if np.array_equal(moved[i], FEATURES[i]):
        kinds['noise'] += 1
      elif -0.5 <= place_between(moved[i], (FEATURES[i], mean)) <= 0:
        kinds['mean'] += 1
      else:
        others = peers[peers != i]
        places = np.array([place_between(moved[i], FEATURES[[i, j]]) for j in others])
        assert np.any((places >= 0) & (places <= 0.5))
        kinds['neighbour'] += 1
  assert min(kinds.values()) > 100  # Of 480, a third each.


def test_noise_is_as_wide_as_the_class():
  methods = np.zeros(1000, np.int32)
  features = np.random.default_rng(1).normal(scale=3.0, size=(1000, 8)).astype(np.float32)
  moved = augment(lsda.LsdaConfig(within=1.0, noise=2.0, cross=0.0), methods, features)
  step = np.linalg.norm(moved - features, axis=1)
  # A third gets noise of deviation l * 2 * 3, l uniform: of mean square 12 per dimension.
  alone = augment(lsda.LsdaConfig(within=1.0, noise=0.0, cross=0.0), methods, features)
  is_noise = np.all(alone == features, axis=1)
  assert 0.3 < is_noise.mean() < 0.37
  np.testing.assert_allclose(np.mean(step[is_noise] ** 2) / 8, 12.0, rtol=0.15)


@pytest.mark.parametrize('methods', [[0, 1], [1, 1], [0, 0]])
def test_who_has_no_partner_stays(methods):
  moved = augment(lsda.LsdaConfig(within=0.0, cross=1.0), np.array(methods, np.int32), FEATURES[:2])
  np.testing.assert_array_equal(moved, FEATURES[:2])
  lonely = augment(
    lsda.LsdaConfig(within=1.0, noise=0.0, cross=0.0), np.array([0, 1], np.int32), FEATURES[:2]
  )
  np.testing.assert_array_equal(lonely, FEATURES[:2])


def test_the_same_key_moves_the_same_way_on_one_device_and_eight():
  config = lsda.LsdaConfig()
  fn = jax.jit(lambda f, m, key: lsda.augment(f, m, key, config))
  one = fn(FEATURES, FORGERY, jax.random.key(3))
  placed = jax.device_put((FEATURES, FORGERY), sharding.batch_sharding(sharding.make_mesh()))
  np.testing.assert_allclose(fn(*placed, jax.random.key(3)), one, rtol=1e-5, atol=1e-6)
  assert not np.array_equal(fn(FEATURES, FORGERY, jax.random.key(4)), one)
