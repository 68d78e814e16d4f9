"""Pretraining: fields that make no training are refused before portraits are drawn."""

import pytest

from configs import demo_pretrain
from masm_jax.errors import UserError
from masm_jax.training import pretraining


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'num_steps': 2}, 'num_steps=2: give more than the 100 steps of config.warmup_steps'),
    ({'batch_size': 0}, 'batch_size=0: give 1 or more'),
    ({'num_identities': 0}, 'num_identities=0: give 1 or more'),
    ({'num_processes': -1}, 'num_processes=-1: give 1 or more'),
    ({'learning_rate': float('nan')}, 'learning_rate=nan: give 0 or more'),
    ({'shift_px': -4}, 'shift_px=-4: give 0 or more'),
  ],
)
def test_fields_that_make_no_training(fields, told, tmp_path):
  config = demo_pretrain.get_config()
  config.update(fields)
  with pytest.raises(UserError, match=told):
    pretraining.pretrain(config, tmp_path / 'weights.safetensors')
  assert not list(tmp_path.iterdir())
