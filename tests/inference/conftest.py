"""A sound detector file with all of its parts."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from masm_jax import backbones
from masm_jax import detector as detector_lib
from masm_jax.inference import feature_statistics, validation
from masm_jax.parallel import sharding
from tests.inference.detector_files_made import score_table, write


@pytest.fixture(scope='module')
def config():
  backbone = backbones.ViTConfig(
    image_size=16, patch_size=8, width=24, depth=2, num_heads=3, mlp_dim=48, activation='gelu',
    pre_norm=True, patch_bias=True, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3,
  )  # fmt: skip
  return detector_lib.DetectorConfig(backbone, normalize_features=True)


@pytest.fixture(scope='module')
def params(config):
  return detector_lib.init_params(config, jax.random.key(0))


@pytest.fixture(scope='module')
def found():
  table = score_table()
  features = np.random.default_rng(0).normal(size=(len(table), 24)).astype(np.float32)
  fitted = feature_statistics.fit(features, table['label'].to_numpy(), table['video_id'].to_numpy())
  made = validation.from_scores(table)
  return validation.Validation(made.thresholds, made.calibration, made.scores, fitted)


@pytest.fixture(scope='module')
def sound(params, config, found, tmp_path_factory):
  folder = tmp_path_factory.mktemp('sound') / 'file'
  write(folder, params, config, found)
  return folder


@pytest.fixture
def copy(sound, tmp_path):
  return pathlib.Path(shutil.copytree(sound, tmp_path / 'file'))


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(devices=jax.devices()[:1])
