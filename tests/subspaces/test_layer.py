"""The decomposition, the factored layer, and what merging gives back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.errors import UserError
from masm_jax.subspaces import decompose
from masm_jax.subspaces import layer as subspace
from masm_jax.subspaces.decompose import SubspaceConfig
from masm_jax.subspaces.parametrization import artifact_kernel

SHAPES = {'square': (24, 24), 'tall': (40, 24), 'wide': (24, 40)}
CONFIG = SubspaceConfig(num_subspaces=3, rank=2)


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  dense = lambda d_in, d_out: {
    'kernel': jnp.asarray(rng.normal(size=(d_in, d_out)) / np.sqrt(d_in), jnp.float32),
    'bias': jnp.asarray(rng.normal(size=d_out), jnp.float32),
  }
  block = lambda: {
    'attn': {name: dense(24, 24) for name in ('q', 'k', 'v', 'out')},
    'mlp': {'fc1': dense(24, 40), 'fc2': dense(40, 24)},
    'ln_1': {'scale': jnp.ones(24), 'bias': jnp.zeros(24)},
  }
  return {
    'backbone': {
      'block_00': block(),
      'block_01': block(),
      'patch_embed': {'kernel': jnp.ones((2, 2, 3, 24))},
    },
    'head': dense(24, 2),
  }


def moved(trainable, seed=1, scale=0.05):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: x + scale * jnp.asarray(rng.normal(size=x.shape), x.dtype), trainable
  )


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize('split', ['interleaved', 'contiguous'])
def test_factors_are_those_of_the_svd_and_sum_to_the_kernel(shape, split):
  kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  config = dataclasses.replace(CONFIG, split=split, keep_factors=True)
  factors = jax.tree.map(np.asarray, decompose.decompose_kernel(kernel, config))
  singular = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
  tail = singular[18:]
  expected = {
    'interleaved': [tail[[0, 3]], tail[[1, 4]], tail[[2, 5]]],
    'contiguous': [tail[:2], tail[2:4], tail[4:]],
  }[split]
  np.testing.assert_allclose(factors['S'], expected, rtol=1e-5, atol=1e-5)
  semantic = factors['U_sem'] * factors['S_sem'] @ factors['V_sem']
  artifact = np.einsum('kdq,kq,kqf->df', factors['U'], factors['S'], factors['V'])
  np.testing.assert_allclose(semantic + artifact, kernel, atol=2e-5)
  # Bases of different subspaces, and of the semantic one, are orthonormal.
  basis = np.concatenate([factors['U_sem'], *factors['U']], axis=1)
  np.testing.assert_allclose(basis.T @ basis, np.eye(24), atol=1e-5)
  assert factors['U'].shape == (3, shape[0], 2) and factors['V'].shape == (3, 2, shape[1])


def test_semantic_factors_are_kept_only_where_a_closed_form_needs_them():
  keys = {
    name: set(decompose.decompose_kernel(np.ones(shape, np.float32), CONFIG)) - set('USV')
    for name, shape in SHAPES.items()
  }
  assert keys == {'square': set(), 'tall': {'U_sem'}, 'wide': {'V_sem'}}


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_the_semantic_part_is_a_rank_or_a_share_of_the_energy(shape):
  """In three parts both semantic bases are kept; shapes do not depend on the kernel's values."""
  kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  u, s, vt = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
  parts = lambda **fields: jax.tree.map(
    np.asarray, decompose.decompose_kernel(kernel, dataclasses.replace(CONFIG, **fields))
  )
  span = lambda basis: basis @ basis.T
  ranked = parts(semantic_rank=7)
  assert ranked['U_sem'].shape == (shape[0], 7) and ranked['V_sem'].shape == (7, shape[1])
  np.testing.assert_allclose(span(ranked['U_sem']), span(u[:, :7]), atol=1e-5)
  rank = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.6)) + 1
  assert 3 < rank < 18
  shared = parts(semantic_energy=0.6)
  assert shared['U_sem'].shape == (shape[0], 18)
  np.testing.assert_allclose(span(shared['U_sem']), span(u[:, :rank]), atol=1e-5)
  np.testing.assert_allclose(span(shared['V_sem'].T), span(vt[:rank].T), atol=1e-5)
  assert not shared['U_sem'][:, rank:].any()
  for found in (ranked, shared):  # As the artifact part of two parts.
    np.testing.assert_array_equal(found['S'], parts()['S'])


