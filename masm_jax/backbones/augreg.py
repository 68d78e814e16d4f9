"""ViTs of "How to train your ViT?" (AugReg, arXiv 2106.10270), in timm's names.

The `.npz` files of their authors, and checkpoints of such a ViT that Scenic and big_vision have
trained, are read, too. These compute GELU by its tanh approximation; timm's exact one stands here.
The demo's backbone has the same form and names at a size of its own.
"""

from masm_jax.backbones import backbone, flax_names, positions, timm_names, vit

KEYS = backbone.KeyTable(rules=timm_names.rules(), ignored=timm_names.IGNORED)


def _preset(
  name: str,
  source: str,
  *,
  width: int,
  depth: int,
  num_heads: int,
  image_size: int = 224,
  patch_size: int = 16,
) -> backbone.Backbone:
  return backbone.Backbone(
    name=name,
    config=vit.ViTConfig(
      image_size=image_size,
      patch_size=patch_size,
      width=width,
      depth=depth,
      num_heads=num_heads,
      mlp_dim=4 * width,
      activation='gelu',
      pre_norm=False,
      patch_bias=True,
      norm_eps=1e-6,
      mean=(0.5, 0.5, 0.5),
      std=(0.5, 0.5, 0.5),
    ),
    keys=KEYS,
    source=source,
    resamples={'pos_embed': positions.WITH_CLASS_TOKEN},
    other_keys=flax_names.vit_keys(num_heads),
  )


def _download(size: str) -> str:
  return (
    'download model.safetensors from '
    f'https://huggingface.co/timm/vit_{size}_patch16_224.augreg_in21k_ft_in1k'
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for preset in (
    _preset('augreg_ti16', _download('tiny'), width=192, depth=12, num_heads=3),
    _preset('augreg_s16', _download('small'), width=384, depth=12, num_heads=6),
    _preset('augreg_b16', _download('base'), width=768, depth=12, num_heads=12),
    _preset('augreg_l16', _download('large'), width=1024, depth=24, num_heads=16),
    _preset(
      'demo_vit',
      'reinstall masm_jax, which ships them as masm_jax/assets/demo_vit.safetensors, or train them '
      'with configs/demo_pretrain.py',
      width=96,
      depth=6,
      num_heads=3,
      image_size=64,
      patch_size=8,
    ),
  )
}
