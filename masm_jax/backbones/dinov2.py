"""DINOv2 (arXiv 2304.07193), with and without registers (arXiv 2309.16588).

In the names of Hugging Face's `Dinov2Model` and `Dinov2WithRegistersModel`, as transformers writes
them and as it keeps them in memory; those of timm are read, too.
"""

from masm_jax.backbones import backbone, positions, timm_names, vit

_LAYER = 'encoder.layer.{}.'


def _rules(*, registers: bool, gated: bool, in_memory: bool) -> backbone.Rules:
  if in_memory:
    names = {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj', 'out': 'o_proj'}
  else:
    names = {
      'q': 'attention.query',
      'k': 'attention.key',
      'v': 'attention.value',
      'out': 'output.dense',
    }
  rules = {
    'embeddings.cls_token': (('cls_token',), backbone.IDENTITY),
    'embeddings.position_embeddings': (('pos_embed',), backbone.IDENTITY),
    'embeddings.patch_embeddings.projection.weight': (('patch_embed/kernel',), backbone.CONV),
    'embeddings.patch_embeddings.projection.bias': (('patch_embed/bias',), backbone.IDENTITY),
    **backbone.norm_rules(_LAYER + 'norm1', 'block_{}/ln_1'),
    **backbone.norm_rules(_LAYER + 'norm2', 'block_{}/ln_2'),
    _LAYER + 'layer_scale1.lambda1': (('block_{}/ls_1',), backbone.IDENTITY),
    _LAYER + 'layer_scale2.lambda1': (('block_{}/ls_2',), backbone.IDENTITY),
    **backbone.norm_rules('layernorm', 'ln_post'),
  }
  for part, name in names.items():
    rules |= backbone.linear_rules(f'{_LAYER}attention.{name}', f'block_{{}}/attn/{part}')
  if registers:
    rules['embeddings.register_tokens'] = (('registers',), backbone.IDENTITY)
  mlp = _LAYER + 'mlp.'
  if not gated:
    rules |= backbone.linear_rules(mlp + 'fc1', 'block_{}/mlp/fc1')
    rules |= backbone.linear_rules(mlp + 'fc2', 'block_{}/mlp/fc2')
  elif in_memory:
    rules |= backbone.linear_rules(mlp + 'gate_proj', 'block_{}/mlp/gate')
    rules |= backbone.linear_rules(mlp + 'up_proj', 'block_{}/mlp/fc1')
    rules |= backbone.linear_rules(mlp + 'down_proj', 'block_{}/mlp/fc2')
  else:
    rules |= backbone.fused_rules(
      (mlp + 'weights_in.weight', mlp + 'weights_in.bias'), 'block_{}/mlp', ('gate', 'fc1')
    )
    rules |= backbone.linear_rules(mlp + 'weights_out', 'block_{}/mlp/fc2')
  return rules


def _keys(registers: bool, gated: bool) -> tuple[backbone.KeyTable, ...]:
  ignored = (r'embeddings\.mask_token', r'classifier\.(weight|bias)')
  timm = timm_names.rules(
    # With registers timm has added the class token's position to the class token.
    positions=backbone.WITHOUT_CLASS_ROW if registers else backbone.IDENTITY,
    registers=registers,
    layer_scale='ls{}.gamma',
    gate=('fc1',) if gated else (),
  )
  return (
    *(
      backbone.KeyTable(
        rules=_rules(registers=registers, gated=gated, in_memory=in_memory),
        prefix='dinov2_with_registers.' if registers else 'dinov2.',
        ignored=ignored,
      )
      for in_memory in (False, True)
    ),
    backbone.KeyTable(rules=timm, ignored=timm_names.IGNORED),
  )


def _preset(
  size: str, word: str, width: int, depth: int, num_heads: int, mlp_dim: int, registers: bool
) -> backbone.Backbone:
  gated = size == 'g'
  keys, *other_keys = _keys(registers, gated)
  repo = f'facebook/dinov2-{"with-registers-" if registers else ""}{word}'
  return backbone.Backbone(
    name=f'dinov2_{"reg_" if registers else ""}{size}14',
    config=vit.ViTConfig(
      image_size=224,
      patch_size=14,
      width=width,
      depth=depth,
      num_heads=num_heads,
      mlp_dim=mlp_dim,
      activation='swiglu' if gated else 'gelu',
      pre_norm=False,
      patch_bias=True,
      norm_eps=1e-6,
      mean=(0.485, 0.456, 0.406),
      std=(0.229, 0.224, 0.225),
      num_registers=4 if registers else 0,
      layer_scale=True,
    ),
    keys=keys,
    other_keys=tuple(other_keys),
    source=f'download model.safetensors from https://huggingface.co/{repo}',
    resamples={
      'pos_embed': (
        positions.WITH_CLASS_TOKEN_ANTIALIASED if registers else positions.WITH_CLASS_TOKEN
      )
    },
    published_size=518,
  )


PRESETS: dict[str, backbone.Backbone] = {
  preset.name: preset
  for registers in (False, True)
  for preset in (
    _preset('s', 'small', 384, 12, 6, 1536, registers),
    _preset('b', 'base', 768, 12, 12, 3072, registers),
    _preset('l', 'large', 1024, 24, 16, 4096, registers),
    _preset('g', 'giant', 1536, 40, 24, 4096, registers),
  )
}
