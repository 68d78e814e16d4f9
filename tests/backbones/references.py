"""Backbones of the least size that has all parts of their family, and the same by timm."""

import dataclasses
import re

from masm_jax import backbones

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


def timm_name(name):
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


def make_timm(timm, name, config, **changes):
  model_name, kwargs = timm_name(name)
  kwargs |= {'mlp_ratio': 2 * 176 / 64} if 'giant' in model_name else {}
  kwargs |= {'mlp_ratio': 176 / 64} if 'huge_plus' in model_name else {}
  kwargs |= {'swiglu_align_to': 1} if 'huge_plus' in model_name else {}
  if config.rotary_grid:
    kwargs |= {'ref_feat_shape': (GRID, GRID)}
  kwargs |= {'num_classes': 0} | changes
  return timm.create_model(
    model_name,
    embed_dim=config.width,
    depth=config.depth,
    num_heads=config.num_heads,
    patch_size=config.patch_size,
    img_size=config.image_size,
    dynamic_img_size=True,
    **kwargs,
  )
