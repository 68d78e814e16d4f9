"""A folder that transformers loads, and the head beside it.

    config.json, model.safetensors   the backbone, as its class in transformers writes them
    head.safetensors                 `weight [2, D]` and `bias [2]` of a linear layer; 1 is fake
    export.json                      the input, whether features have length 1, the difference

No class of transformers is such a detector: `CLIPForImageClassification` averages patches. The
head reads `pooler_output`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
from typing import Any

import numpy as np

from masm_jax import backbones, detector, files, places
from masm_jax.backbones import ViTConfig
from masm_jax.errors import UserError
from masm_jax.export import common
from masm_jax.export.request import Request
from masm_jax.inference.trained import TrainedRun

WEIGHTS = 'model.safetensors'
HEAD = 'head.safetensors'
CONFIG = 'config.json'

# Begin of a preset's name -> class in transformers, `model_type`.
_CLASSES = {
  'clip_': ('CLIPVisionModel', 'clip_vision_model'),
  'dinov2_reg_': ('Dinov2WithRegistersModel', 'dinov2_with_registers'),
  'dinov2_': ('Dinov2Model', 'dinov2'),
  'dinov3_': ('DINOv3ViTModel', 'dinov3_vit'),
  'siglip_': ('SiglipVisionModel', 'siglip_vision_model'),
}
_ACTIVATIONS = {'tanh_gelu': 'gelu_pytorch_tanh', 'swiglu': 'silu'}


def write(request: Request) -> None:
  """Writes the folder, and compares what it computes with JAX.

  With transformers installed its class runs; otherwise the arrays are read back.

  Raises:
    UserError: no such run, a backbone that transformers does not have, or the folder cannot be
      written.
  """
  places.refuse_bytes(request.out)  # Transformers could not load it.
  run = common.load(request)
  preset = preset_of(run)
  config = class_config(preset.name, preset.config)
  with common.folder(request, run, 'huggingface') as (out, note):
    exported = backbones.export_weights(run.params['backbone'], preset)
    # As transformers 5 writes them: without the name of the part of a larger model.
    prefix = preset.keys.prefix
    arrays = {name.removeprefix(prefix): array for name, array in exported.items()}
    common.save(out / WEIGHTS, arrays, format='pt')
    head = run.params['head']
    weight = np.asarray(head['kernel'], np.float32).T
    common.save(out / HEAD, {'weight': weight, 'bias': np.asarray(head['bias'])}, format='pt')
    files.write_json(out / CONFIG, config)
    note['class'] = config['architectures'][0]
    note['difference'] = _difference(out, run, preset, config['architectures'][0])


def preset_of(run: TrainedRun) -> backbones.Backbone:
  """The preset of a detector, at its image size.

  Raises:
    UserError: this version has another one of that name, or none.
  """
  preset = backbones.get_preset(run.facts['backbone'])
  config = run.detector.backbone
  if dataclasses.replace(preset.config, image_size=config.image_size) != config:
    raise UserError(f'the preset {preset.name} is not what this detector was built from')
  return dataclasses.replace(preset, config=config)


def class_config(name: str, config: ViTConfig) -> dict[str, Any]:
  """`config.json` of transformers for a preset.

  Raises:
    UserError: transformers has no such model.
  """
  found = [names for start, names in _CLASSES.items() if name.startswith(start)]
  if not found:
    raise UserError(
      f'transformers has no model of the form of {name}: take detector, stablehlo or onnx'
    )
  class_name, model_type = found[0]
  gated = config.activation == 'swiglu'
  fields: dict[str, Any] = {
    'architectures': [class_name],
    'model_type': model_type,
    'dtype': 'float32',
    'hidden_size': config.width,
    'num_hidden_layers': config.depth,
    'num_attention_heads': config.num_heads,
    'image_size': config.image_size,
    'patch_size': config.patch_size,
    'hidden_act': _ACTIVATIONS.get(config.activation, config.activation),
    'layer_norm_eps': config.norm_eps,
  }
  if model_type.startswith('dinov2'):  # They have the width of the MLP as a ratio.
    fields |= {'use_swiglu_ffn': gated, 'mlp_ratio': 4 if gated else config.mlp_dim // config.width}
    fields |= {'hidden_act': 'gelu'}
  else:
    fields['intermediate_size'] = config.mlp_dim
  if model_type == 'dinov3_vit':
    fields['use_gated_mlp'] = gated
  if config.num_registers:
    fields['num_register_tokens'] = config.num_registers
  return fields


def _difference(
  out: pathlib.Path, run: TrainedRun, preset: backbones.Backbone, class_name: str
) -> dict[str, Any]:
  probe = common.probe_images(preset.config.image_size)
  ours = common.logits(run)
  if not importlib.util.find_spec('transformers') or not importlib.util.find_spec('torch'):
    params = backbones.load_weights(out / WEIGHTS, preset)
    read_back = dataclasses.replace(run, params={**run.params, 'backbone': params})
    theirs = common.logits(read_back)
    return common.difference(ours, theirs, 'the file read back and JAX')
  import safetensors.torch
  import torch
  import transformers

  model = getattr(transformers, class_name).from_pretrained(out).eval()
  head = safetensors.torch.load_file(out / HEAD)
  pixels = (probe / 255.0 - preset.config.mean) / preset.config.std
  with torch.no_grad():
    x = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2).copy())
    features = model(x).pooler_output
    if run.detector.normalize_features:
      features = torch.nn.functional.normalize(features)
    theirs = torch.nn.functional.linear(features, head['weight'], head['bias']).numpy()
  version = importlib.metadata.version('transformers')
  assert theirs.shape[1] == detector.NUM_CLASSES
  return common.difference(ours, theirs, f'transformers {version} and JAX')
