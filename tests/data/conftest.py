"""Crops that the tests of the pipeline share."""

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.manifest import build_manifest


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
