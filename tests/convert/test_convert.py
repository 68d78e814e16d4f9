"""Detectors of other programs: files of their layout with random weights, and their own logits."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import masm_jax
from masm_jax import backbones, tree
from masm_jax.backbones import presets
from masm_jax.convert import formats, states
from masm_jax.convert.__main__ import main
from masm_jax.errors import UserError

FIELDS = {'width': 64, 'depth': 2, 'num_heads': 2, 'mlp_dim': 128, 'patch_size': 8}


def _preset(monkeypatch, name):
  """A small preset of the same kind, at the place of `name`."""
  preset = backbones.get_preset(name)
  config = dataclasses.replace(preset.config, image_size=32, **FIELDS)
  if config.rotary_grid:
    config = dataclasses.replace(config, rotary_grid=4)
  small = dataclasses.replace(preset, config=config, published_size=None)
  monkeypatch.setitem(presets.PRESETS, name, small)
  return small


def _sizes(config):
  return {
    'hidden_size': config.width,
    'num_hidden_layers': config.depth,
    'num_attention_heads': config.num_heads,
    'intermediate_size': config.mlp_dim,
    'image_size': config.image_size,
    'patch_size': config.patch_size,
  }


def _random(module):
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for value in module.parameters():
      value.normal_(0, value[0].numel() ** -0.5 if value.ndim > 1 else 0.3, generator=generator)
  return module.eval()


@pytest.fixture
def clip(monkeypatch):
  """A small preset of CLIP, and the whole of CLIP in transformers with random weights."""
  preset = _preset(monkeypatch, 'clip_l14')
  text = {
    'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 1, 'num_attention_heads': 2,
    'vocab_size': 99, 'pad_token_id': 1, 'bos_token_id': 2, 'eos_token_id': 3,
  }  # fmt: skip
  config = transformers.CLIPConfig(text_config=text, vision_config=_sizes(preset.config))
  return preset, _random(transformers.CLIPModel(config))


# Of large patches of colour, so that they differ from each other.
CROPS = (
  np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), np.uint8).repeat(16, 1).repeat(16, 2)
)


def _pixels(config):
  """Crops as the authors' code gives them to the model: ToTensor, Normalize."""
  scaled = torch.from_numpy(CROPS).permute(0, 3, 1, 2).float() / 255
  mean, std = (torch.tensor(x)[None, :, None, None] for x in (config.mean, config.std))
  return (scaled - mean) / std


def _with_factors(state, marker='self_attn'):
  """Effort's layout: the factors of every attention kernel, and a residual that has learned."""
  changed, folded = {}, {}
  for name, value in state.items():
    if marker not in name or not name.endswith('.weight'):
      changed[name] = folded[name] = value
      continue
    owner = name.removesuffix('.weight')
    u, s, v = torch.linalg.svd(value, full_matrices=False)
    changed |= {
      f'{owner}.weight_main': u[:, :-1] * s[:-1] @ v[:-1],
      f'{owner}.U_residual': u[:, -1:] + 0.1,
      f'{owner}.S_residual': s[-1:] + 0.5,
      f'{owner}.V_residual': v[-1:] - 0.1,
      f'{owner}.U_r': u[:, :-1], f'{owner}.S_r': s[:-1], f'{owner}.V_r': v[:-1],
    }  # fmt: skip
    part = changed[f'{owner}.U_residual'] * (s[-1:] + 0.5) @ changed[f'{owner}.V_residual']
    folded[name] = changed[f'{owner}.weight_main'] + part
  return changed, folded


def _convert(tmp_path, kind, file, *words):
  assert main([str(file), '--from', kind, '--out', str(tmp_path / 'out'), *words]) == 0
  return masm_jax.load(tmp_path / 'out', batch_size=3)


def _check(detector, log_odds):
  scores = detector.score(CROPS)
  logits = np.log(scores) - np.log1p(-scores)
  np.testing.assert_allclose(logits, log_odds.detach().numpy(), atol=1e-4)
  assert np.ptp(logits) > 2e-3


