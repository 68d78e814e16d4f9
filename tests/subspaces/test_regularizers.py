"""Closed forms and sums against hand-computed values and brute-force float64 definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.subspaces import regularizers

SHAPES = {'square': (24, 24), 'tall': (40, 24), 'wide': (24, 40)}


def decomposed(shape, num_subspaces=3, rank=2, drift=0.1, seed=0):
  """A decomposed random kernel whose artifact part has moved, and all of its factors in float64."""
  rng = np.random.default_rng(seed)
  kernel = rng.normal(size=shape) / np.sqrt(shape[0])
  u, s, vt = np.linalg.svd(kernel, full_matrices=False)
  num_semantic = len(s) - num_subspaces * rank
  order = np.arange(num_semantic, len(s)).reshape(rank, num_subspaces).T
  layer = {'U_init': u[:, order].transpose(1, 0, 2), 'S_init': s[order], 'V_init': vt[order]}
  for name in 'USV':
    start = layer[f'{name}_init']
    layer[name] = start + drift * rng.normal(size=start.shape) * np.abs(start).mean()
  layer['U_sem'], layer['V_sem'] = u[:, :num_semantic], vt[:num_semantic]
  artifact = np.einsum('kdq,kq,kqf->df', layer['U_init'], layer['S_init'], layer['V_init'])
  layer['kernel_sem'], layer['energy'] = kernel - artifact, np.sum(kernel**2)
  return kernel, layer


def as_float32(layer):
  layer = {name: jnp.asarray(value, jnp.float32) for name, value in layer.items()}
  return layer | {'is_balanced': False}


def orthogonality_by_definition(layer, w_self, w_cross, w_sem):
  loss = 0.0
  bases_u = list(layer['U'])
  bases_v = [v.T for v in layer['V']]
  for bases, semantic in ((bases_u, layer['U_sem']), (bases_v, layer['V_sem'].T)):
    for q in bases:
      loss += w_self * np.sum((q.T @ q - np.eye(q.shape[1])) ** 2)
      loss += w_sem * np.sum((semantic.T @ q) ** 2)
    for a, b in itertools.combinations(bases, 2):
      loss += w_cross * np.sum((a.T @ b) ** 2)
  return loss


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize('weights', [(1, 2, 2), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, 0.5, 0.7)])
def test_orthogonality_equals_its_definition(shape, weights):
  _, layer = decomposed(shape)
  expected = orthogonality_by_definition(layer, *weights)
  assert expected > 1e-4
  names = dict(zip(('w_self', 'w_cross', 'w_sem'), weights, strict=True))
  actual = regularizers.orthogonality(as_float32(layer), **names)
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=5e-6)  # Of |U_k|^2, about 6.
  # A square side does without its semantic basis.
  sides = {'U_sem': shape[0] <= shape[1], 'V_sem': shape[1] <= shape[0]}
  short = {name: x for name, x in as_float32(layer).items() if not sides.get(name)}
  actual = regularizers.orthogonality(short, **names)
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_in_three_parts_the_reserve_is_free(shape):
  """Components that are neither semantic nor artifact may be used at no cost."""
  _, layer = decomposed(shape)
  reserve = layer['U_sem'][:, 10:12]
  layer['U_sem'], layer['V_sem'] = layer['U_sem'][:, :10], layer['V_sem'][:10]
  expected = orthogonality_by_definition(layer, 1, 2, 2)
  actual = regularizers.orthogonality(as_float32(layer))
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=5e-6)
  at_start = layer | {'U': layer['U_init'].copy(), 'V': layer['V_init']}
  at_start['U'][0] = reserve
  np.testing.assert_allclose(regularizers.orthogonality(as_float32(at_start)), 0.0, atol=1e-5)
  at_start['U'][0] = layer['U_sem'][:, :2]
  assert regularizers.orthogonality(as_float32(at_start)) == pytest.approx(2 * 2, rel=1e-4)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_balanced_factors_and_a_core_have_the_losses_of_the_bases_they_stand_for(shape):
  _, layer = decomposed(shape)
  root = np.sqrt(layer['S_init'])
  balanced = {name: x for name, x in layer.items() if name != 'S'}
  balanced |= {'U': layer['U'] * root[:, None], 'V': root[..., None] * layer['V']}
  balanced = as_float32(balanced | {'S': np.ones_like(root)})
  form = regularizers.in_orthonormal_form(balanced, is_balanced=True)
  expected = orthogonality_by_definition(layer, 1, 2, 2)
  np.testing.assert_allclose(regularizers.orthogonality(form), expected, rtol=2e-5, atol=5e-6)
  lengths = np.linalg.norm(layer['U'], axis=1) * np.linalg.norm(layer['V'], axis=2)
  np.testing.assert_allclose(form['S'], layer['S_init'] * lengths, rtol=1e-5)
  core = as_float32(layer | {'M': np.einsum('kq,qp->kqp', layer['S'], np.eye(2)) + 0.5})
  form = regularizers.in_orthonormal_form(core)
  np.testing.assert_allclose(form['S'], layer['S'] + 0.5, rtol=1e-6)
  w = layer['kernel_sem'] + np.einsum('kdq,kqp,kpf->df', layer['U'], core['M'], layer['V'])
  expected = abs(np.sum(w**2) - layer['energy']) / layer['energy']
  np.testing.assert_allclose(regularizers.energy_gap(core), expected, rtol=1e-4)


def test_the_spectral_loss_is_felt_where_it_is_relative_to_the_artifact_part():
  """A tenth more of all artifact singular values: 21 % of their energy, a thousandth of W's."""
  _, layer = decomposed(SHAPES['square'], drift=0.0)
  layer['S'] = 1.1 * layer['S_init']
  of = lambda whose: float(regularizers.energy_gap(as_float32(layer), of=whose))
  assert of('artifact') == pytest.approx(0.21, rel=1e-3)
  assert of('kernel') < 0.1 * of('artifact')


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_default_weights_give_effort_s_published_loss(shape):
  _, layer = decomposed(shape)
  u = np.concatenate([layer['U_sem'], *layer['U']], axis=1)
  v = np.concatenate([layer['V_sem'].T, *(v.T for v in layer['V'])], axis=1)
  eye = np.eye(u.shape[1])
  expected = np.sum((u.T @ u - eye) ** 2) + np.sum((v.T @ v - eye) ** 2)
  np.testing.assert_allclose(
    regularizers.orthogonality(as_float32(layer)), expected, rtol=2e-5, atol=5e-6
  )