@pytest.mark.parametrize('form', ['svd', 'balanced', 'core'])
def test_merge_gives_the_parameters_back(form):
  params = make_params()
  config = dataclasses.replace(CONFIG, parametrization=form)
  trainable, frozen, _ = subspace.split_params(params, config)
  merged = tree.flatten(subspace.merge_params(trainable, frozen))
  original = tree.flatten(params)
  assert merged.keys() == original.keys()
  for path, leaf in original.items():
    error = np.linalg.norm(merged[path] - leaf) / np.linalg.norm(leaf) if np.any(leaf) else 0.0
    assert error <= (1e-6 if path.endswith('kernel') and 'block' in path else 0.0), path


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
  ('forward', 'form'),
  [('factored', 'svd'), ('materialized', 'svd'), ('auto', 'svd'), ('factored', 'balanced'),
   ('factored', 'core'), ('materialized', 'core')],
)  # fmt: skip
def test_adapted_layer_equals_the_merged_one(shape, forward, form):
  rng = np.random.default_rng(0)
  d_in, d_out = shape
  params = {
    'backbone': {
      'block_00': {
        'attn': {
          'q': {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32), 'bias': jnp.ones(d_out)}
        }
      }
    }
  }
  config = dataclasses.replace(CONFIG, targets=('backbone/block_00/attn/q',), parametrization=form)
  trainable, frozen, _ = subspace.split_params(params, config)
  trained = {'svd': {'U', 'S', 'V'}, 'balanced': {'U', 'V'}, 'core': {'M'}}[form]
  assert set(trainable['backbone']['block_00']['attn']['q']) == trained
  trainable = moved(trainable)
  merged = subspace.merge_params(trainable, frozen)
  x = jnp.asarray(rng.normal(size=(2, 5, d_in)), jnp.float32)
  here = lambda t: t['backbone']['block_00']['attn']['q']
  layer = subspace.SubspaceDense(features=d_out, forward=forward)

  def adapted(trainable, x, layer=layer):
    return layer.apply({'params': here(tree.combine(trainable, frozen))}, x)

  plain = layers.Dense(features=d_out).apply({'params': here(merged)}, x)
  np.testing.assert_allclose(adapted(trainable, x), plain, rtol=1e-5, atol=1e-5)
  # The polymorphic layer is the plain one on plain parameters.
  np.testing.assert_array_equal(layer.apply({'params': here(merged)}, x), plain)

  # Gradients against autodiff through the merged layer.
  weight = jnp.asarray(rng.normal(size=plain.shape), jnp.float32)
  loss = lambda fn: lambda *args: jnp.sum(fn(*args) * weight)
  through_merge = lambda t, x: layers.Dense(features=d_out).apply(
    {'params': here(subspace.merge_params(t, frozen))}, x
  )
  actual = jax.grad(loss(adapted), argnums=(0, 1))(trainable, x)
  expected = jax.grad(loss(through_merge), argnums=(0, 1))(trainable, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected
  )
  frugal = functools.partial(adapted, layer=layer.clone(saves_memory=True))
  same = jax.grad(loss(frugal), argnums=(0, 1))(trainable, x)
  jax.tree.map(np.testing.assert_array_equal, same, actual)


