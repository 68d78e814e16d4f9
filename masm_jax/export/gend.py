"""A folder in the layout of GenD (arXiv 2508.06248), which its users can load.

    config.json         `backbone`, the name of its base, and `head`
    model.safetensors   `feature_extractor.*` and `model.linear.*`
    export.json         the input, the difference

Any detector fits, however it was trained: CLIP, DINOv2, DINOv3 or PE-Core below a linear head.
GenD's class builds the base by its name, with positions of the base's size.
"""

import dataclasses
from typing import Any

import numpy as np

from masm_jax import backbones, files
from masm_jax.convert import formats
from masm_jax.errors import UserError
from masm_jax.export import common
from masm_jax.export.huggingface import CONFIG, WEIGHTS, preset_of
from masm_jax.export.request import Request
from masm_jax.inference.trained import TrainedRun

_HEAD = 'model.linear'

# Preset -> the name of its base, as GenD's config has it.
BASES = {
  'clip_b32': 'openai/clip-vit-base-patch32',
  'clip_b16': 'openai/clip-vit-base-patch16',
  'clip_l14': 'openai/clip-vit-large-patch14',
  'clip_l14_336': 'openai/clip-vit-large-patch14-336',
  'dinov2_s14': 'facebook/dinov2-small',
  'dinov2_b14': 'facebook/dinov2-base',
  'dinov2_l14': 'facebook/dinov2-large',
  'dinov2_g14': 'facebook/dinov2-giant',
  'dinov2_reg_s14': 'facebook/dinov2-with-registers-small',
  'dinov2_reg_b14': 'facebook/dinov2-with-registers-base',
  'dinov2_reg_l14': 'facebook/dinov2-with-registers-large',
  'dinov2_reg_g14': 'facebook/dinov2-with-registers-giant',
  'dinov3_s16': 'facebook/dinov3-vits16-pretrain-lvd1689m',
  'dinov3_splus16': 'facebook/dinov3-vits16plus-pretrain-lvd1689m',
  'dinov3_b16': 'facebook/dinov3-vitb16-pretrain-lvd1689m',
  'dinov3_l16': 'facebook/dinov3-vitl16-pretrain-lvd1689m',
  'dinov3_hplus16': 'facebook/dinov3-vith16plus-pretrain-lvd1689m',
  'pe_core_b16': 'vit_pe_core_base_patch16_224',
  'pe_core_l14': 'vit_pe_core_large_patch14_336',
}


def write(request: Request) -> None:
  """Writes the folder, reads it back, and compares what it computes with JAX.

  Raises:
    UserError: no such run, a backbone or an image size that GenD's class cannot build, or the
      folder cannot be written.
  """
  run = common.load(request)
  preset = preset_of(run)
  if preset.name not in BASES:
    raise UserError(f'GenD has no backbone of the form of {preset.name}')
  size = backbones.get_preset(preset.name).config.image_size
  if preset.config.image_size != size:
    raise UserError(
      f'GenD gives {preset.name} images of {size} px, this detector takes'
      f' {preset.config.image_size} px'
    )
  params, published = _with_published_positions(request, run, preset)
  part = 'vision_model' if preset.name.startswith('clip_') else 'backbone'
  place = f'feature_extractor.{part}.'
  exported = backbones.export_weights(params, published)
  arrays = {
    place + name.removeprefix(preset.keys.prefix): array for name, array in exported.items()
  }
  head = run.params['head']
  arrays[f'{_HEAD}.weight'] = np.asarray(head['kernel'], np.float32).T
  arrays[f'{_HEAD}.bias'] = np.asarray(head['bias'], np.float32)
  with common.folder(request, run, 'gend') as (out, note):
    common.save(out / WEIGHTS, arrays, format='pt')
    files.write_json(
      out / CONFIG,
      {
        'architectures': ['GenD'],
        'model_type': 'GenD',
        'backbone': BASES[preset.name],
        'head': 'LinearNorm' if run.detector.normalize_features else 'linear',
      },
    )
    # By the code that reads what GenD's authors have trained.
    found = formats.gend(out)
    ours, theirs = (
      common.logits(one) for one in (run, dataclasses.replace(run, params=found.params))
    )
    note['difference'] = common.difference(ours, theirs, 'the file read back and JAX')


def _with_published_positions(
  request: Request, run: TrainedRun, preset: backbones.Backbone
) -> tuple[dict[str, Any], backbones.Backbone]:
  """The backbone's parameters with positions of the size that GenD's class has them in.

  Those were resampled for this detector, and GenD resamples them in the same way: as long as they
  were not trained they are the base's.

  Raises:
    UserError: the base weights are not at hand, or the positions were trained.
  """
  params = dict(run.params['backbone'])
  if preset.published_size is None or preset.published_size == preset.config.image_size:
    return params, preset
  path = request.base_weights or (run.config.backbone.weights if run.file is None else '')
  if not path:
    raise UserError(
      f'GenD has positions of {preset.name} for {preset.published_size} px, which are in its base'
      ' weights: give their file as --base-weights'
    )
  base = backbones.load_weights(path, preset)
  published = preset.with_image_size(preset.published_size)
  for name in preset.resamples:
    if not np.allclose(base[name], params[name], atol=1e-6):
      raise UserError(
        f'{name} was trained at {preset.config.image_size} px, or {path} is not the base: GenD has'
        f' it for {preset.published_size} px'
      )
    params[name] = backbones.load_weights(path, published)[name]
  return params, published
