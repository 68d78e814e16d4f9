"""Every record is scored once, whatever the batch size and the number of devices."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.data import manifest as manifest_lib
from masm_jax.inference.scorer import Evaluator
from masm_jax.parallel import sharding


@pytest.fixture(scope='module')
def manifest(tmp_path_factory):
  """11 crops whose mean brightness is known; the last is no image."""
  root = tmp_path_factory.mktemp('crops')
  rows = []
  for i in range(11):
    cv2.imwrite(str(root / f'{i:02d}.png'), np.full((16, 16, 3), 10 * i, np.uint8))
    rows.append(
      {'path': f'{i:02d}.png', 'label': i % 2, 'dataset': 'grey', 'split': 'test', 'frame': i,
       'method': 'fake' if i % 2 else 'real', 'video_id': f'grey/{i}'}
    )  # fmt: skip
  built = manifest_lib.build_manifest(rows, root)
  (root / '10.png').write_text('no image')
  return built


def eval_step(params, batch):
  brightness = jnp.mean(batch['image'].astype(jnp.float32), axis=(1, 2, 3))
  return {'logit': params * brightness, 'record': batch['record'], 'mask': batch['mask']}


@pytest.mark.parametrize('batch_size', [8, 16])
@pytest.mark.parametrize('fsdp', [1, 2])
def test_scores(manifest, batch_size, fsdp):
  mesh = sharding.make_mesh(fsdp)
  step = jax.jit(
    eval_step, in_shardings=(None, sharding.batch_sharding(mesh)),
    out_shardings=sharding.replicated(mesh),
  )  # fmt: skip
  evaluator = Evaluator(step, mesh, batch_size, image_size=16, num_threads=2)
  table = evaluator.scores(jnp.asarray(0.01, jnp.float32), manifest)
  assert list(table['frame']) == list(range(10))  # The broken one has no score.
  np.testing.assert_allclose(table['logit'], 0.1 * np.arange(10), rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(table['score'], 1 / (1 + np.exp(-0.1 * np.arange(10))), rtol=1e-6)
  assert table['score'].dtype == np.float64


def test_confident_scores_do_not_tie(manifest):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  evaluator = Evaluator(jax.jit(eval_step), mesh, 4, image_size=16, num_threads=1)
  table = evaluator.scores(jnp.asarray(0.3, jnp.float32), manifest)
  assert table['logit'].max() == pytest.approx(27.0)  # A float32 probability is 1 from 17 on.
  assert table['score'].is_unique


def feature_step(params, batch):
  brightness = jnp.mean(batch['image'].astype(jnp.float32), axis=(1, 2, 3))
  feature = jnp.stack([brightness, params + brightness], axis=1)
  return {'feature': feature, 'record': batch['record'], 'mask': batch['mask']}


def test_features_and_perturbed_scores(manifest):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  evaluator = Evaluator(jax.jit(eval_step), mesh, 4, 16, 1, jax.jit(feature_step))
  records, features = evaluator.features(jnp.asarray(0.5, jnp.float32), manifest)
  assert records.tolist() == list(range(10))
  np.testing.assert_allclose(features[:, 0], 10 * np.arange(10), rtol=1e-6)
  np.testing.assert_allclose(features[:, 1], 0.5 + 10 * np.arange(10), rtol=1e-6)

  done = []
  table = evaluator.scores(
    jnp.asarray(0.01, jnp.float32), manifest,
    perturb=lambda image, record: image + np.uint8(record), on_progress=done.append,
  )  # fmt: skip
  np.testing.assert_allclose(table['logit'], 0.11 * np.arange(10), rtol=1e-6, atol=1e-7)
  assert done == [1, 2, 3]
