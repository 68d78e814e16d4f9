import pytest

from masm_jax import backbones
from masm_jax.errors import UserError

# CLIP: Hugging Face's CLIPVisionModel. AugReg: timm's model less its 1000-class head. The others:
# timm's models without a head (DINOv3 with biases of q and v), at 224 px, 256 px for siglip_l16.
NUM_PARAMS = {
  'clip_b32': 87_456_000,
  'clip_b16': 85_799_424,
  'clip_l14': 303_179_776,
  'clip_l14_336': 303_507_456,
  'augreg_ti16': 5_717_416 - 193_000,
  'augreg_s16': 22_050_664 - 385_000,
  'augreg_b16': 86_567_656 - 769_000,
  'augreg_l16': 304_326_632 - 1_025_000,
  'demo_vit': 696_096,
  'dinov2_s14': 21_628_800,
  'dinov2_b14': 85_724_928,
  'dinov2_l14': 303_227_904,
  'dinov2_g14': 1_134_769_664,
  'dinov2_reg_s14': 21_630_336,
  'dinov2_reg_b14': 85_728_000,
  'dinov2_reg_l14': 303_232_000,
  'dinov2_reg_g14': 1_134_775_808,
  'dinov3_s16': 21_596_160,
  'dinov3_splus16': 28_692_480,
  'dinov3_b16': 85_659_648,
  'dinov3_l16': 303_128_576,
  'dinov3_hplus16': 840_591_360,
  'pe_core_b16': 92_886_528,
  'pe_core_l14': 315_774_976,
  'siglip_b16': 92_884_224,
  'siglip_l16': 315_956_224,
  'siglip_so14': 427_680_704,
}


def test_no_preset_is_untested():
  assert set(NUM_PARAMS) == set(backbones.PRESETS)


@pytest.mark.parametrize('name', NUM_PARAMS)
def test_exact_number_of_parameters(name):
  preset = backbones.get_preset(name)
  assert preset.name == name
  assert hash(preset) == hash(backbones.get_preset(name))
  assert backbones.num_params(preset.config) == NUM_PARAMS[name]


@pytest.mark.parametrize('name', NUM_PARAMS)
def test_key_table_names_every_parameter_once(name):
  preset = backbones.get_preset(name)
  rules = preset.keys.expand(preset.config.depth).values()
  targets = [target for targets, _ in rules for target in targets]
  assert sorted(targets) == sorted(backbones.param_shapes(preset.config))


def test_whole_parameter_tree_of_the_demo_backbone():
  block = {
    'ln_1/scale': (96,),
    'ln_1/bias': (96,),
    'attn/q/kernel': (96, 96),
    'attn/q/bias': (96,),
    'attn/k/kernel': (96, 96),
    'attn/k/bias': (96,),
    'attn/v/kernel': (96, 96),
    'attn/v/bias': (96,),
    'attn/out/kernel': (96, 96),
    'attn/out/bias': (96,),
    'ln_2/scale': (96,),
    'ln_2/bias': (96,),
    'mlp/fc1/kernel': (96, 384),
    'mlp/fc1/bias': (384,),
    'mlp/fc2/kernel': (384, 96),
    'mlp/fc2/bias': (96,),
  }
  expected = {
    'patch_embed/kernel': (8, 8, 3, 96),
    'patch_embed/bias': (96,),
    'cls_token': (1, 1, 96),
    'pos_embed': (1, 65, 96),
    'ln_post/scale': (96,),
    'ln_post/bias': (96,),
  }
  for i in range(6):
    expected |= {f'block_0{i}/{path}': shape for path, shape in block.items()}
  assert backbones.param_shapes(backbones.get_preset('demo_vit').config) == expected


@pytest.mark.parametrize('name', NUM_PARAMS)
def test_published_numerics(name):
  config = backbones.get_preset(name).config
  if name.startswith('clip'):
    assert (config.activation, config.norm_eps) == ('quick_gelu', 1e-5)
    assert (config.pre_norm, config.patch_bias) == (True, False)
    assert config.mean == (0.48145466, 0.4578275, 0.40821073)
    assert config.std == (0.26862954, 0.26130258, 0.27577711)
    return
  eps = 1e-5 if name.startswith(('dinov3', 'pe_')) else 1e-6
  activation = 'tanh_gelu' if name.startswith('siglip') else 'gelu'
  if name.startswith(('dinov2_g', 'dinov2_reg_g')) or 'plus' in name:
    activation = 'swiglu'
  assert (config.activation, config.norm_eps) == (activation, eps)
  is_pe = name.startswith('pe_')
  assert (config.pre_norm, config.patch_bias) == (is_pe, not is_pe)
  if name.startswith('dino'):
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
  else:
    assert config.mean == config.std == (0.5, 0.5, 0.5)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(
    UserError, match=r"unknown backbone 'vit_l': choose one of clip_b32, .*demo_vit"
  ):
    backbones.get_preset('vit_l')


def test_image_size_that_does_not_divide():
  preset = backbones.get_preset('clip_l14')
  with pytest.raises(UserError, match=r'256 px .* patches of 14 px: take 252 or 266'):
    preset.with_image_size(256)
  with pytest.raises(UserError, match=r'take 14 or 28'):
    preset.with_image_size(7)
  assert preset.with_image_size(252).config.grid == 18