def test_closed_form_of_the_semantic_overlap_equals_the_definition_and_its_gradient():
  _, layer = decomposed(SHAPES['square'])
  layer = as_float32(layer)
  closed = lambda u: regularizers.semantic_overlap(u, semantic=None, initial=layer['U_init'])
  direct = lambda u: regularizers.semantic_overlap(u, semantic=layer['U_sem'], initial=None)
  np.testing.assert_allclose(closed(layer['U']), direct(layer['U']), atol=5e-6)
  np.testing.assert_allclose(jax.grad(closed)(layer['U']), jax.grad(direct)(layer['U']), atol=1e-5)


def test_hand_computed_four_by_four():
  # W = diag(4, 3, 2, 1); two semantic components, two artifact subspaces of rank 1.
  eye = np.eye(4)
  layer = {
    'U_init': eye[None, :, 2:].transpose(2, 1, 0),
    'S_init': np.array([[2.0], [1.0]]),
    'V_init': eye[2:, None],
    'S': np.array([[2.0], [3.0]]),
    'kernel_sem': np.diag([4.0, 3.0, 0.0, 0.0]),
    'energy': np.array(30.0),
  }
  # U_1 = (1/2) e_0 + e_2, U_2 = e_3 + 2 e_2; V as at the start.
  layer['U'] = np.stack([[[0.5], [0], [1], [0]], [[0.0], [0], [2], [1]]])
  layer['V'] = layer['V_init']
  layer = as_float32(layer)
  # self: (1.25 - 1)^2 + (5 - 1)^2; cross: (U_1 . U_2)^2 = 4; semantic: 0.25.
  self_part, cross_part = regularizers.subspace_gram(layer['U'])
  np.testing.assert_allclose([self_part, cross_part], [0.0625 + 16.0, 4.0], rtol=1e-6)
  expected = 16.0625 + 2 * 4.0 + 2 * 0.25
  np.testing.assert_allclose(regularizers.orthogonality(layer), expected, rtol=1e-6)
  # W(theta) = diag(4, 3, 0, 0) + 2 (.5 e_0 + e_2) e_2^T + 3 (2 e_2 + e_3) e_3^T
  w = np.diag([4.0, 3.0, 2.0, 3.0])
  w[0, 2], w[2, 3] = 1.0, 6.0
  gap = np.sum(w**2) - 30.0
  assert gap == 45.0
  np.testing.assert_allclose(regularizers.energy_gap(layer), gap / 30, rtol=1e-6)
  np.testing.assert_allclose(regularizers.energy_gap(layer, relative=False), gap, rtol=1e-6)
  np.testing.assert_allclose(regularizers.singular_value_drift(layer), 4.0 / 5.0, rtol=1e-6)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize('relative', [True, False])
