"""Perception Encoder's core models (PE-Core, arXiv 2504.13181), in timm's names.

Meta's own names are read, too. G/14 is not here: it has no class token and other positions.
"""

from masm_jax.backbones import backbone, clip, positions, timm_names, vit

KEYS = backbone.KeyTable(
  rules=timm_names.rules(patch_bias=False, pre_norm=True, attention_pool=True),
  ignored=timm_names.IGNORED,
)

_POOL = 'visual.attn_pool.'
_META = backbone.KeyTable(
  rules={
    **clip.openai_rules(),
    _POOL + 'probe': (('pool/latent',), backbone.IDENTITY),
    **backbone.fused_rules(
      (_POOL + 'attn.in_proj_weight', _POOL + 'attn.in_proj_bias'), 'pool/attn'
    ),
    **backbone.linear_rules(_POOL + 'attn.out_proj', 'pool/attn/out'),
    **backbone.norm_rules(_POOL + 'layernorm', 'pool/ln_mlp'),
    **backbone.linear_rules(_POOL + 'mlp.c_fc', 'pool/mlp/fc1'),
    **backbone.linear_rules(_POOL + 'mlp.c_proj', 'pool/mlp/fc2'),
  },
  ignored=clip.OPENAI_IGNORED,
)


def _preset(
  name: str, repo: str, size: int, patch_size: int, width: int, depth: int, num_heads: int
) -> backbone.Backbone:
  return backbone.Backbone(
    name=name,
    config=vit.ViTConfig(
      image_size=224,
      patch_size=patch_size,
      width=width,
      depth=depth,
      num_heads=num_heads,
      mlp_dim=4 * width,
      activation='gelu',
      pre_norm=True,
      patch_bias=False,
      norm_eps=1e-5,
      mean=(0.5, 0.5, 0.5),
      std=(0.5, 0.5, 0.5),
      rotary_pairs='neighbours',
      rotary_grid=size // patch_size,
      pooling='attention',
      pool_heads=8,
    ),
    keys=KEYS,
    other_keys=(_META,),
    source=f'download model.safetensors from https://huggingface.co/timm/{repo}.fb',
    resamples={'pos_embed': positions.WITH_CLASS_TOKEN_ANTIALIASED},
    published_size=size,
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for preset in (
    _preset('pe_core_b16', 'vit_pe_core_base_patch16_224', 224, 16, 768, 12, 12),
    _preset('pe_core_l14', 'vit_pe_core_large_patch14_336', 336, 14, 1024, 24, 16),
  )
}
