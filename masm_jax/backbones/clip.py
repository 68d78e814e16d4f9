"""CLIP's vision towers (arXiv 2103.00020).

In the names of Hugging Face's `CLIPVisionModel`; those of OpenAI, OpenCLIP, timm and Scenic are
read, too.
"""

from masm_jax.backbones import backbone, flax_names, positions, timm_names, vit

_BLOCK = 'encoder.layers.{}.'

KEYS = backbone.KeyTable(
  prefix='vision_model.',
  rules={
    'embeddings.class_embedding': (('cls_token',), backbone.VECTOR_TOKEN),
    'embeddings.patch_embedding.weight': (('patch_embed/kernel',), backbone.CONV),
    'embeddings.position_embedding.weight': (('pos_embed',), backbone.EMBEDDING),
    **backbone.norm_rules('pre_layrnorm', 'ln_pre'),  # The published name is misspelt.
    **backbone.norm_rules(_BLOCK + 'layer_norm1', 'block_{}/ln_1'),
    **backbone.linear_rules(_BLOCK + 'self_attn.q_proj', 'block_{}/attn/q'),
    **backbone.linear_rules(_BLOCK + 'self_attn.k_proj', 'block_{}/attn/k'),
    **backbone.linear_rules(_BLOCK + 'self_attn.v_proj', 'block_{}/attn/v'),
    **backbone.linear_rules(_BLOCK + 'self_attn.out_proj', 'block_{}/attn/out'),
    **backbone.norm_rules(_BLOCK + 'layer_norm2', 'block_{}/ln_2'),
    **backbone.linear_rules(_BLOCK + 'mlp.fc1', 'block_{}/mlp/fc1'),
    **backbone.linear_rules(_BLOCK + 'mlp.fc2', 'block_{}/mlp/fc2'),
    **backbone.norm_rules('post_layernorm', 'ln_post'),
  },
  ignored=(
    r'text_model\..+',
    r'(text|visual)_projection\.weight',
    r'logit_scale',
    r'embeddings\.position_ids',  # A buffer that older transformers saved.
  ),
)

_RESBLOCK = 'visual.transformer.resblocks.{}.'


def openai_rules(*, class_token: bool = True) -> backbone.Rules:
  """The vision tower in OpenAI's names, which OpenCLIP and Perception Encoder have, too."""
  rules = {
    'visual.conv1.weight': (('patch_embed/kernel',), backbone.CONV),
    'visual.positional_embedding': (('pos_embed',), backbone.EMBEDDING),
    **backbone.norm_rules('visual.ln_pre', 'ln_pre'),
    **backbone.norm_rules(_RESBLOCK + 'ln_1', 'block_{}/ln_1'),
    **backbone.fused_rules(
      (_RESBLOCK + 'attn.in_proj_weight', _RESBLOCK + 'attn.in_proj_bias'), 'block_{}/attn'
    ),
    **backbone.linear_rules(_RESBLOCK + 'attn.out_proj', 'block_{}/attn/out'),
    **backbone.norm_rules(_RESBLOCK + 'ln_2', 'block_{}/ln_2'),
    **backbone.linear_rules(_RESBLOCK + 'mlp.c_fc', 'block_{}/mlp/fc1'),
    **backbone.linear_rules(_RESBLOCK + 'mlp.c_proj', 'block_{}/mlp/fc2'),
    **backbone.norm_rules('visual.ln_post', 'ln_post'),
  }
  if class_token:
    rules['visual.class_embedding'] = (('cls_token',), backbone.VECTOR_TOKEN)
  return rules


# The text tower, and what the vision tower is projected by.
OPENAI_IGNORED = (
  r'(transformer|token_embedding|ln_final|text)\..+',
  r'positional_embedding|text_projection|logit_scale|logit_bias|attn_mask|visual\.proj',
  r'input_resolution|context_length|vocab_size',
)
_OPENAI = backbone.KeyTable(rules=openai_rules(), ignored=OPENAI_IGNORED)
_TIMM = backbone.KeyTable(
  rules=timm_names.rules(patch_bias=False, pre_norm=True), ignored=timm_names.IGNORED
)


def _preset(
  name: str, repo: str, image_size: int, patch_size: int, width: int, depth: int, num_heads: int
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
      activation='quick_gelu',
      pre_norm=True,
      patch_bias=False,
      norm_eps=1e-5,
      mean=(0.48145466, 0.4578275, 0.40821073),
      std=(0.26862954, 0.26130258, 0.27577711),
    ),
    keys=KEYS,
    source=(
      f'download model.safetensors from https://huggingface.co/{repo} (where only '
      f"pytorch_model.bin is offered, transformers' CLIPVisionModel.from_pretrained('{repo}')"
      ".save_pretrained('FOLDER') writes one)"
    ),
    resamples={'pos_embed': positions.WITH_CLASS_TOKEN},
    other_keys=(_OPENAI, _TIMM, flax_names.scenic_clip_keys(num_heads)),
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for preset in (
    _preset('clip_b32', 'openai/clip-vit-base-patch32', 224, 32, 768, 12, 12),
    _preset('clip_b16', 'openai/clip-vit-base-patch16', 224, 16, 768, 12, 12),
    _preset('clip_l14', 'openai/clip-vit-large-patch14', 224, 14, 1024, 24, 16),
    _preset('clip_l14_336', 'openai/clip-vit-large-patch14-336', 336, 14, 1024, 24, 16),
  )
}
