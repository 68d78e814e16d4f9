import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from masm_jax import backbones
from masm_jax.backbones import layers
from masm_jax.errors import UserError

TINY = {
  'gelu': backbones.ViTConfig(
    image_size=24,
    patch_size=8,
    width=48,
    depth=2,
    num_heads=3,
    mlp_dim=96,
    activation='gelu',
    pre_norm=False,
    patch_bias=True,
    norm_eps=1e-6,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
  ),
}
TINY['quick_gelu'] = backbones.ViTConfig(
  **vars(TINY['gelu'])
  | {'activation': 'quick_gelu', 'pre_norm': True, 'patch_bias': False, 'norm_eps': 1e-5}
)


@pytest.fixture(params=TINY)
def config(request):
  return TINY[request.param]


@pytest.fixture
def images():
  return jnp.asarray(np.random.default_rng(1).normal(size=(2, 24, 24, 3)), jnp.float32)


def _params(config):
  rng = np.random.default_rng(0)
  flat = {}
  for path, shape in backbones.param_shapes(config).items():
    scale = 0.1 if len(shape) == 1 else math.prod(shape[:-1]) ** -0.5
    flat[path] = scale * rng.normal(size=shape) + path.endswith('scale')
  flat = {path: jnp.asarray(value, jnp.float32) for path, value in flat.items()}
  return traverse_util.unflatten_dict(flat, sep='/')


