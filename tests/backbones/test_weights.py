import dataclasses
import hashlib
import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.numpy import save_file

from masm_jax import backbones
from masm_jax.backbones import positions as positions_lib
from masm_jax.errors import UserError


@pytest.fixture
def clip():
  """CLIP B/16's format at a size that takes no time: 2 blocks, a 3x3 grid."""
  preset = backbones.get_preset('clip_b16')
  config = dataclasses.replace(
    preset.config, image_size=48, width=32, depth=2, num_heads=2, mlp_dim=64
  )
  # Without Scenic's names, whose table is for 12 heads.
  return dataclasses.replace(preset, config=config, other_keys=preset.other_keys[:2])


@pytest.fixture
def demo():
  return backbones.get_preset('demo_vit')


def _params(preset, seed=0):
  rng = np.random.default_rng(seed)
  shapes = backbones.param_shapes(preset.config)
  flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
  return traverse_util.unflatten_dict(flat, sep='/')


def _published(preset):
  return backbones.export_weights(_params(preset), preset)


def _save(tmp_path, arrays):
  path = tmp_path / 'model.safetensors'
  save_file(arrays, path)
  return path


def _message(path, preset, **kwargs):
  with pytest.raises(UserError) as error:
    backbones.load_weights(path, preset, **kwargs)
  message = str(error.value)
  assert '\n' not in message
  return message


