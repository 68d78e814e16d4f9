"""DINOv3's vision transformers (arXiv 2508.10104).

In the names of Hugging Face's `DINOv3ViTModel`, as transformers writes them and as it keeps them in
memory; those of timm are read, too. The 7B model is not here: none of the published methods fits
it on a GPU.
"""

from masm_jax.backbones import backbone, timm_names, vit


def _rules(layer: str, gated: bool) -> backbone.Rules:
  mlp = layer + 'mlp.'
  return {
    'embeddings.cls_token': (('cls_token',), backbone.IDENTITY),
    'embeddings.register_tokens': (('registers',), backbone.IDENTITY),
    'embeddings.patch_embeddings.weight': (('patch_embed/kernel',), backbone.CONV),
    'embeddings.patch_embeddings.bias': (('patch_embed/bias',), backbone.IDENTITY),
    **backbone.norm_rules(layer + 'norm1', 'block_{}/ln_1'),
    **backbone.linear_rules(layer + 'attention.q_proj', 'block_{}/attn/q'),
    **backbone.linear_rules(layer + 'attention.k_proj', 'block_{}/attn/k', bias=False),
    **backbone.linear_rules(layer + 'attention.v_proj', 'block_{}/attn/v'),
    **backbone.linear_rules(layer + 'attention.o_proj', 'block_{}/attn/out'),
    layer + 'layer_scale1.lambda1': (('block_{}/ls_1',), backbone.IDENTITY),
    **backbone.norm_rules(layer + 'norm2', 'block_{}/ln_2'),
    **(backbone.linear_rules(mlp + 'gate_proj', 'block_{}/mlp/gate') if gated else {}),
    **backbone.linear_rules(mlp + 'up_proj', 'block_{}/mlp/fc1'),
    **backbone.linear_rules(mlp + 'down_proj', 'block_{}/mlp/fc2'),
    layer + 'layer_scale2.lambda1': (('block_{}/ls_2',), backbone.IDENTITY),
    **backbone.norm_rules('norm', 'ln_post'),
  }


def _keys(gated: bool) -> tuple[backbone.KeyTable, ...]:
  transformers = (
    backbone.KeyTable(rules=_rules(layer, gated), ignored=(r'embeddings\.mask_token',))
    for layer in ('layer.{}.', 'model.layer.{}.')
  )
  # Most of timm's files leave out the biases of q and v, which are 0 there.
  timm = (
    backbone.KeyTable(
      rules=timm_names.rules(
        positions=None,
        registers=True,
        qkv_bias=biases,
        layer_scale='gamma_{}',
        gate=('fc1_g', 'fc1_x') if gated else (),
      ),
      ignored=timm_names.IGNORED,
      zeros=() if biases else (r'block_\d+/attn/[qv]/bias',),
    )
    for biases in (('q', 'v'), ())
  )
  return (*transformers, *timm)


def _preset(
  name: str, repo: str, width: int, depth: int, num_heads: int, mlp_dim: int, gated: bool = False
) -> backbone.Backbone:
  keys, *other_keys = _keys(gated)
  return backbone.Backbone(
    name=name,
    config=vit.ViTConfig(
      image_size=224,
      patch_size=16,
      width=width,
      depth=depth,
      num_heads=num_heads,
      mlp_dim=mlp_dim,
      activation='swiglu' if gated else 'gelu',
      pre_norm=False,
      patch_bias=True,
      norm_eps=1e-5,
      mean=(0.485, 0.456, 0.406),
      std=(0.229, 0.224, 0.225),
      num_registers=4,
      positions='none',
      rotary_pairs='halves',
      key_bias=False,
      layer_scale=True,
    ),
    keys=keys,
    other_keys=tuple(other_keys),
    source=(
      'accept the licence and download model.safetensors from '
      f'https://huggingface.co/facebook/dinov3-{repo}-pretrain-lvd1689m'
    ),
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for preset in (
    _preset('dinov3_s16', 'vits16', 384, 12, 6, 1536),
    _preset('dinov3_splus16', 'vits16plus', 384, 12, 6, 1536, gated=True),
    _preset('dinov3_b16', 'vitb16', 768, 12, 12, 3072),
    _preset('dinov3_l16', 'vitl16', 1024, 24, 16, 4096),
    _preset('dinov3_hplus16', 'vith16plus', 1280, 32, 20, 5120, gated=True),
  )
}
