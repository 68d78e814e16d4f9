"""One engine for all tests of predictions: its process takes seconds to start."""

import pathlib

import pytest

from masm_jax.data import transforms
from masm_jax.data.manifest import load_manifest
from masm_jax.metrics import scores
from masm_jax.prediction import predictor
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.media import Limits


@pytest.fixture(scope='session')
def detector(trained_run):
  return predictor.load(str(trained_run), batch_size=8)


@pytest.fixture(scope='session')
def val(trained_run, portraits):
  """The validation set's score table, and its crops as they lie on the disk."""
  table = scores.read_scores(trained_run / 'scores' / 'best' / 'val.parquet')
  root = pathlib.Path(load_manifest(portraits).root)
  return table, [transforms.decode(root / path) for path in table['path']]


@pytest.fixture(scope='session')
def whole_engine(detector):
  """Takes every picture for one crop; with limits that hostile files reach soon."""
  limits = Limits(
    bytes=50_000_000, seconds=3600, pixels=2**24, frames=20_000, streams=16,
    memory_bytes=600 * 2**20, cpu_seconds=10, wall_seconds=20,
  )  # fmt: skip
  with Engine(detector, faces='whole', limits=limits) as engine:
    yield engine
