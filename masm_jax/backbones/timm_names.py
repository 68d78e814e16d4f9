"""The names that timm gives to the parts of a vision transformer: one table for all families."""

from masm_jax.backbones import backbone

_BLOCK = 'blocks.{}.'

# The classifier or projection, and the extra layer before it in some ImageNet-21k files.
IGNORED = (r'head\.(weight|bias)', r'pre_logits\.fc\.(weight|bias)')


def rules(
  *,
  class_token: bool = True,
  positions: backbone.Transform | None = backbone.IDENTITY,
  patch_bias: bool = True,
  pre_norm: bool = False,
  registers: bool = False,
  qkv_bias: tuple[str, ...] = ('qkv',),
  layer_scale: str = '',
  gate: tuple[str, ...] = (),
  attention_pool: bool = False,
) -> backbone.Rules:
  """The rules of a model.

  Args:
    class_token: whether there is one.
    positions: the layout of `pos_embed`, None where there is none.
    patch_bias: whether the patch embedding has a bias.
    pre_norm: whether there is a LayerNorm before the blocks.
    registers: whether there are register tokens.
    qkv_bias: the biases of q, k and v: one for all, `('q', 'v')`, or none.
    layer_scale: name of LayerScale's factors, `{}` for 1 and 2; '' without.
    gate: names of gate and up where they are two layers, of both where they are one; () without.
    attention_pool: whether attention pools the feature.
  """
  table = {
    'patch_embed.proj.weight': (('patch_embed/kernel',), backbone.CONV),
    **backbone.norm_rules(_BLOCK + 'norm1', 'block_{}/ln_1'),
    _BLOCK + 'attn.qkv.weight': (
      tuple(f'block_{{}}/attn/{part}/kernel' for part in 'qkv'),
      backbone.FUSED_LINEAR,
    ),
    **backbone.linear_rules(_BLOCK + 'attn.proj', 'block_{}/attn/out'),
    **backbone.norm_rules(_BLOCK + 'norm2', 'block_{}/ln_2'),
    **backbone.linear_rules(_BLOCK + 'mlp.fc2', 'block_{}/mlp/fc2'),
    **backbone.norm_rules('norm', 'ln_post'),
  }
  if class_token:
    table['cls_token'] = (('cls_token',), backbone.IDENTITY)
  if positions:
    table['pos_embed'] = (('pos_embed',), positions)
  if patch_bias:
    table['patch_embed.proj.bias'] = (('patch_embed/bias',), backbone.IDENTITY)
  if pre_norm:
    table |= backbone.norm_rules('norm_pre', 'ln_pre')
  if registers:
    table['reg_token'] = (('registers',), backbone.IDENTITY)
  if qkv_bias == ('qkv',):
    targets = tuple(f'block_{{}}/attn/{part}/bias' for part in 'qkv')
    table[_BLOCK + 'attn.qkv.bias'] = (targets, backbone.FUSED_BIAS)
  else:
    for part in qkv_bias:
      target = f'block_{{}}/attn/{part}/bias'
      table[_BLOCK + f'attn.{part}_bias'] = ((target,), backbone.IDENTITY)
  if layer_scale:
    for i in (1, 2):
      name = _BLOCK + layer_scale.format(i)
      table[name] = ((f'block_{{}}/ls_{i}',), backbone.IDENTITY)
  if len(gate) == 2:
    table |= backbone.linear_rules(f'{_BLOCK}mlp.{gate[0]}', 'block_{}/mlp/gate')
    table |= backbone.linear_rules(f'{_BLOCK}mlp.{gate[1]}', 'block_{}/mlp/fc1')
  elif gate:
    name = f'{_BLOCK}mlp.{gate[0]}'
    table |= backbone.fused_rules((f'{name}.weight', f'{name}.bias'), 'block_{}/mlp', _GATE)
  else:
    table |= backbone.linear_rules(_BLOCK + 'mlp.fc1', 'block_{}/mlp/fc1')
  if attention_pool:
    table['attn_pool.latent'] = (('pool/latent',), backbone.IDENTITY)
    table |= backbone.linear_rules('attn_pool.q', 'pool/attn/q')
    table |= backbone.fused_rules(('attn_pool.kv.weight', 'attn_pool.kv.bias'), 'pool/attn', 'kv')
    table |= backbone.linear_rules('attn_pool.proj', 'pool/attn/out')
    table |= backbone.norm_rules('attn_pool.norm', 'pool/ln_mlp')
    table |= backbone.linear_rules('attn_pool.mlp.fc1', 'pool/mlp/fc1')
    table |= backbone.linear_rules('attn_pool.mlp.fc2', 'pool/mlp/fc2')
  return table


_GATE = ('gate', 'fc1')
