"""SigLIP and SigLIP 2 of a fixed size (arXiv 2303.15343, 2502.14786): one shape, two trainings.

In the names of Hugging Face's `SiglipVisionModel`; those of timm are read, too. Its NaFlex form,
which takes patches of images of any shape, is another model, and refused.
"""

from collections.abc import Mapping

from masm_jax.backbones import backbone, positions, timm_names, vit

_LAYER = 'encoder.layers.{}.'

KEYS = backbone.KeyTable(
  prefix='vision_model.',
  rules={
    'embeddings.patch_embedding.weight': (('patch_embed/kernel',), backbone.CONV),
    'embeddings.patch_embedding.bias': (('patch_embed/bias',), backbone.IDENTITY),
    'embeddings.position_embedding.weight': (('pos_embed',), backbone.EMBEDDING),
    **backbone.norm_rules(_LAYER + 'layer_norm1', 'block_{}/ln_1'),
    **backbone.linear_rules(_LAYER + 'self_attn.q_proj', 'block_{}/attn/q'),
    **backbone.linear_rules(_LAYER + 'self_attn.k_proj', 'block_{}/attn/k'),
    **backbone.linear_rules(_LAYER + 'self_attn.v_proj', 'block_{}/attn/v'),
    **backbone.linear_rules(_LAYER + 'self_attn.out_proj', 'block_{}/attn/out'),
    **backbone.norm_rules(_LAYER + 'layer_norm2', 'block_{}/ln_2'),
    **backbone.linear_rules(_LAYER + 'mlp.fc1', 'block_{}/mlp/fc1'),
    **backbone.linear_rules(_LAYER + 'mlp.fc2', 'block_{}/mlp/fc2'),
    **backbone.norm_rules('post_layernorm', 'ln_post'),
    'head.probe': (('pool/latent',), backbone.IDENTITY),
    **backbone.fused_rules(
      ('head.attention.in_proj_weight', 'head.attention.in_proj_bias'), 'pool/attn'
    ),
    **backbone.linear_rules('head.attention.out_proj', 'pool/attn/out'),
    **backbone.norm_rules('head.layernorm', 'pool/ln_mlp'),
    **backbone.linear_rules('head.mlp.fc1', 'pool/mlp/fc1'),
    **backbone.linear_rules('head.mlp.fc2', 'pool/mlp/fc2'),
  },
  ignored=(r'text_model\..+', r'logit_(scale|bias)', r'embeddings\.position_ids'),
)
_TIMM = backbone.KeyTable(
  rules=timm_names.rules(class_token=False, attention_pool=True), ignored=timm_names.IGNORED
)


def _naflex(shapes: Mapping[str, backbone.Shape]) -> str | None:
  name = 'embeddings.patch_embedding.weight'
  if len(shapes.get(name, shapes.get(KEYS.prefix + name, ()))) != 2:
    return None
  return (
    'SigLIP 2 NaFlex, whose patches come from images of any shape: it is another model, take one '
    'of a fixed size'
  )


def _preset(
  name: str,
  repo: str,
  image_size: int,
  patch_size: int,
  width: int,
  depth: int,
  num_heads: int,
  mlp_dim: int,
) -> backbone.Backbone:
  return backbone.Backbone(
    name=name,
    config=vit.ViTConfig(
      image_size=image_size,
      patch_size=patch_size,
      width=width,
      depth=depth,
      num_heads=num_heads,
      mlp_dim=mlp_dim,
      activation='tanh_gelu',
      pre_norm=False,
      patch_bias=True,
      norm_eps=1e-6,
      mean=(0.5, 0.5, 0.5),
      std=(0.5, 0.5, 0.5),
      class_token=False,
      positions='patches',
      pooling='attention',
    ),
    keys=KEYS,
    other_keys=(_TIMM,),
    source=(
      f'download model.safetensors from https://huggingface.co/google/siglip2-{repo} or '
      f'https://huggingface.co/google/siglip-{repo}'
    ),
    resamples={'pos_embed': positions.PATCHES_ALONE},
    refuses=_naflex,
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for preset in (
    _preset('siglip_b16', 'base-patch16-224', 224, 16, 768, 12, 12, 3072),
    _preset('siglip_l16', 'large-patch16-256', 256, 16, 1024, 24, 16, 4096),
    _preset('siglip_so14', 'so400m-patch14-224', 224, 14, 1152, 27, 16, 4304),
  )
}