def test_energy_gap_equals_its_definition(shape, relative):
  kernel, layer = decomposed(shape)
  w = layer['kernel_sem'] + np.einsum('kdq,kq,kqf->df', layer['U'], layer['S'], layer['V'])
  expected = abs(np.sum(w**2) - np.sum(kernel**2)) / (np.sum(kernel**2) if relative else 1.0)
  actual = regularizers.energy_gap(as_float32(layer), relative=relative)
  np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_all_losses_are_zero_at_the_start(shape):
  _, layer = decomposed(shape, drift=0.0)
  layer = as_float32(layer)
  np.testing.assert_allclose(regularizers.orthogonality(layer), 0.0, atol=1e-5)
  assert regularizers.singular_value_drift(layer) == 0.0


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
def test_energy_gap_pulls_nowhere_at_the_start_and_to_the_start_off_it(shape):
  """At the start its slope would be the sign of a rounding error."""
  layer = as_float32(decomposed(shape, drift=0.0)[1])
  gap = lambda scale: regularizers.energy_gap(layer | {'S': layer['S'] * scale})
  assert jax.value_and_grad(gap)(1.0) == (0.0, 0.0)
  assert jax.grad(gap)(1.01) > 0
  assert jax.grad(gap)(0.99) < 0


def test_regularize_is_a_weighted_mean_over_kernels():
  layers = [as_float32(decomposed(shape, seed=i)[1]) for i, shape in enumerate(SHAPES.values())]
  trainable = {str(i): {name: layer[name] for name in 'USV'} for i, layer in enumerate(layers)}
  frozen = {str(i): {'kernel_sem': layer['kernel_sem']} for i, layer in enumerate(layers)}
  at_start = lambda layer: {
    name.removesuffix('_init'): value
    for name, value in layer.items()
    if name.endswith('_init') or name in ('U_sem', 'V_sem', 'energy')
  }
  reference = {str(i): at_start(layer) for i, layer in enumerate(layers)}
  config = regularizers.RegularizerConfig(orthogonality=0.5, spectral=3.0)
  losses = regularizers.regularize(trainable, frozen, reference, config)
  expected = np.mean([regularizers.orthogonality(layer) for layer in layers])
  np.testing.assert_allclose(losses['orthogonality'], 0.5 * expected, rtol=1e-6)
  expected = np.mean([regularizers.energy_gap(layer) for layer in layers])
  np.testing.assert_allclose(losses['spectral'], 3.0 * expected, rtol=1e-5)
  config = regularizers.RegularizerConfig(
    orthogonality=0.0, spectral=2.0, spectral_kind='singular_values'
  )
  losses = regularizers.regularize(trainable, frozen, reference, config)
  expected = np.mean([regularizers.singular_value_drift(layer) for layer in layers])
  assert set(losses) == {'spectral'}
  np.testing.assert_allclose(losses['spectral'], 2.0 * expected, rtol=1e-6)
