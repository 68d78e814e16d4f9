"""A family of its own kind, in this file alone: no class token, no positions, attention pooling.

Everything else must take it as it is: loading and exporting, the detector, decomposition, masks,
training, merging.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import common
from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.backbones import backbone, layers, presets
from masm_jax.inference import steps

WIDTH, DEPTH = 24, 2


@dataclasses.dataclass(frozen=True)
class PoolingConfig:
  """Shape of a transformer whose feature is read by a latent query."""

  image_size: int = 16
  patch_size: int = 8
  depth: int = DEPTH
  mean: tuple[float, float, float] = (0.4,) * 3
  std: tuple[float, float, float] = (0.2,) * 3

  def build(self, *, dense_cls=layers.Dense, dtype=jnp.float32, remat=False):
    del remat
    return PoolingTransformer(self, dense_cls, dtype)


class PoolingTransformer(nn.Module):
  """Patches -> blocks of attention -> one learned query over all tokens."""

  config: PoolingConfig
  dense_cls: layers.DenseCls
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images):
    config = self.config
    x = layers.PatchEmbed(WIDTH, config.patch_size, use_bias=True, dtype=self.dtype, name='embed')(
      images
    )
    batch_size = x.shape[0]
    for i in range(config.depth):
      y = _Block(self.dense_cls, self.dtype, name=f'block_{i:02d}')(
        x.reshape(-1, WIDTH), batch_size
      )
      x = x + y.reshape(x.shape)
    query = self.param('query', nn.initializers.normal(0.02), (WIDTH,), jnp.float32)
    weights = nn.softmax(jnp.einsum('btd,d->bt', x.astype(jnp.float32), query), axis=-1)
    return jnp.einsum('bt,btd->bd', weights, x.astype(jnp.float32))


class _Block(nn.Module):
  dense_cls: layers.DenseCls
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, batch_size):
    return layers.Attention(
      num_heads=3, cls_query=False, dense_cls=self.dense_cls, dtype=self.dtype, name='attn'
    )(x, batch_size)


_LINEARS = {'query': 'q', 'key': 'k', 'value': 'v', 'proj': 'out'}
PRESET = backbone.Backbone(
  name='pooling',
  config=PoolingConfig(),
  keys=backbone.KeyTable(
    rules={
      'embed.weight': (('embed/kernel',), backbone.CONV),
      'embed.bias': (('embed/bias',), backbone.IDENTITY),
      'pool.query': (('query',), backbone.IDENTITY),
      **{
        source: rule
        for published, ours in _LINEARS.items()
        for source, rule in backbone.linear_rules(
          f'layers.{{}}.{published}', f'block_{{}}/attn/{ours}'
        ).items()
      },
    }
  ),
  source='run this test',
)


@pytest.fixture
def weights(tmp_path, monkeypatch):
  """A file in the family's published names; the preset stands among the others."""
  monkeypatch.setitem(presets.PRESETS, PRESET.name, PRESET)
  module = PRESET.config.build()
  params = module.init(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))['params']
  path = tmp_path / 'pooling.safetensors'
  safetensors.numpy.save_file(backbones.export_weights(params, PRESET), path)
  return path, params


def test_its_weights_are_read_back_at_any_image_size(weights):
  path, params = weights
  for size in (16, 32):
    loaded = backbones.load_weights(path, PRESET, size)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
  features = (
    PRESET.with_image_size(32).config.build().apply({'params': params}, jnp.ones((2, 32, 32, 3)))
  )
  assert features.shape == (2, WIDTH)


def test_a_run_names_it_like_any_other(weights):
  path, params = weights
  config = common.get_config()
  config.update_from_flattened_dict({'backbone.name': 'pooling', 'backbone.weights': str(path)})
  preset, detector_config = detector_lib.from_config(config)
  loaded, _ = detector_lib.load_params(
    preset, config.backbone.weights, detector_config, jax.random.key(0)
  )
  assert detector_config.backbone.mean == (0.4,) * 3
  jax.tree.map(np.testing.assert_array_equal, loaded['backbone'], params)


@pytest.mark.parametrize('method', ['masm', 'lora', 'fmsd', 'full'])
def test_every_kind_of_method_trains_it_and_merges(tiny_run, method, standard_promotion):
  fields = {'subspace.targets': 'attention'} if method in ('masm', 'fmsd') else {}
  run = tiny_run(method, backbone=PoolingConfig(), **fields)
  before = jax.tree.map(np.array, run.trainable)
  for seed in range(3):
    run.step(seed)
  after = tree.flatten(jax.tree.map(np.array, run.state.trainable))
  moved = {path for path, leaf in tree.flatten(before).items() if (leaf != after[path]).any()}
  assert {tree.block_of(path) for path in moved} >= {'block_01', None}
  merged = steps.jit_merge(run.method, run.mesh, run.state.trainable, run.frozen)(
    run.state.trainable, run.frozen
  )
  images = run.batch(7)['image']
  plain = detector_lib.Detector(run.detector_config).apply({'params': merged}, images)
  adapted = detector_lib.Detector(run.detector_config, dense_cls=run.method.dense_cls).apply(
    {'params': tree.combine(run.state.trainable, run.frozen)}, images
  )
  np.testing.assert_allclose(adapted.logits, plain.logits, atol=2e-5)
