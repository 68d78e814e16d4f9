"""Parity of every family with the published implementation, at the least size that has its parts.

Weights are random. From the embeddings through each block to the pooled feature, at the size that
the file is for and at another one, for every spelling of the names.
"""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from masm_jax import backbones
from masm_jax.backbones import weights as weights_lib
from masm_jax.errors import UserError

TINY = {'width': 64, 'depth': 2, 'num_heads': 2, 'patch_size': 4}
GRID, OTHER_GRID = 5, 3

# A preset stands for all that differ from it by these fields alone, and by the image size.
VARIANTS = (
  'clip_l14',
  'dinov2_l14',
  'dinov2_g14',
  'dinov2_reg_l14',
  'dinov2_reg_g14',
  'dinov3_l16',
  'dinov3_hplus16',
  'pe_core_l14',
  'siglip_l16',
  'augreg_b16',
)


def tiny(name):
  preset = backbones.get_preset(name)
  gated = preset.config.activation == 'swiglu'
  fields = TINY | {
    # As DINOv2's classes derive it from the width; SwiGLU's has to be even in timm.
    'mlp_dim': 176 if gated else 256,
    'image_size': TINY['patch_size'] * GRID,
    'rotary_grid': GRID if preset.config.rotary_grid else 0,
  }
  config = dataclasses.replace(preset.config, **fields)
  return dataclasses.replace(preset, config=config, published_size=None)


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


def _timm_name(name):
  """The model of the same shape in timm, whose weights `name` takes, and what makes it the same."""
  size = {'b': 'base', 'l': 'large', 's': 'small', 'ti': 'tiny', 'g': 'giant', 'so': 'so400m'}
  size |= {'splus': 'small_plus', 'hplus': 'huge_plus'}
  family, _, rest = name.rpartition('_')
  if name == 'clip_l14_336':
    return 'vit_large_patch14_clip_quickgelu_336', {}
  letters, patch = re.fullmatch(r'([a-z]+)(\d+)', rest).groups()
  word, patch = size[letters], f'patch{patch}'
  image_size = backbones.get_preset(name).config.image_size
  if family == 'clip':
    return f'vit_{word}_{patch}_clip_quickgelu_224', {}
  if family == 'dinov2':
    return f'vit_{word}_{patch}_dinov2', {}
  if family == 'dinov2_reg':
    return f'vit_{word}_{patch}_reg4_dinov2', {}
  if family == 'dinov3':
    return f'vit_{word}_{patch}_dinov3_qkvb', {'global_pool': 'token'}
  if family == 'pe_core':
    return f'vit_pe_core_{word}_{patch}_{224 if word == "base" else 336}', {}
  if family == 'siglip':
    return f'vit_{word}_{patch}_siglip_{image_size}', {'act_layer': 'gelu_tanh'}
  return f'vit_{word}_{patch}_224', {'num_classes': 0}


def _timm(timm, name, config, **changes):
  timm_name, kwargs = _timm_name(name)
  kwargs |= {'mlp_ratio': 2 * 176 / 64} if 'giant' in timm_name else {}
  kwargs |= {'mlp_ratio': 176 / 64} if 'huge_plus' in timm_name else {}
  kwargs |= {'swiglu_align_to': 1} if 'huge_plus' in timm_name else {}
  if config.rotary_grid:
    kwargs |= {'ref_feat_shape': (GRID, GRID)}
  kwargs |= {'num_classes': 0} | changes
  return timm.create_model(
    timm_name,
    embed_dim=config.width,
    depth=config.depth,
    num_heads=config.num_heads,
    patch_size=config.patch_size,
    img_size=config.image_size,
    dynamic_img_size=True,
    **kwargs,
  )


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
  reference = randomize(_timm(timm, name, preset.config))
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
  timm_name, kwargs = _timm_name(name)
  with torch.device('meta'):
    model = timm.create_model(timm_name, **kwargs | {'num_classes': 0})
  shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
  tables = (preset.keys, *preset.other_keys)
  assert [] in [weights_lib._check(shapes, keys, preset) for keys in tables]