def _equations(jaxpr):
  """Every equation of a jaxpr, those inside calls too."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)


def test_class_token_alone_equals_the_whole_last_block(config, images):
  model, params = backbones.ViT(config), _params(config)
  every = model.apply({'params': params}, images, method='hidden_states')
  features = model.apply({'params': params}, images)
  assert features.shape == (2, 48)
  assert [block.shape for block in every.blocks] == [(2, 10, 48)] * 2
  np.testing.assert_allclose(features, every.features, rtol=1e-6, atol=1e-6)


def test_class_token_alone_has_the_same_gradient(images):
  model, params = backbones.ViT(TINY['quick_gelu']), _params(TINY['quick_gelu'])

  def loss(params, method):
    out = model.apply({'params': params}, images, method=method)
    return jnp.sum(jnp.sin(getattr(out, 'features', out)))

  gradient = jax.grad(loss)
  alone, whole = jax.jit(lambda p: (gradient(p, '__call__'), gradient(p, 'hidden_states')))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, whole)


def test_class_token_alone_does_less_work(config, images):
  model, params = backbones.ViT(config), _params(config)

  def flops(fn):
    return jax.jit(fn).lower(params, images).compile().cost_analysis()['flops']

  alone = flops(lambda p, x: model.apply({'params': p}, x))
  whole = flops(lambda p, x: model.apply({'params': p}, x, method='hidden_states').features)
  assert alone < 0.75 * whole  # q, out and the MLP of one block in two, for 9 tokens in 10.


def test_features_do_not_depend_on_the_rest_of_the_batch(config, images):
  model, params = backbones.ViT(config), _params(config)
  both = model.apply({'params': params}, images)
  alone = model.apply({'params': params}, images[1:])
  np.testing.assert_allclose(both[1:], alone, rtol=1e-5, atol=1e-6)
  assert np.abs(np.asarray(both[0] - both[1])).max() > 0.1


def test_bfloat16_stays_near_float32(config, images):
  params = _params(config)
  exact = backbones.ViT(config).apply({'params': params}, images)
  half = backbones.ViT(config, dtype=jnp.bfloat16).apply({'params': params}, images)
  assert half.dtype == jnp.float32
  error = np.linalg.norm(half - exact) / np.linalg.norm(exact)
  assert 1e-5 < error < 0.02  # bfloat16 has 8 bits: 0.004 for each rounding.


def test_bfloat16_multiplies_in_bfloat16_and_normalises_in_float32(config, images):
  model = backbones.ViT(config, dtype=jnp.bfloat16)
  params = _params(config)
  jaxpr = jax.make_jaxpr(lambda p, x: model.apply({'params': p}, x))(params, images)
  used = {}
  for equation in _equations(jaxpr.jaxpr):
    used.setdefault(equation.primitive.name, []).append(
      {str(variable.aval.dtype) for variable in equation.invars}
    )
  # Per block: q, k, v, out, fc1, fc2 and two of the attention; one for the patches.
  assert used['dot_general'] == [{'bfloat16'}] * (8 * config.depth + 1)
  assert used['exp'] == [{'float32'}] * config.depth  # The softmax.
  norms = 2 * config.depth + 1 + config.pre_norm
  assert used['rsqrt'] == [{'float32'}] * norms


def test_gradients_reach_every_parameter_in_float32(images):
  model, params = backbones.ViT(TINY['gelu'], dtype=jnp.bfloat16), _params(TINY['gelu'])
  # The gradient of `jax.nn.dot_product_attention` in bfloat16 does not lower in strict mode.
  with jax.numpy_dtype_promotion('standard'):
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(model.apply({'params': p}, images))))
    grads = jax.jit(gradient)(params)
  for path, grad in traverse_util.flatten_dict(grads, sep='/').items():
    assert grad.dtype == jnp.float32, path
    # The softmax does not see the keys' bias: its gradient is zero but for rounding.
    assert path.endswith('k/bias') or np.abs(np.asarray(grad)).max() > 1e-3, path


def test_rematerialisation_keeps_values_and_gradients(images):
  config = TINY['gelu']

  def value_and_grad(remat):
    model = backbones.ViT(config, remat=remat)
    return jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({'params': p}, images))))

  params = _params(config)
  jaxpr = jax.make_jaxpr(value_and_grad(True))(params)
  names = [equation.primitive.name for equation in _equations(jaxpr.jaxpr)]
  assert sum(name.startswith(('remat', 'checkpoint')) for name in names) == config.depth
  plain, remat = jax.jit(lambda p: (value_and_grad(False)(p), value_and_grad(True)(p)))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, remat)


def test_dense_cls_builds_the_dense_layers_of_the_blocks_and_nothing_else(config, images):
  calls = []

  class Recorder(layers.Dense):
    @nn.compact
    def __call__(self, x):
      calls.append(('/'.join(self.path), x.shape[-1], self.features, self.dtype))
      return super().__call__(x)

  model = backbones.ViT(config, dense_cls=Recorder, dtype=jnp.bfloat16)
  jax.eval_shape(model.init, jax.random.key(0), images)
  expected = []
  for i in range(config.depth):
    expected += [
      (f'block_0{i}/attn/{name}', 48, 48, jnp.bfloat16) for name in ('q', 'k', 'v', 'out')
    ]
    expected += [(f'block_0{i}/mlp/fc1', 48, 96, jnp.bfloat16)]
    expected += [(f'block_0{i}/mlp/fc2', 96, 48, jnp.bfloat16)]
  assert calls == expected


def test_dense_cls_may_be_a_partial(config, images):
  params = _params(config)
  model = backbones.ViT(config, dense_cls=functools.partial(layers.Dense))
  np.testing.assert_allclose(
    model.apply({'params': params}, images),
    backbones.ViT(config).apply({'params': params}, images),
    rtol=1e-5, atol=1e-5,
  )  # fmt: skip


def test_a_builder_of_other_layers_is_told_from_the_one_before(config, images):
  """Flax knows a class by its fields: one block must not stand for one of other layers."""

  class Zero(layers.Dense):
    def __call__(self, x):
      return 0.0 * super().__call__(x)

  variables = {'params': _params(config)}
  plain = backbones.ViT(config).apply(variables, images)
  empty = backbones.ViT(config, dense_cls=Zero).apply(variables, images)
  assert np.abs(plain - empty).max() > 0.1
  with backbones.intercept_layers(lambda call, args, kwargs, context: call(*args, **kwargs)):
    np.testing.assert_allclose(backbones.ViT(config).apply(variables, images), plain, atol=1e-5)


@pytest.mark.parametrize('remat', [False, True])
def test_a_seed_gives_the_weights_that_it_always_gave(images, remat):
  """Runs on random weights name them by their seed alone."""
  params = backbones.ViT(TINY['gelu'], remat=remat).init(jax.random.key(0), images)['params']
  found = params['block_01']['attn']['q']['kernel'][0, :3]
  np.testing.assert_allclose(found, [-0.152340710, 0.0755364895, 0.0569128990], rtol=1e-5)


@pytest.mark.parametrize('shape', [(2, 32, 32, 3), (2, 24, 24, 1), (24, 24, 3), (2, 24, 16, 3)])
def test_images_of_another_shape(config, shape):
  with pytest.raises(UserError, match=r'takes images \[B, 24, 24, 3\], not \[2') as error:
    backbones.ViT(config).apply({'params': _params(config)}, jnp.zeros(shape))
  assert str(list(shape)) in str(error.value)


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='width 48 is not a multiple of num_heads 5'):
    backbones.ViTConfig(**vars(TINY['gelu']) | {'num_heads': 5})
