"""What travels between devices and what a checkpoint weighs, on the shapes of ViT-L/14."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs import common
from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.backbones import get_preset
from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.methods import make_method
from masm_jax.parallel import sharding
from masm_jax.training import costs
from masm_jax.training.program import make_program
from tests.positions import Positions

pytestmark = pytest.mark.usefixtures('standard_promotion')
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def test_collective_bytes_are_read_from_compiled_text():
  hlo = '\n'.join(
    [
      '  %all-reduce.1 = (f32[2,3]{1,0}, /*index=1*/f32[]) all-reduce(%a, %b), to_apply=%add',
      '  %ag = bf16[4,8]{1,0} all-gather(bf16[2,8]{1,0} %c), dimensions={0}',
      '  %s = ((f32[5]{0}), (f32[5]{0})) all-reduce-start(%d)',
      '  %t = f32[5]{0} all-reduce-done(%s)',
      '  %u = pred[16]{0} all-reduce(%e)',
      '  %fusion = f32[100]{0} fusion(%all-reduce.1), calls=%computation',
    ]
  )
  assert costs.collective_bytes(hlo) == {'all-reduce': 24 + 4 + 20 + 16, 'all-gather': 64}


def l14_config(method):
  """CLIP ViT-L/14 at 28 px: widths, kernels and adapters are those of 224 px, tokens are few."""
  config = common.get_config()
  config.backbone.name = 'clip_l14'
  config.backbone.image_size = 28
  config.train.batch_size = 8
  common.set_method(config, method)
  return config


@pytest.fixture
def shallow(monkeypatch):
  """ViT-L/14 with one or two of its 24 blocks, which are all alike."""

  def make(depth):
    preset = get_preset('clip_l14')
    cut = dataclasses.replace(preset, config=dataclasses.replace(preset.config, depth=depth))
    monkeypatch.setattr(detector_lib.backbones, 'get_preset', lambda name: cut)

  return make


@pytest.mark.parametrize(
  ('method', 'forward', 'depth'),
  [('masm', 'factored', 1), ('masm', 'factored', 2), ('masm', 'materialized', 1),
   ('effort', 'auto', 1)],
)  # fmt: skip
def test_collectives_carry_the_gradients_of_trainable_leaves_and_nothing_else(
  method, forward, depth, shallow
):
  """Eight devices: the bytes of all-reduces are those of the trained leaves, but for the scalars of
  loss and accuracy (and singular values, whose gradient may follow from the others' sums); what is
  frozen does not travel."""
  shallow(depth)
  config = l14_config(method)
  config.subspace.forward = forward
  program = costs.trace(config, sharding.make_mesh())
  hlo = program.train_step.lower().compile(compiler_options=QUICK).as_text()
  found = costs.collective_bytes(hlo)
  trained = tree.param_bytes(program.parts.trainable)
  assert trained > depth * 30_000
  assert set(found) == {'all-reduce'}
  assert abs(found['all-reduce'] - trained) <= 1024 * depth


def full_state(method):
  """The train state of a method on the whole ViT-L/14, full of noise; its trained parameters."""
  config = l14_config(method)
  _, detector_config = detector_lib.from_config(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda k: detector_lib.init_params(detector_config, k), key)
  made = make_method(config)
  parts = jax.eval_shape(made.init, params, key)
  program = make_program(
    config,
    method=made,
    detector_config=detector_config,
    parts=parts,
    total_steps=1000,
  )
  shapes = jax.eval_shape(program.init_state, parts.trainable)
  rng = np.random.default_rng(0)

  def noise(leaf):  # Which does not compress.
    if leaf.dtype != np.float32 or not leaf.shape:
      return np.zeros(leaf.shape, leaf.dtype)
    return rng.standard_normal(leaf.shape, np.float32)

  return config, jax.tree.map(noise, shapes), tree.param_count(parts.trainable)


@pytest.mark.parametrize(
  ('method', 'count', 'num_bytes'),
  # Value and two moments; with a layer mask two statistics of the gradient, each in two halves.
  [('effort', 196_704 + 2_050, 12), ('masm', 14_162_434, 28)],
)
def test_a_checkpoint_has_so_many_bytes_for_a_trained_parameter_and_none_for_a_frozen_one(
  method, count, num_bytes, tmp_path
):
  config, full, trained = full_state(method)
  assert trained == count
  checkpoints = Checkpoints(tmp_path, config=config, base_hash='a', manifest_hash='b', val_hash='c')
  checkpoints.save(full, Positions(), Best())
  checkpoints.close()
  folder = pathlib.Path(tmp_path) / 'checkpoints'
  written = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
  assert 4 * trained < written <= num_bytes * trained + 1_000_000