@pytest.mark.parametrize('forward', ['factored', 'materialized'])
def test_bfloat16_errs_no_more_than_a_plain_dense_layer(forward):
  # The artifact part is a hundredth of the output: rounding it away would show as a bias.
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(256, 256)) / 16
  params = {
    'backbone': {
      'block_00': {
        'attn': {'q': {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.zeros(256)}}
      }
    }
  }
  config = SubspaceConfig(num_subspaces=2, rank=4, targets=('backbone/.*',))
  trainable, frozen, _ = subspace.split_params(params, config)
  trainable = moved(trainable, scale=0.02)
  here = lambda t: t['backbone']['block_00']['attn']['q']
  merged = here(subspace.merge_params(trainable, frozen))
  x = jnp.asarray(rng.normal(size=(512, 256)), jnp.float32)
  exact = np.asarray(x, np.float64) @ np.asarray(merged['kernel'], np.float64)
  artifact = exact - np.asarray(x, np.float64) @ np.asarray(here(frozen)['kernel_sem'], np.float64)
  assert 0.002 < np.linalg.norm(artifact) / np.linalg.norm(exact) < 0.1
  error = lambda y: np.linalg.norm(np.asarray(y, np.float64) - exact)
  plain = error(layers.Dense(features=256, dtype=jnp.bfloat16).apply({'params': merged}, x))
  layer = subspace.SubspaceDense(features=256, dtype=jnp.bfloat16, forward=forward)
  adapted = error(layer.apply({'params': here(tree.combine(trainable, frozen))}, x))
  assert adapted <= 1.02 * plain
  # What the artifact part adds is seen: without it the error is several times as large.
  without = layer.apply(
    {'params': {'kernel': here(frozen)['kernel_sem'], 'bias': jnp.zeros(256)}}, x
  )
  assert error(without) > 2 * plain


def test_frozen_kernels_cost_no_weight_gradient():
  """Counted: forward and x's gradient are 2 products; a third would be the frozen kernel's."""
  size, tokens, config = 128, 512, SubspaceConfig(num_subspaces=1, rank=2, targets=('backbone/.*',))
  params = {
    'backbone': {'block_00': {'attn': {'q': {'kernel': jnp.eye(size), 'bias': jnp.zeros(size)}}}}
  }
  trainable, frozen, _ = subspace.split_params(params, config)
  layer = subspace.SubspaceDense(features=size, forward='factored')

  def loss(trainable, x, frozen):
    leaves = tree.combine(trainable, frozen)['backbone']['block_00']['attn']['q']
    return jnp.sum(jnp.square(layer.apply({'params': leaves}, x)))

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  flops = step.lower(trainable, jnp.ones((tokens, size)), frozen).compile().cost_analysis()['flops']
  product = 2 * tokens * size * size
  skinny = 6 * 2 * tokens * size * 2
  assert 2 * product <= flops <= 2 * product + 1.2 * skinny + 8 * tokens * size


@pytest.mark.parametrize(
  ('num_tokens', 'd_in', 'd_out', 'components', 'form'),
  [
    (257 * 32, 1024, 1024, 32, 'rebuilt'),
    (257 * 32, 1024, 4096, 32, 'rebuilt'),
    (257 * 32, 1024, 1024, 512, 'dense'),
    (32, 1024, 1024, 32, 'factored'),  # The class token alone.
    (8, 1024, 1024, 128, 'factored'),
  ],
)
def test_auto_takes_the_form_of_fewest_operations(num_tokens, d_in, d_out, components, form):
  costs = subspace.extra_operations(num_tokens, d_in, d_out, components)
  assert min(costs, key=costs.get) == form


@pytest.mark.parametrize(
  ('form', 'num_tokens', 'rank'), [('factored', 8, 1), ('rebuilt', 512, 4), ('dense', 512, 40)]
)
def test_each_form_costs_what_is_counted(form, num_tokens, rank):
  """Compiled operations beside the formula, and none of the three is ever beaten by another."""
  size = 128
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  frozen = {'kernel_sem': draw(size, size)}
  trainable = {'U': draw(1, size, rank), 'S': draw(1, rank), 'V': draw(1, rank, size)}
  layer = subspace.SubspaceDense(features=size)

  def loss(trainable, x, frozen):
    return jnp.sum(jnp.square(layer.apply({'params': trainable | frozen}, x)))

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  lowered = step.lower(trainable, draw(num_tokens, size), frozen)
  costs = subspace.extra_operations(num_tokens, size, size, rank)
  assert min(costs, key=costs.get) == form
  counted = lowered.compile().cost_analysis()['flops'] - 2 * 2 * num_tokens * size * size
  # Beside the products: sums, squares, and (two forms) W's own additions.
  elementwise = 8 * num_tokens * size + 4 * size * size
  assert 0.9 * costs[form] <= counted <= costs[form] + elementwise


