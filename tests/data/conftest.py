"""Crops that the tests of the pipeline share."""

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.manifest import build_manifest
from masm_jax.data.pipeline import train_iterator
from masm_jax.data.samplers import make_sampler

SIZE = 16
STEPS = 9


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
  """A manifest of 10 real and 13 fake crops of noise; record i is recognised by its pixels."""
  root = tmp_path_factory.mktemp('crops')
  rng = np.random.default_rng(0)
  rows = []
  for i in range(23):
    name = f'{i:02}.png'
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(root / name)
    label = int(i >= 10)
    rows.append(
      {'path': name, 'label': label, 'dataset': 'd', 'split': 'train', 'video_id': f'v{i}'}
    )
  return build_manifest(rows, root)


@pytest.fixture(scope='session')
def iterate():
  """`iterate(manifest, **options)`: STEPS batches of 8 balanced crops, unless told otherwise."""

  def make(manifest, **options):
    defaults = {
      'batch_size': 8,
      'image_size': SIZE,
      'sampler': make_sampler('balanced', manifest.table, 1),
      'augment': 'gend',
      'seed': 1,
      'num_steps': STEPS,
      'num_threads': 2,
    }
    return train_iterator(manifest, **(defaults | options))

  return make


@pytest.fixture(scope='session')
def assert_same_batches():
  """`assert_same_batches(found, expected)`: equal keys, types and bits."""

  def check(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
      assert a.keys() == b.keys()
      for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)

  return check