_OPENAI = {
  r'cls_token': 'class_embedding',
  r'pos_embed': 'positional_embedding',
  r'patch_embed\.proj': 'conv1',
  r'norm_pre': 'ln_pre',
  r'norm': 'ln_post',
  r'blocks\.(\d+)\.norm(\d)': r'transformer.resblocks.\1.ln_\2',
  r'blocks\.(\d+)\.attn\.qkv\.(weight|bias)': r'transformer.resblocks.\1.attn.in_proj_\2',
  r'blocks\.(\d+)\.attn\.proj': r'transformer.resblocks.\1.attn.out_proj',
  r'blocks\.(\d+)\.mlp\.fc1': r'transformer.resblocks.\1.mlp.c_fc',
  r'blocks\.(\d+)\.mlp\.fc2': r'transformer.resblocks.\1.mlp.c_proj',
  r'attn_pool\.latent': 'attn_pool.probe',
  r'attn_pool\.proj': 'attn_pool.attn.out_proj',
  r'attn_pool\.norm': 'attn_pool.layernorm',
  r'attn_pool\.mlp\.fc1': 'attn_pool.mlp.c_fc',
  r'attn_pool\.mlp\.fc2': 'attn_pool.mlp.c_proj',
}


def _openai_names(state):
  """From the names of timm, written apart from the package's own table."""
  state, renamed = dict(state), {}
  for kind in ('weight', 'bias') if 'attn_pool.latent' in state else ():
    parts = [state.pop(f'attn_pool.{part}.{kind}') for part in ('q', 'kv')]
    renamed[f'visual.attn_pool.attn.in_proj_{kind}'] = np.concatenate(parts)
  for key, value in state.items():
    stem, ending = re.fullmatch(r'(.*?)(\.weight|\.bias)?', key).groups(default='')
    for old, new in _OPENAI.items():
      if re.fullmatch(old, key):
        name = re.sub(old, new, key)
      elif re.fullmatch(old, stem):
        name = re.sub(old, new, stem) + ending
    value = value[0, 0] if key == 'cls_token' else value[0] if key == 'pos_embed' else value
    renamed[f'visual.{name}'] = value
  return renamed


@pytest.mark.parametrize('name', ['clip_l14', 'pe_core_l14'])
def test_names_of_openai_and_meta(timm, name, tmp_path, randomize):
  preset = tiny(name)
  reference = randomize(_timm(timm, name, preset.config))
  state = {key: value.numpy() for key, value in reference.state_dict().items()}
  save_numpy(state, tmp_path / 'timm.safetensors')
  renamed = _openai_names(state)
  assert 'visual.transformer.resblocks.1.mlp.c_proj.weight' in renamed
  rest = {  # What else there is in such a file.
    'visual.proj': np.zeros((64, 8), np.float32),
    'positional_embedding': np.zeros((77, 8), np.float32),
    'transformer.resblocks.0.ln_1.weight': np.zeros(8, np.float32),
    'logit_scale': np.zeros(1, np.float32),
  }
  save_numpy({k: np.ascontiguousarray(v) for k, v in (renamed | rest).items()}, tmp_path / 'oai')
  jax.tree.map(
    np.testing.assert_array_equal,
    backbones.load_weights(tmp_path / 'oai', preset),
    backbones.load_weights(tmp_path / 'timm.safetensors', preset),
  )


def test_naflex_is_refused_by_name(tmp_path):
  preset = tiny('siglip_l16')
  params = {
    path: np.zeros(shape, np.float32)
    for path, shape in backbones.param_shapes(preset.config).items()
  }
  state = backbones.export_weights(traverse_util.unflatten_dict(params, sep='/'), preset)
  name = 'vision_model.embeddings.patch_embedding.weight'
  state[name] = state[name].reshape(64, -1)
  save_numpy(state, tmp_path / 'naflex.safetensors')
  with pytest.raises(UserError, match=r'does not fit the backbone siglip_l16: .* NaFlex') as error:
    backbones.load_weights(tmp_path / 'naflex.safetensors', preset)
  assert 'another model' in str(error.value)


def test_problems_are_those_with_the_names_that_come_closest(tmp_path):
  preset = tiny('dinov2_l14')
  params = {
    path: np.zeros(shape, np.float32)
    for path, shape in backbones.param_shapes(preset.config).items()
  }
  state = backbones.export_weights(traverse_util.unflatten_dict(params, sep='/'), preset)
  del state['dinov2.encoder.layer.1.layer_scale2.lambda1']
  state['dinov2.encoder.layer.0.mlp.fc1.weight'] = np.zeros((3, 64), np.float32)
  state['dinov2.extra'] = np.zeros(3, np.float32)
  save_numpy(state, tmp_path / 'w.safetensors')
  with pytest.raises(UserError) as error:
    backbones.load_weights(tmp_path / 'w.safetensors', preset)
  assert str(error.value).partition('): ')[2].split('; ') == [
    'encoder.layer.1.layer_scale2.lambda1 is missing',
    'extra is not part of the model',
    'encoder.layer.0.mlp.fc1.weight is [3, 64], not [256, 64]',
  ]
