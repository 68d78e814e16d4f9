"""Parity of every family with the published implementation, at the least size that has its parts.

Weights are random. From the embeddings through each block to the pooled feature, at the size that
the file is for and at another one, for every spelling of the names.
"""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from masm_jax import backbones
from masm_jax.backbones import weights as weights_lib
from tests.backbones.references import GRID, OTHER_GRID, VARIANTS, make_timm, timm_name, tiny


def test_no_preset_is_without_a_parity_test():
  of_variants = {tiny(name).config for name in VARIANTS}
  assert {tiny(name).config for name in backbones.PRESETS} == of_variants


def _hf(config, kind):
  """The published class in transformers for a tiny config."""
  fields = {
    'hidden_size': config.width,
    'num_hidden_layers': config.depth,
    'num_attention_heads': config.num_heads,
    'image_size': config.image_size,
    'patch_size': config.patch_size,
    'attn_implementation': 'eager',
  }
  mlp = {'intermediate_size': config.mlp_dim}
  gated = config.activation == 'swiglu'
  t = transformers
  if kind == 'clip':
    return t.CLIPVisionModel(t.CLIPVisionConfig(**fields, **mlp))
  if kind == 'dinov2':
    return t.Dinov2Model(t.Dinov2Config(**fields, use_swiglu_ffn=gated))
  if kind == 'dinov2_reg':
    return t.Dinov2WithRegistersModel(
      t.Dinov2WithRegistersConfig(**fields, use_swiglu_ffn=gated, num_register_tokens=4)
    )
  if kind == 'dinov3':
    return t.DINOv3ViTModel(
      t.DINOv3ViTConfig(
        **fields,
        **mlp,
        use_gated_mlp=gated,
        hidden_act='silu' if gated else 'gelu',  # As the files of S+ and H+ have it.
        num_register_tokens=4,
      )
    )
  return t.SiglipVisionModel(t.SiglipVisionConfig(**fields, **mlp))


@functools.cache
def _run(config):
  return jax.jit(lambda params, x: config.build().apply(params, x, method='hidden_states'))


def _states(reference, blocks, pixels, **kwargs):
  """Embeddings, the output of every block, the model's own output."""
  states, hooks = [], []
  for block in blocks:
    hooks.append(block.register_forward_pre_hook(lambda _, args: states.append(args[0])))
  with torch.no_grad():
    output = reference(pixels, **kwargs)
  for hook in hooks:
    hook.remove()
  return states, output


def _check(preset, path, reference, blocks, assert_parity, pooled, **kwargs):
  """At the image size of `preset`."""
  size = preset.config.image_size
  images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
  pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  states, output = _states(reference, blocks, pixels, **kwargs)
  params = backbones.load_weights(path, preset)
  ours = _run(preset.config)({'params': params}, images)
  assert len(states) == preset.config.depth
  assert_parity('embeddings', ours.embeddings, states[0])
  assert_parity('block 0', ours.blocks[0], states[1])
  assert_parity('features', ours.features, pooled(output))
  return params, images, pooled(output)


_HF = [name for name in VARIANTS if not name.startswith(('pe_core', 'augreg'))]


_INTERPOLATES = ('clip', 'siglip')  # Classes that have to be told to take another size.


def _transformers(name, grid, folder, randomize, assert_parity):
  preset = tiny(name)
  kind = name.rpartition('_')[0]
  reference = randomize(_hf(preset.config, kind))
  reference.save_pretrained(folder)  # In the published names, not those of the class.
  blocks = next(m for m in reference.modules() if isinstance(m, torch.nn.ModuleList))
  kwargs = {'interpolate_pos_encoding': True} if kind in _INTERPOLATES else {}
  preset = preset.with_image_size(grid * preset.config.patch_size)
  checked = _check(
    preset,
    folder / 'model.safetensors',
    reference,
    blocks,
    assert_parity,
    lambda output: output.pooler_output,
    **kwargs,
  )
  return preset, reference, *checked


@pytest.mark.parametrize('name', _HF)
def test_as_transformers_at_another_size(name, tmp_path, randomize, assert_parity):
  _transformers(name, OTHER_GRID, tmp_path, randomize, assert_parity)


@pytest.mark.parametrize('name', _HF)
def test_as_transformers_in_every_spelling_of_the_names(name, tmp_path, randomize, assert_parity):
  preset, reference, params, images, features = _transformers(
    name, GRID, tmp_path, randomize, assert_parity
  )
  if preset.config.pooling == 'class_token':
    alone = jax.jit(preset.config.build().apply)({'params': params}, images)
    assert_parity('features of the class token alone', alone, features)
  written, prefix = load_file(tmp_path / 'model.safetensors'), preset.keys.prefix
  in_memory = {key: value.numpy() for key, value in reference.state_dict().items()}
  for state in (in_memory, {prefix + key: value for key, value in in_memory.items()}):
    save_numpy(state, tmp_path / 'other.safetensors')
    found = backbones.load_weights(tmp_path / 'other.safetensors', preset)
    jax.tree.map(np.testing.assert_array_equal, found, params)
  # And out again, in the names of the file; the mask token is for pretraining alone.
  exported = backbones.export_weights(params, preset)
  exported = {key.removeprefix(prefix): value for key, value in exported.items()}
  assert set(exported) == set(written) - {'embeddings.mask_token'}
  for key, value in exported.items():
    np.testing.assert_array_equal(value, written[key])


# At another size where timm resamples as the authors do.
_TIMM = [(name, GRID) for name in VARIANTS] + [
  (name, OTHER_GRID) for name in ('pe_core_l14', 'dinov2_reg_l14', 'dinov3_l16')
]


@pytest.mark.parametrize(('name', 'grid'), _TIMM)
def test_as_timm(timm, name, grid, tmp_path, randomize, assert_parity):
  preset = tiny(name)
  reference = randomize(make_timm(timm, name, preset.config))
  save_file(reference.state_dict(), tmp_path / 'model.safetensors')
  _check(
    preset.with_image_size(grid * preset.config.patch_size),
    tmp_path / 'model.safetensors',
    reference,
    reference.blocks,
    assert_parity,
    lambda output: output,
  )


def test_dinov3_without_the_biases_that_are_zero(timm, tmp_path, randomize, assert_parity):
  preset = tiny('dinov3_l16')
  reference = randomize(
    timm.create_model(
      'vit_large_patch16_dinov3',
      embed_dim=64,
      depth=2,
      num_heads=2,
      patch_size=4,
      img_size=20,
      global_pool='token',
      num_classes=0,
    )
  )
  assert not [name for name in reference.state_dict() if 'q_bias' in name or 'qkv.bias' in name]
  save_file(reference.state_dict(), tmp_path / 'model.safetensors')
  params, *_ = _check(
    preset,
    tmp_path / 'model.safetensors',
    reference,
    reference.blocks,
    assert_parity,
    lambda output: output,
  )
  assert not params['block_01']['attn']['v']['bias'].any()


@pytest.mark.parametrize('name', [name for name in backbones.PRESETS if name != 'demo_vit'])
def test_shapes_of_every_preset_are_those_of_timm(timm, name):
  """Widths, depths and all else, from the library's own tables: no array is made."""
  preset = backbones.get_preset(name)
  if preset.published_size is not None:
    preset = preset.with_image_size(preset.published_size)
  model_name, kwargs = timm_name(name)
  with torch.device('meta'):
    model = timm.create_model(model_name, **kwargs | {'num_classes': 0})
  shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
  tables = (preset.keys, *preset.other_keys)
  assert [] in [weights_lib._check(shapes, keys, preset) for keys in tables]
