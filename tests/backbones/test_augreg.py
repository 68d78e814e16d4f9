"""timm names: parity with transformers' ViTModel, and the real ViT-Ti."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from masm_jax import backbones

REAL = 'weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'


def _reference(config):
  return transformers.ViTModel(
    transformers.ViTConfig(
      hidden_size=config.width,
      intermediate_size=config.mlp_dim,
      num_hidden_layers=config.depth,
      num_attention_heads=config.num_heads,
      image_size=config.image_size,
      patch_size=config.patch_size,
      layer_norm_eps=1e-6,  # timm's; transformers' default is 1e-12.
      attn_implementation='eager',
    ),
    add_pooling_layer=False,
  )


def _names(depth):
  """timm's name -> Hugging Face's names, three where timm fuses q, k and v."""
  names = {
    'cls_token': ['embeddings.cls_token'],
    'pos_embed': ['embeddings.position_embeddings'],
  }
  for kind in ('weight', 'bias'):
    names[f'patch_embed.proj.{kind}'] = [f'embeddings.patch_embeddings.projection.{kind}']
    names[f'norm.{kind}'] = [f'layernorm.{kind}']
    for i in range(depth):
      block, layer = f'blocks.{i}', f'layers.{i}'
      names[f'{block}.norm1.{kind}'] = [f'{layer}.layernorm_before.{kind}']
      names[f'{block}.attn.qkv.{kind}'] = [f'{layer}.attention.{p}_proj.{kind}' for p in 'qkv']
      names[f'{block}.attn.proj.{kind}'] = [f'{layer}.attention.o_proj.{kind}']
      names[f'{block}.norm2.{kind}'] = [f'{layer}.layernorm_after.{kind}']
      names[f'{block}.mlp.fc1.{kind}'] = [f'{layer}.mlp.fc1.{kind}']
      names[f'{block}.mlp.fc2.{kind}'] = [f'{layer}.mlp.fc2.{kind}']
  return names


def _timm_state(reference, depth):
  state = reference.state_dict()
  names = _names(depth)
  assert sorted(itertools.chain(*names.values())) == sorted(state)
  return {timm: torch.cat([state[name] for name in theirs]) for timm, theirs in names.items()}


def _check(preset, reference, path, assert_parity):
  size = preset.config.image_size
  images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
  hidden = {}
  hooks = [
    block.register_forward_hook(
      lambda _, __, output, i=i: hidden.setdefault(
        i, output[0] if isinstance(output, tuple) else output
      )
    )
    for i, block in enumerate(reference.layers)
  ]
  with torch.no_grad():
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    embeddings = reference.embeddings(pixels)
    output = reference(pixels).last_hidden_state[:, 0]
  for hook in hooks:
    hook.remove()
  params = backbones.load_weights(path, preset)
  run = preset.config.build().apply
  ours = run({'params': params}, jnp.asarray(images), method='hidden_states')
  assert len(ours.blocks) == len(hidden) == preset.config.depth
  assert_parity('embeddings', ours.embeddings, embeddings)
  for i, block in enumerate(ours.blocks):
    assert_parity(f'block {i}', block, hidden[i])
  assert_parity('features', ours.features, output)


# augreg_ti16 at its real size; demo_vit for a patch size and a grid of its own.
@pytest.mark.parametrize('name', ['augreg_ti16', 'demo_vit'])
def test_parity(tmp_path, randomize, assert_parity, name):
  preset = backbones.get_preset(name)
  reference = randomize(_reference(preset.config))
  save_file(_timm_state(reference, preset.config.depth), tmp_path / 'w.safetensors')
  _check(preset, reference, tmp_path / 'w.safetensors', assert_parity)


def test_heads_are_left_over_without_complaint(tmp_path, randomize):
  preset = backbones.get_preset('demo_vit')
  preset = dataclasses.replace(preset, config=dataclasses.replace(preset.config, depth=1))
  state = _timm_state(randomize(_reference(preset.config)), 1)
  extra = {
    'head.weight': torch.zeros(10, 96),
    'head.bias': torch.zeros(10),
    'pre_logits.fc.weight': torch.zeros(96, 96),
    'pre_logits.fc.bias': torch.zeros(96),
  }
  save_file(state | extra, tmp_path / 'w.safetensors')
  params = backbones.load_weights(tmp_path / 'w.safetensors', preset)
  np.testing.assert_array_equal(
    params['block_00']['attn']['k']['kernel'], state['blocks.0.attn.qkv.weight'][96:192].numpy().T
  )


def test_real_vit_ti_loads_and_agrees_with_transformers(shared_data, assert_parity):
  """Its synthetic twin is `test_parity[augreg_ti16]`."""
  preset = backbones.get_preset('augreg_ti16')
  with safe_open(shared_data / REAL, framework='pt') as file:
    state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  assert sum(value.numel() for value in state.values()) == 5_717_416
  head = state.pop('head.weight').numel() + state.pop('head.bias').numel()
  assert backbones.num_params(preset.config) == 5_717_416 - head

  reference = _reference(preset.config).eval()
  names = _names(preset.config.depth)
  assert set(names) == set(state)
  with torch.no_grad():
    for timm, theirs in names.items():
      for name, value in zip(theirs, state[timm].chunk(len(theirs)), strict=True):
        reference.get_parameter(name).copy_(value)
  _check(preset, reference, shared_data / REAL, assert_parity)
