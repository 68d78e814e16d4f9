"""Crops that preprocessing flagged, at the door of training and evaluation."""

import logging

import cv2
import ml_collections
import numpy as np
import pandas as pd
import pytest

from configs import common
from masm_jax import config as config_lib
from masm_jax.data import crop_flags, sets
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.errors import UserError

FLAGGED = {'crop_flag': ['', 'no_face', '', 'padding', ''] * 2}
UNDETECTED = {'face_detected': [True, False, True, True, True] * 2}


def write(tmp_path, columns=(), suffix='parquet'):
  rows = []
  for i in range(10):
    path = f'{i}.png'
    cv2.imwrite(str(tmp_path / path), np.full((8, 8, 3), i, np.uint8))
    rows.append(
      {'path': path, 'label': i % 2, 'dataset': 'd', 'split': 'train' if i < 5 else 'val',
       'video_id': f'd/{i}'}
    )  # fmt: skip
  manifest = build_manifest(pd.DataFrame(rows).assign(**dict(columns)), tmp_path)
  path = tmp_path / f'manifest.{suffix}'
  write_manifest(manifest, path)
  return path


def load(path, **fields):
  spec = ml_collections.ConfigDict(common.dataset(str(path)).to_dict() | fields)
  return sets.SetLoader(common.get_config().data.synthetic)('data.train', spec)


def test_flags_of_a_table():
  table = pd.DataFrame({'crop_flag': ['', 'padding', None, ''], 'face_detected': [1, 1, 1, 0]})
  assert crop_flags.flags_of(table).tolist() == ['', 'padding', '', 'no_face']
  assert crop_flags.flags_of(table[['crop_flag']]).tolist() == ['', 'padding', '', '']
  assert crop_flags.flags_of(table[[]]).tolist() == [''] * 4


@pytest.mark.parametrize('suffix', ['parquet', 'csv'])
@pytest.mark.parametrize(
  ('columns', 'left'),
  [({}, 10), (FLAGGED, 6), (UNDETECTED, 8), (FLAGGED | UNDETECTED, 6)],
)
def test_they_are_left_out_unless_asked_for(tmp_path, columns, left, suffix, caplog):
  path = write(tmp_path, columns, suffix)
  with caplog.at_level(logging.INFO, 'absl'):
    chosen = load(path)
  assert len(chosen) == left
  assert (crop_flags.flags_of(chosen.table) == '').all()
  assert ('10 crops are left out' in caplog.text) == (left < 10)
  assert len(load(path, flagged=True)) == 10
  # Without the columns, the hash is the one that it was.
  assert (chosen.sha256 == load_manifest(path).sha256) == (left == 10)


def test_the_log_says_how_many_and_how_to_take_them(tmp_path, caplog):
  with caplog.at_level(logging.INFO, 'absl'):
    load(write(tmp_path, FLAGGED))
  told = 'data.train: 4 of 10 crops are left out (2 no_face, 2 padding); data.train.flagged=True'
  assert told in caplog.text


def test_the_stored_config_of_an_earlier_run_takes_all(tmp_path):
  spec = common.dataset(str(write(tmp_path, FLAGGED))).to_dict()
  del spec['flagged']
  loader = sets.SetLoader(common.get_config().data.synthetic)
  assert len(loader('data.train', ml_collections.ConfigDict(spec))) == 10


def test_nothing_but_flagged_crops(tmp_path):
  path = write(tmp_path, {'crop_flag': ['upside_down'] * 10})
  with pytest.raises(UserError, match=r'flagged all 5 crops .*data.train.flagged=True takes them'):
    load(path, split='train')


def test_old_runs_resume_under_the_same_fingerprint():
  config = common.get_config()
  stored = config.to_dict()
  del stored['data']['train']['flagged'], stored['data']['val']['flagged']
  assert config_lib.differences(stored, config) == []
  assert config_lib.fingerprint(ml_collections.ConfigDict(stored)) == config_lib.fingerprint(config)