@pytest.mark.parametrize('form', ['faces', 'GenImage', 'UniversalFakeDetect'])
def test_effort(form, clip, tmp_path, capsys):
  preset, model = clip
  state, folded = _with_factors(model.vision_model.state_dict())
  model.vision_model.load_state_dict(folded)
  head = _random(torch.nn.Linear(64, 1 if form == 'UniversalFakeDetect' else 2))
  with torch.no_grad():
    logits = head(model.vision_model(_pixels(preset.config)).pooler_output)
  values = dict(head.named_parameters())
  if form == 'UniversalFakeDetect':
    whole = {
      f'model.{name}': value
      for name, value in model.state_dict().items()
      if not name.startswith('vision_model.')
    }
    whole |= {f'model.vision_model.{name}': value for name, value in state.items()}
    whole |= {f'fc.{name}': value.detach() for name, value in values.items()}
    file = {'model': whole, 'optimizer': {'state': {}}, 'total_steps': 7}
    expected = logits[:, 0]
  else:
    prefix = 'module.' if form == 'GenImage' else ''
    file = {f'{prefix}backbone.{name}': value for name, value in state.items()}
    file |= {f'{prefix}head.{name}': value.detach() for name, value in values.items()}
    file = {'state_dict': file} if form == 'GenImage' else file
    expected = logits[:, 1] - logits[:, 0]
  torch.save(file, tmp_path / 'effort.pth')
  words = ['--whole-images'] if form == 'GenImage' else []
  detector = _convert(tmp_path, 'effort', tmp_path / 'effort.pth', *words)
  _check(detector, expected)
  assert detector.facts['method'] == 'effort' and detector.file.name == 'effort'
  # U, S and V of four kernels in each of two blocks; a head of one output became one of two.
  assert detector.facts['trainable_parameters'] == 2 * 4 * (64 + 1 + 64) + 64 * 2 + 2
  crops = [str(way) for way in detector.crops]
  assert crops == (['template deepfakebench, margin 1.3, 256 px'] if form == 'faces' else [])
  assert 'effort: effort on clip_l14, converted from effort' in capsys.readouterr().out
  if form == 'faces':  # The same file again, and then another one.
    _convert(tmp_path, 'effort', tmp_path / 'effort.pth', '--name=renamed')
    before = (tmp_path / 'out' / 'detector.json').read_bytes()
    torch.save({name: value * 2 for name, value in file.items()}, tmp_path / 'effort.pth')
    words = ['--from', 'effort', '--out', str(tmp_path / 'out')]
    assert main([str(tmp_path / 'effort.pth'), *words]) == 2
    assert 'holds another detector, renamed, of another origin' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'detector.json').read_bytes() == before


@pytest.mark.parametrize('head', ['LinearNorm', 'linear'])
@pytest.mark.parametrize('base', ['clip_l14', 'dinov3_l16'])
def test_gend(base, head, clip, monkeypatch, tmp_path):
  linear = _random(torch.nn.Linear(64, 2))
  if base == 'clip_l14':
    preset, model = clip
    state = {f'vision_model.{k}': v for k, v in model.vision_model.state_dict().items()}
    state['visual_projection.weight'] = model.visual_projection.weight.detach()
    forward = model.vision_model
  else:
    preset = _preset(monkeypatch, base)
    config = transformers.DINOv3ViTConfig(**_sizes(preset.config), num_register_tokens=4)
    forward = _random(transformers.DINOv3ViTModel(config))
    state = {f'backbone.{name}': value for name, value in forward.state_dict().items()}
  with torch.no_grad():
    features = forward(_pixels(preset.config)).pooler_output
    if head == 'LinearNorm':
      features = torch.nn.functional.normalize(features, p=2, dim=1)
    logits = linear(features)
  state = {f'feature_extractor.{name}': value.contiguous() for name, value in state.items()}
  state |= {f'model.linear.{name}': value.detach() for name, value in linear.named_parameters()}
  save_file(state, tmp_path / 'model.safetensors')
  name = {'clip_l14': 'openai/clip-vit-large-patch14'}.get(base, 'facebook/dinov3-vitl16')
  (tmp_path / 'config.json').write_text(json.dumps({'backbone': name, 'head': head}))
  detector = _convert(tmp_path, 'gend', tmp_path)
  _check(detector, logits[:, 1] - logits[:, 0])
  norms = (2 * 2 + 1 + (base == 'clip_l14')) * 2 * 64
  assert detector.facts['trainable_parameters'] == norms + 64 * 2 + 2
  assert [str(way) for way in detector.crops] == ['template gend, margin 1.3, native size']