def test_cache_is_read_back_exactly_and_replaced_when_damaged(tmp_path, monkeypatch):
  params = make_params()
  config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path))
  first = subspace.split_params(params, config)
  (file,) = tmp_path.glob('*.safetensors')
  monkeypatch.setattr(decompose, 'decompose_kernel', None)  # Calling it would fail.
  second = subspace.split_params(params, config)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  monkeypatch.undo()
  file.write_bytes(file.read_bytes()[:1000])
  third = subspace.split_params(params, config)
  jax.tree.map(np.testing.assert_array_equal, first, third)
  assert {path.name for path in tmp_path.iterdir()} == {file.name, f'{file.name}.damaged'}
  whole = file.read_bytes()
  damages = ((b'"U"', b'"X"'), (b'/q/U', b'/q/W'), (b'data_offsets', b'data_offsetz'))
  for old, new in (*damages, (whole[-4:], b'\0\0\xc0\x7f')):  # At last a nan.
    file.write_bytes(whole.replace(old, new))
    jax.tree.map(np.testing.assert_array_equal, first, subspace.split_params(params, config))
    assert file.read_bytes() == whole
  # Another split, or other weights, have another entry.
  subspace.split_params(params, dataclasses.replace(config, split='contiguous'))
  subspace.split_params(make_params(seed=5), config)
  assert len(list(tmp_path.glob('*.safetensors'))) == 3


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
  (tmp_path / 'file').write_text('')
  config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path / 'file'))
  found = subspace.split_params(make_params(), config)
  jax.tree.map(np.testing.assert_array_equal, found, subspace.split_params(make_params(), CONFIG))
  assert 'the decomposition cannot be kept in' in caplog.text


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_subspaces': 4, 'rank': 6}, r'backbone/block_00/attn/q \[24, 24\] has 24 singular'),
    ({'rank': 0}, 'must be at least 1'),
    ({'semantic_rank': 19}, r'6 of them artifact: subspace\.semantic_rank = 19 is more than'),
    ({'targets': ('.*',)}, r"'\.\*' matches head, but only layers of the backbone"),
    ({'targets': ('block_([',)}, 'is no regular expression'),
    ({'targets': ('backbone/block_07/.*',)}, r"'backbone/block_07/\.\*' matches no dense layer"),
    (
      {'targets': ('backbone/patch_embed',)},
      r'patch_embed/kernel \[2, 2, 3, 24\], which is no dense',
    ),
    ({'targets': ('backbone/block_00/ln_1',)}, 'which is no dense kernel'),
  ],
)
def test_degenerate_configs_name_the_kernel(fields, message):
  with pytest.raises(UserError, match=message):
    subspace.split_params(make_params(), dataclasses.replace(CONFIG, **fields))


@pytest.mark.parametrize(('preset', 'count'), [('attention', 8), ('mlp', 4), ('all', 12)])
def test_target_presets(preset, count):
  found = decompose.find_targets(make_params(), decompose.TARGETS[preset])
  assert len(found) == count
  assert all(path.startswith('backbone/block_0') for path in found)


def test_kernels_decomposed_by_shape_are_those_decomposed_one_by_one():
  """What accelerators do, in one program per shape, against LAPACK's one after the other."""
  rng = np.random.default_rng(0)
  shapes = {'a': (12, 8), 'b': (8, 8), 'c': (12, 8), 'd': (8, 12)}
  kernels = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  done = []
  together = decompose.decompose_by_shape(kernels, CONFIG, lambda *args: done.append(args))
  assert done == [(2, 4), (3, 4), (4, 4)] and list(together) == list(shapes)
  alone = decompose.decompose(kernels, CONFIG)
  assert list(alone) == list(shapes)
  for name in kernels:
    assert together[name].keys() == alone[name].keys()
    np.testing.assert_allclose(together[name]['S'], alone[name]['S'], rtol=1e-5)
    # Singular vectors up to sign: their products.
    for factors in (together[name], alone[name]):
      assert all(isinstance(value, np.ndarray) for value in factors.values())
    one, other = (artifact_kernel(factors) for factors in (together[name], alone[name]))
    np.testing.assert_allclose(one, other, atol=1e-5)
