"""How crops were made: written by preprocessing, read from a manifest, compared."""

import doctest
import json

import cv2
import numpy as np
import pandas as pd
import pytest

from masm_jax.data import crop_settings
from masm_jax.data.crop_settings import CropSettings, difference, from_json, read_crop_settings
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest

ONE, OTHER = CropSettings('deepfakebench', 1.3, 256), CropSettings('gend', 1.8, 0)


def manifest(tmp_path, ways):
  rows = []
  for i, way in enumerate(ways):
    cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((8, 8, 3), i, np.uint8))
    columns = way.columns() if way else {}
    rows.append(
      {'path': f'{i}.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': f'v{i}'}
      | columns
    )
  return build_manifest(pd.DataFrame(rows), tmp_path)


@pytest.mark.parametrize('suffix', ['parquet', 'csv'])
@pytest.mark.parametrize(
  ('ways', 'found'),
  [([ONE, ONE], (ONE,)), ([OTHER, ONE], (ONE, OTHER)), ([ONE, None], (ONE,)), ([None], ())],
)
def test_what_a_manifest_says(tmp_path, ways, found, suffix):
  path = tmp_path / f'm.{suffix}'
  write_manifest(manifest(tmp_path, ways), path)
  assert read_crop_settings(load_manifest(path)) == found


@pytest.mark.parametrize(
  ('record', 'found'),
  [
    ({'template': 'gend', 'margin': 1.8, 'size_px': None, 'num_frames': 32}, (OTHER,)),
    ({'template': 'gend'}, ()),
    ([1], ()),
  ],
)
def test_manifests_of_earlier_versions_have_it_beside_them(tmp_path, record, found):
  (tmp_path / 'preprocess.json').write_text(json.dumps(record))
  assert read_crop_settings(manifest(tmp_path, [None])) == found


def test_json_and_words():
  for way in (ONE, OTHER):
    assert from_json(json.loads(json.dumps(way.to_json()))) == way
  assert from_json({'template': '', 'margin': 1.3, 'size_px': 256}) is None
  assert [str(ONE), str(OTHER)] == [
    'template deepfakebench, margin 1.3, 256 px',
    'template gend, margin 1.8, native size',
  ]


def test_difference():
  assert difference([ONE], [ONE]) == difference([ONE, OTHER], [OTHER]) == ''
  assert difference([], [ONE]) == difference([ONE], []) == ''
  text = difference([ONE], [ONE, OTHER])
  assert text == (
    'crops made otherwise (template gend, margin 1.8, native size) than those of the training '
    '(template deepfakebench, margin 1.3, 256 px): scores may be off'
  )


def test_examples():
  assert doctest.testmod(crop_settings).attempted == 4
  assert doctest.testmod(crop_settings).failed == 0