def test_gend_on_perception_encoder_is_read_in_the_names_of_timm(monkeypatch, tmp_path):
  preset = _preset(monkeypatch, 'pe_core_l14')
  rng = np.random.default_rng(0)
  shapes = backbones.param_shapes(preset.config)
  params = tree.unflatten(
    {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
  )
  state = {
    f'feature_extractor.backbone.{name}': torch.from_numpy(np.array(value))
    for name, value in backbones.export_weights(params, preset).items()
  }
  state |= {'model.linear.weight': torch.ones(2, 64), 'model.linear.bias': torch.zeros(2)}
  save_file(state, tmp_path / 'model.safetensors')
  config = {'backbone': 'vit_pe_core_large_patch14_336', 'head': 'LinearNorm'}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = formats.gend(tmp_path)
  assert found.backbone.name == 'pe_core_l14' and found.normalize_features
  jax.tree.map(np.testing.assert_array_equal, found.params['backbone'], params)


def test_deepfakebench(clip, tmp_path):
  preset, model = clip
  head = _random(torch.nn.Linear(64, 2))
  with torch.no_grad():
    logits = head(model.vision_model(_pixels(preset.config)).pooler_output)
  file = {f'backbone.{name}': value for name, value in model.vision_model.state_dict().items()}
  file |= {f'head.{name}': value.detach() for name, value in head.named_parameters()}
  torch.save(file, tmp_path / 'clip.pth')
  detector = _convert(tmp_path, 'deepfakebench', tmp_path / 'clip.pth', '--name', 'baseline')
  _check(detector, logits[:, 1] - logits[:, 0])
  assert detector.facts['method'] == 'full' and detector.file.name == 'baseline'


class _Code:
  """What runs a command where it is unpickled."""

  def __reduce__(self):
    return print, ('this must not be printed',)


@pytest.mark.parametrize(
  ('content', 'kind', 'message'),
  [
    ({'x': _Code()}, 'effort', 'is no file of tensors alone, and nothing else is read'),
    ({'epoch': 3}, 'effort', 'holds no state dict'),
    ({'x.weight': torch.zeros(2)}, 'effort', 'has no head.weight: it is another kind of detector'),
    (
      {'head.weight': torch.zeros(3, 64), 'head.bias': torch.zeros(3)},
      'deepfakebench',
      'a head has one output or two',
    ),
    (
      {'head.weight': torch.zeros(2, 64), 'head.bias': torch.zeros(2)},
      'effort',
      'has no weight_main: it is no detector of Effort',
    ),
    (
      {
        'head.weight': torch.zeros(2, 64),
        'head.bias': torch.zeros(2),
        'a.weight_main': torch.zeros(4, 4),
        'b.weight_main': torch.zeros(4, 4),
      },
      'effort',
      'a lacks U_residual; b lacks U_residual',
    ),
  ],
)
def test_other_files_are_refused(content, kind, message, tmp_path, capsys):
  torch.save(content, tmp_path / 'file.pth')
  words = [str(tmp_path / 'file.pth'), '--from', kind, '--out', str(tmp_path / 'out')]
  assert main(words) == 2
  output = capsys.readouterr()
  assert message in output.err and output.err.count('\n') == 1
  assert 'must not be printed' not in output.out + output.err
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('kind', ['F8_E4M3', 'F8_E5M2'])
@pytest.mark.parametrize('source', ['deepfakebench', 'adapter'])
def test_numbers_that_numpy_lacks_are_one_line(kind, source, tmp_path, capsys):
  leaf = {'dtype': kind, 'shape': [2, 2], 'data_offsets': [0, 4]}
  header = json.dumps({'head.weight': leaf}).encode()
  path = tmp_path / 'model.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
  assert main([str(path), '--from', source, '--out', str(tmp_path / 'out')]) == 2
  assert f'head.weight is of type {kind}; store it as F32' in capsys.readouterr().err


def test_tensors_that_are_no_plain_arrays_are_one_line(tmp_path):
  path = tmp_path / 'a.pth'
  torch.save({'head.weight': torch.nn.Parameter(torch.ones(2))}, path)
  assert states.read_state(path)['head.weight'].tolist() == [1, 1]
  for tensor in (torch.zeros(2, 2).to_sparse(), torch.zeros(2, device='meta')):
    torch.save({'head.weight': tensor}, path)
    with pytest.raises(UserError, match='no plain arrays') as caught:
      states.read_state(path)
    assert '\n' not in str(caught.value)


def test_tensors_that_are_views_of_few_bytes_are_not_written_out(tmp_path):
  one = torch.zeros(1, dtype=torch.float16)
  large = torch.zeros(2**16)
  for state in ({'a': one.as_strided((2 * 10**9,), (0,))}, {f'a{i}': large for i in range(50)}):
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'its tensors claim .* bytes, the file has'):
      states.read_state(tmp_path / 'a.pth')
  shared = {name: large for name in 'abc'} | {'d': one.expand(64)}
  torch.save(shared, tmp_path / 'a.pth')
  assert states.read_state(tmp_path / 'a.pth').keys() == shared.keys()


def test_gend_on_another_clip_is_refused(tmp_path, capsys):
  config = {'backbone': 'laion/CLIP-ViT-L-14', 'head': 'linear'}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert main([str(tmp_path), '--from', 'gend', '--out', str(tmp_path / 'out')]) == 2
  assert "is not OpenAI's CLIP, whose activation the presets have" in capsys.readouterr().err


def test_every_format_is_listed():
  from masm_jax.convert import __main__

  assert set(__main__._ABOUT) == {*formats.FORMATS, 'adapter'}