def _assert_same(ours, expected):
  ours = traverse_util.flatten_dict(ours, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  assert set(ours) == set(expected)
  for path, value in ours.items():
    assert value.dtype == np.float32, path
    assert value.flags.c_contiguous, path
    np.testing.assert_array_equal(value, expected[path], err_msg=path)


@pytest.mark.parametrize('name', ['clip', 'demo'])
def test_round_trip(tmp_path, request, name):
  preset = request.getfixturevalue(name)
  arrays = _published(preset)
  assert all(array.flags.c_contiguous for array in arrays.values())
  _assert_same(backbones.load_weights(_save(tmp_path, arrays), preset), _params(preset))


def test_exported_names(clip, demo):
  names = set(_published(clip))
  assert {name.split('.')[0] for name in names} == {'vision_model'}
  assert 'vision_model.encoder.layers.1.self_attn.out_proj.weight' in names
  assert len(names) == 3 + 2 * 2 + 2 * 16  # Embeddings, outer norms, two blocks.
  published = _published(demo)
  assert published['blocks.5.attn.qkv.weight'].shape == (288, 96)
  assert published['patch_embed.proj.weight'].shape == (96, 3, 8, 8)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_on_disk_become_float32(tmp_path, demo, dtype):
  arrays = {name: array.astype(dtype) for name, array in _published(demo).items()}
  params = backbones.load_weights(_save(tmp_path, arrays), demo)
  rounded = {name: array.astype(np.float32) for name, array in arrays.items()}
  folder = tmp_path / 'rounded'
  folder.mkdir()
  _assert_same(params, backbones.load_weights(_save(folder, rounded), demo))


def test_loaded_parameters_run(tmp_path, clip):
  params = backbones.load_weights(_save(tmp_path, _published(clip)), clip)
  features = clip.config.build().apply({'params': params}, jnp.ones((1, 48, 48, 3)))
  assert features.shape == (1, 32)
  assert np.isfinite(features).all()


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize(('side', 'grid'), [(14, 16), (37, 16), (16, 24), (7, 7), (3, 8), (1, 4)])
def test_positions_are_resampled_as_torch_does(side, grid, antialias):
  positions = np.random.default_rng(0).normal(size=(1, 1 + side * side, 6)).astype(np.float32)
  table = torch.from_numpy(positions[0, 1:].reshape(1, side, side, 6)).permute(0, 3, 1, 2)
  expected = torch.nn.functional.interpolate(
    table, size=(grid, grid), mode='bicubic', align_corners=False, antialias=antialias
  )
  ours = positions_lib.resample_positions(positions, grid, antialias=antialias)
  assert ours.dtype == np.float32
  np.testing.assert_array_equal(ours[:, 0], positions[:, 0])
  expected = expected.permute(0, 2, 3, 1).reshape(1, grid * grid, 6).numpy()
  np.testing.assert_allclose(ours[:, 1:], expected, atol=1e-5)


def test_positions_without_a_class_token():
  positions = np.random.default_rng(0).normal(size=(1, 17, 6)).astype(np.float32)
  np.testing.assert_array_equal(
    positions_lib.resample_positions(positions[:, 1:], 3, prefix=0),
    positions_lib.resample_positions(positions, 3)[:, 1:],
  )


@pytest.mark.parametrize('name', ['clip', 'demo'])
def test_another_image_size_resamples_the_positions_alone(tmp_path, request, name):
  preset = request.getfixturevalue(name)
  path = _save(tmp_path, _published(preset))
  size = 2 * preset.config.image_size
  params = backbones.load_weights(path, preset, image_size=size)
  resized = preset.with_image_size(size)
  expected = _params(preset)
  expected['pos_embed'] = positions_lib.resample_positions(
    expected['pos_embed'], resized.config.grid
  )
  _assert_same(params, expected)
  _assert_same(backbones.load_weights(path, resized), expected)
  features = resized.config.build().apply({'params': params}, jnp.ones((1, size, size, 3)))
  assert features.shape == (1, preset.config.width)
  # And back out, at the new size.
  assert (
    backbones.export_weights(params, resized)[
      'pos_embed' if name == 'demo' else 'vision_model.embeddings.position_embedding.weight'
    ].shape[-2]
    == 1 + resized.config.grid**2
  )


def test_image_size_that_does_not_divide(tmp_path, demo):
  assert 'take 64 or 72' in _message(_save(tmp_path, _published(demo)), demo, image_size=70)


def test_hash(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'weights')
  assert backbones.weights_hash(path) == hashlib.sha256(b'weights').hexdigest()


def test_missing_file_says_what_to_download(tmp_path):
  preset = backbones.get_preset('clip_l14')
  message = _message(tmp_path / 'none.safetensors', preset)
  assert message.startswith(f'the weights of clip_l14 are not at {tmp_path}/none.safetensors: ')
  assert (
    'download model.safetensors from https://huggingface.co/openai/clip-vit-large-patch14 '
    in message
  )
  assert message.endswith('then set config.backbone.weights to the file')
  preset = backbones.get_preset('augreg_s16')
  for path in ('', None):
    message = _message(path, preset)
    assert message.startswith('no weights are given for the backbone augreg_s16')
    assert 'https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k' in message
  assert 'is a folder' in _message(tmp_path, preset)


@pytest.mark.parametrize(
  ('content', 'why'),
  [
    (b'', 'is not a safetensors file'),
    (b'PK\x03\x04' + b'\x00' * 100, 'is not a safetensors file'),
    (b'<!DOCTYPE html><html></html>', 'is not a safetensors file'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', "is Git LFS's pointer"),
  ],
)
def test_files_of_another_kind(tmp_path, demo, content, why):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(content)
  message = _message(path, demo)
  assert message.startswith(f'{path} {why}')
  assert demo.source in message


def test_truncated_file(tmp_path, demo):
  path = _save(tmp_path, _published(demo))
  whole = path.read_bytes()
  for size in (20, 5000, len(whole) - 1):
    path.write_bytes(whole[:size])
    message = _message(path, demo)
    assert f'is a truncated or damaged safetensors file ({size:,} bytes' in message


def test_all_problems_are_listed_at_once(tmp_path, clip):
  arrays = _published(clip)
  del arrays['vision_model.pre_layrnorm.bias']
  del arrays['vision_model.encoder.layers.1.mlp.fc2.bias']
  arrays['vision_model.encoder.layers.2.mlp.fc2.bias'] = np.zeros(32, np.float32)
  arrays['vision_model.head.weight'] = np.zeros((2, 32), np.float32)
  for i in range(2):
    arrays[f'vision_model.encoder.layers.{i}.mlp.fc1.weight'] = np.zeros((32, 64), np.float32)
  arrays['vision_model.post_layernorm.weight'] = np.zeros(31, np.float32)
  arrays['vision_model.post_layernorm.bias'] = np.zeros(32, np.int64)
  arrays['vision_model.embeddings.position_embedding.weight'] = np.zeros((12, 32), np.float32)
  arrays['text_model.final_layer_norm.weight'] = np.zeros(8, np.float32)
  path = _save(tmp_path, arrays)
  message = _message(path, clip)
  start, _, listing = message.partition('): ')
  assert start.startswith(
    f'{path} does not fit the backbone clip_b16 (to get its weights, download'
  )
  assert sorted(listing.split('; ')) == sorted(
    [
      'pre_layrnorm.bias is missing',
      'encoder.layers.1.mlp.fc2.bias is missing',
      'encoder.layers.2.mlp.fc2.bias is not part of the model',
      'head.weight is not part of the model',
      'encoder.layers.{0-1}.mlp.fc1.weight is [32, 64], not [64, 32]',
      'post_layernorm.weight is [31], not [32]',
      'vision_model.post_layernorm.bias is of type I64, not a float of 16 bits or more',
      'embeddings.position_embedding.weight is [12, 32], not [10, 32]',
    ]
  )


def test_name_with_and_without_prefix(tmp_path, clip):
  arrays = _published(clip)
  arrays['pre_layrnorm.bias'] = arrays['vision_model.pre_layrnorm.bias']
  message = _message(_save(tmp_path, arrays), clip)
  assert message.endswith(
    'vision_model.pre_layrnorm.bias is there twice, with and without its prefix'
  )


def test_values_that_are_not_finite(tmp_path, demo):
  arrays = _published(demo)
  arrays['blocks.3.mlp.fc1.bias'][5] = np.nan
  arrays['norm.weight'][0] = np.inf
  message = _message(_save(tmp_path, arrays), demo)
  assert 'does not hold usable weights' in message
  assert 'blocks.3.mlp.fc1.bias holds values that are not finite' in message
  assert 'norm.weight holds values that are not finite' in message


def test_file_of_another_preset_names_that_preset(tmp_path, demo):
  path = _save(tmp_path, _published(demo))
  for name in ('augreg_ti16', 'clip_b32'):
    assert _message(path, backbones.get_preset(name)) == (
      f'{path} does not fit the backbone {name}: it is a file of demo_vit; set '
      'config.backbone.name to that, or give the other file'
    )


def test_real_vit_ti_under_a_wrong_preset(shared_data):
  """Its synthetic twin is `test_file_of_another_preset_names_that_preset`."""
  path = shared_data / 'weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'
  message = _message(path, backbones.get_preset('augreg_s16'))
  assert 'does not fit the backbone augreg_s16: it is a file of augreg_ti16;' in message


def test_block_numbers_are_listed_as_ranges(tmp_path, demo):
  arrays = _published(demo)
  for i in (0, 1, 2, 4):
    del arrays[f'blocks.{i}.attn.qkv.weight']
  del arrays['blocks.5.norm1.bias']
  for i in (11, 10, 9):
    arrays[f'blocks.{i}.norm2.bias'] = np.zeros(96, np.float32)
  listing = _message(_save(tmp_path, arrays), demo).partition('): ')[2]
  assert sorted(listing.split('; ')) == [
    'blocks.5.norm1.bias is missing',
    'blocks.{0-2,4}.attn.qkv.weight is missing',
    'blocks.{9-11}.norm2.bias is not part of the model',
  ]


def test_export_refuses_parameters_of_another_model(demo):
  params = _params(demo)
  del params['block_02']['attn']['q']['bias']
  params['head'] = {'kernel': np.zeros((96, 2), np.float32)}
  params['ln_post']['scale'] = np.zeros(95, np.float32)
  with pytest.raises(UserError) as error:
    backbones.export_weights(params, demo)
  assert str(error.value) == (
    'these are no parameters of demo_vit: block_02/attn/q/bias is missing; head/kernel is not part '
    'of the model; ln_post/scale is [95], not [96]'
  )


def test_exported_arrays_are_all_there(demo):
  total = sum(math.prod(array.shape) for array in _published(demo).values())
  assert total == backbones.num_params(demo.config)
