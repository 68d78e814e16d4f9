"""Pretrained vision transformers: presets, the model, reading and writing of published weights."""

from masm_jax.backbones.backbone import Architecture, Backbone, num_params, param_shapes
from masm_jax.backbones.layers import Dense, DenseCls
from masm_jax.backbones.presets import PRESETS, get_preset
from masm_jax.backbones.vit import HiddenStates, ViT, ViTConfig, intercept_layers
from masm_jax.backbones.weights import (
  export_weights,
  fitting_presets,
  from_arrays,
  load_weights,
  weights_hash,
)

__all__ = [
  'PRESETS',
  'Architecture',
  'Backbone',
  'Dense',
  'DenseCls',
  'HiddenStates',
  'ViT',
  'ViTConfig',
  'export_weights',
  'fitting_presets',
  'from_arrays',
  'get_preset',
  'intercept_layers',
  'load_weights',
  'num_params',
  'param_shapes',
  'weights_hash',
]
