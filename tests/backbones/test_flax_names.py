"""Checkpoints of vision_transformer, big_vision and Scenic: parity with flax's own layers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util

from masm_jax import backbones, plain_files
from masm_jax.backbones import flax_names
from masm_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('standard_promotion')

WIDTH, HEADS, GRID, PATCH = 32, 2, 3, 4
SIZE = GRID * PATCH


def _small(name):
  preset = backbones.get_preset(name)
  config = dataclasses.replace(
    preset.config, image_size=SIZE, patch_size=PATCH, width=WIDTH, depth=2, num_heads=HEADS,
    mlp_dim=4 * WIDTH,
  )  # fmt: skip
  if name.startswith('clip'):
    keys = (flax_names.scenic_clip_keys(HEADS),)
  else:
    keys = flax_names.vit_keys(HEADS)
  return dataclasses.replace(preset, config=config, other_keys=keys)


class _ViT(nn.Module):
  """A ViT of flax's layers, named as the kind has it."""

  kind: str

  @nn.compact
  def __call__(self, x):
    is_clip = self.kind == 'scenic_clip'
    attention, norm, mlp = (1, 2, 3) if self.kind == 'vision_transformer' else (0, 1, 0)
    prefix = 'visual/transformer/resblocks.{}/' if is_clip else 'Transformer/encoderblock_{}/'
    names = (
      ('ln_1', 'attn', 'ln_2', 'mlp/c_fc', 'mlp/c_proj')
      if is_clip
      else (
        'LayerNorm_0',
        f'MultiHeadDotProductAttention_{attention}',
        f'LayerNorm_{norm}',
        f'MlpBlock_{mlp}/Dense_0',
        f'MlpBlock_{mlp}/Dense_1',
      )
    )
    act = (lambda y: y * jax.nn.sigmoid(1.702 * y)) if is_clip else (lambda y: nn.gelu(y, False))
    layer_norm = lambda name: nn.LayerNorm(epsilon=1e-5 if is_clip else 1e-6, name=name)
    conv = 'visual/conv1' if is_clip else 'embedding'
    x = nn.Conv(WIDTH, (PATCH, PATCH), (PATCH, PATCH), use_bias=not is_clip, name=conv)(x)
    x = x.reshape(x.shape[0], -1, WIDTH)
    normal = nn.initializers.normal(0.5)
    if is_clip:
      cls = self.param('visual/class_embedding', normal, (WIDTH,))[None, None]
      positions = self.param('visual/positional_embedding', normal, (1 + GRID**2, WIDTH))[None]
    else:
      place = '' if self.kind == 'big_vision' else 'Transformer/posembed_input/'
      cls = self.param('cls', normal, (1, 1, WIDTH))
      positions = self.param(f'{place}pos_embedding', normal, (1, 1 + GRID**2, WIDTH))
    x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1) + positions
    if is_clip:
      x = layer_norm('visual/ln_pre')(x)
    for i in range(2):
      first, attn, second, up, down = (prefix.format(i) + name for name in names)
      x = x + nn.MultiHeadDotProductAttention(HEADS, name=attn)(layer_norm(first)(x))
      y = nn.Dense(4 * WIDTH, name=up)(layer_norm(second)(x))
      x = x + nn.Dense(WIDTH, name=down)(act(y))
    return layer_norm('visual/ln_post' if is_clip else 'Transformer/encoder_norm')(x[:, 0])


def _random(kind):
  model = _ViT(kind)
  images = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32),
    jax.jit(model.init)(jax.random.key(0), images)['params'],
  )
  return params, images, jax.jit(model.apply)({'params': params}, images)


@pytest.mark.parametrize(
  ('kind', 'name', 'container', 'suffix'),
  [
    ('vision_transformer', 'augreg_b16', '', '.npz'),
    ('big_vision', 'augreg_b16', 'params/', '.npz'),
    ('scenic', 'augreg_b16', 'optimizer/target/', '.msgpack'),
    ('scenic_clip', 'clip_b16', 'params/', '.msgpack'),
  ],
)
def test_parity(kind, name, container, suffix, tmp_path):
  params, images, features = _random(kind)
  flat = {container + path: x for path, x in traverse_util.flatten_dict(params, sep='/').items()}
  if container:  # What else a checkpoint holds.
    flat['opt_state/count'] = np.asarray(3)
  flat[f'{container}{"visual/proj" if kind == "scenic_clip" else "head"}/kernel'] = np.ones((32, 5))
  path = tmp_path / f'checkpoint{suffix}'
  if suffix == '.npz':
    np.savez(path, **flat)
  else:
    nested = traverse_util.unflatten_dict(flat, sep='/')
    path.write_bytes(serialization.msgpack_serialize(nested))
  preset = _small(name)
  loaded = backbones.load_weights(path, preset)
  ours = jax.jit(preset.config.build().apply)({'params': loaded}, images)
  error = np.abs(np.asarray(ours) - np.asarray(features)).max() / np.abs(features).max()
  assert error < 1e-5
  resampled = backbones.load_weights(path, preset, 2 * SIZE)
  assert resampled['pos_embed'].shape == (1, 1 + 4 * GRID**2, WIDTH)


def test_problems_are_listed(tmp_path):
  params, *_ = _random('vision_transformer')
  flat = traverse_util.flatten_dict(params, sep='/')
  del flat['Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias']
  flat['Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel'] = np.ones((2, 2))
  np.savez(tmp_path / 'w.npz', **flat)
  with pytest.raises(UserError) as error:
    backbones.load_weights(tmp_path / 'w.npz', _small('augreg_b16'))
  assert str(error.value).partition('): ')[2].split('; ') == [
    'Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias is missing',
    'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel is [2, 2], not'
    ' [32, 2, 16]',
  ]


@pytest.mark.parametrize('suffix', flax_names.SUFFIXES)
def test_damaged_files_are_one_line(suffix, tmp_path):
  path = tmp_path / f'w{suffix}'
  path.write_bytes(b'PK\x03\x04 damaged')
  with pytest.raises(UserError, match=rf'is no whole \{suffix} file of Flax'):
    backbones.load_weights(path, backbones.get_preset('augreg_b16'))


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
  np.savez_compressed(tmp_path / 'w.npz', x=np.zeros(2**18, np.float32))
  flax_names.read_arrays(tmp_path / 'w.npz')
  monkeypatch.setattr(plain_files, '_UNPACKED_BYTES', 0)
  with pytest.raises(UserError, match=r'its 1,\d+ bytes would be 1,048,704 unpacked'):
    flax_names.read_arrays(tmp_path / 'w.npz')


def test_pickles_are_not_read(tmp_path):
  np.savez(tmp_path / 'w.npz', x=np.array([{'a': 1}], dtype=object))
  with pytest.raises(UserError, match=r'is no whole \.npz file of Flax'):
    backbones.load_weights(tmp_path / 'w.npz', backbones.get_preset('augreg_b16'))
