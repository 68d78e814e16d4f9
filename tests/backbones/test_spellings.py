"""Files of other spellings, and what is said of a file that does not fit."""

import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file as save_numpy

from masm_jax import backbones
from masm_jax.errors import UserError
from tests.backbones.references import make_timm, tiny

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
  reference = randomize(make_timm(timm, name, preset.config))
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
