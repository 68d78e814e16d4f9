"""Parity with transformers' CLIPVisionModel, from the embeddings to the output."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from masm_jax import backbones


def _reference(config, **changes):
  return transformers.CLIPVisionModel(
    transformers.CLIPVisionConfig(
      hidden_size=config.width,
      intermediate_size=config.mlp_dim,
      num_hidden_layers=config.depth,
      num_attention_heads=config.num_heads,
      image_size=config.image_size,
      patch_size=config.patch_size,
      attn_implementation='eager',
      **changes,
    )
  )


def _tiny(**changes):
  preset = backbones.get_preset('clip_b16')
  fields = {'width': 192, 'depth': 3, 'num_heads': 3, 'mlp_dim': 768, **changes}
  return dataclasses.replace(preset, config=dataclasses.replace(preset.config, **fields))


def _check(preset, reference, path, batch, assert_parity):
  size = preset.config.image_size
  images = np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    theirs = reference(pixels, output_hidden_states=True)
  params = backbones.load_weights(path, preset)
  run = preset.config.build().apply
  ours = run({'params': params}, jnp.asarray(images), method='hidden_states')
  assert len(ours.blocks) == len(theirs.hidden_states) - 1 == preset.config.depth
  assert_parity('embeddings', ours.embeddings, theirs.hidden_states[0])
  for i, block in enumerate(ours.blocks):
    assert_parity(f'block {i}', block, theirs.hidden_states[i + 1])
  assert_parity('features', ours.features, theirs.pooler_output)
  features = run({'params': params}, jnp.asarray(images))
  assert_parity('features of the class token alone', features, theirs.pooler_output)


@pytest.mark.parametrize('prefix', ['', 'vision_model.'])
def test_parity_at_the_size_of_ti(tmp_path, randomize, assert_parity, prefix):
  preset = _tiny(norm_eps=0.05)  # Large enough that a LayerNorm without it would be seen.
  reference = randomize(_reference(preset.config, layer_norm_eps=0.05))
  state = {prefix + name: value for name, value in reference.state_dict().items()}
  save_file(state, tmp_path / 'model.safetensors')
  _check(preset, reference, tmp_path / 'model.safetensors', 2, assert_parity)


def test_parity_at_the_size_of_l14(tmp_path, randomize, assert_parity):
  preset = backbones.get_preset('clip_l14')
  reference = randomize(_reference(preset.config))
  path = tmp_path / 'model.safetensors'
  save_file(reference.state_dict(), path)
  try:
    _check(preset, reference, path, 1, assert_parity)
  finally:
    path.unlink()  # 1.2 GB


def test_whole_clip_model_is_read_without_its_text_tower(tmp_path):
  preset = _tiny(depth=1)
  vision = {
    'hidden_size': 192,
    'intermediate_size': 768,
    'num_hidden_layers': 1,
    'num_attention_heads': 3,
    'patch_size': 16,
  }
  text = {
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'vocab_size': 99,
    # Inside the vocabulary, as torch's embedding asks for.
    'pad_token_id': 1,
    'bos_token_id': 2,
    'eos_token_id': 3,
  }
  whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
  state = whole.state_dict() | {
    'vision_model.embeddings.position_ids': torch.arange(197)[None],
    'text_model.embeddings.position_ids': torch.arange(77)[None],
  }
  assert 'visual_projection.weight' in state
  assert 'logit_scale' in state
  save_file(state, tmp_path / 'model.safetensors')
  params = backbones.load_weights(tmp_path / 'model.safetensors', preset)
  np.testing.assert_array_equal(
    params['block_00']['mlp']['fc1']['kernel'],
    state['vision_model.encoder.layers.0.mlp.fc1.weight'].numpy().T,
  )


def test_export_loads_in_transformers(tmp_path, randomize):
  preset = _tiny(depth=2)
  reference = randomize(_reference(preset.config))
  save_file(reference.state_dict(), tmp_path / 'source.safetensors')
  params = backbones.load_weights(tmp_path / 'source.safetensors', preset)

  exported = backbones.export_weights(params, preset)
  folder = tmp_path / 'exported'
  folder.mkdir()
  save_numpy(exported, folder / 'model.safetensors', metadata={'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(reference.config.to_dict()))
  loaded, info = transformers.CLIPVisionModel.from_pretrained(folder, output_loading_info=True)
  assert not any(info.values())
  for name, value in reference.state_dict().items():
    assert torch.equal(loaded.state_dict()[name], value), name
