"""A small FMSD whose layers are chosen, for the tests of the probe and of what it stores."""

import jax
import numpy as np

from configs import common
from masm_jax import detector as detector_lib
from masm_jax.backbones import ViTConfig
from masm_jax.methods import chosen_layers, make_method
from masm_jax.parallel import sharding
from masm_jax.training import probe

BACKBONE = ViTConfig(
  image_size=16,
  patch_size=8,
  width=24,
  depth=4,
  num_heads=3,
  mlp_dim=48,
  activation='gelu',
  pre_norm=False,
  patch_bias=True,
  norm_eps=1e-6,
  mean=(0.5,) * 3,
  std=(0.5,) * 3,
)


DETECTOR = detector_lib.DetectorConfig(BACKBONE)


HASHES = {'base_weights': 'a', 'train_manifest': 'b'}


BATCHES = 4


def make_config(**mask):
  config = common.get_config()
  common.set_method(config, 'fmsd')
  config.subspace.update({'num_subspaces': 2, 'rank': 2})
  config.mask.update({'probe_batches': BATCHES, 'head_batches': 0, 'score': 'bvr', **mask})
  return config


def make_batches(seed=0, size=8, count=BATCHES):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    yield {
      'image': rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8),
      'label': rng.integers(0, 2, size).astype(np.int32),
      'method': np.zeros(size, np.int32),
    }


def choose(
  params,
  workdir,
  config=None,
  mesh=None,
  batches=make_batches,
  hashes=HASHES,
  resuming=False,
  on_progress=None,
):
  config = config or make_config()
  return probe.choose_layers(
    make_method(config),
    params,
    config=config,
    detector_config=DETECTOR,
    mesh=mesh or sharding.make_mesh(devices=jax.devices()[:1]),
    make_batches=batches,
    workdir=workdir,
    hashes=hashes,
    resuming=resuming,
    on_progress=on_progress,
  )


def stored(params, workdir, config=None, hashes=HASHES):
  config = config or make_config()
  return chosen_layers.stored_layers(
    make_method(config), params, config=config, workdir=workdir, hashes=hashes
  )
