"""Angles, overlaps and spectra against cases that can be computed by hand."""

import numpy as np
import pytest
import scipy.stats

from masm_jax.analysis import report, subspaces
from masm_jax.subspaces import parametrization


def columns(*vectors):
  return np.array(vectors, float).T


def test_a_rotation_by_a_known_angle():
  angle = np.deg2rad(30)
  before = columns([1, 0, 0, 0], [0, 1, 0, 0])
  after = columns([np.cos(angle), 0, np.sin(angle), 0], [0, 1, 0, 0])
  np.testing.assert_allclose(subspaces.principal_angles_deg(before, after), [0, 30], atol=1e-6)
  # Scale, sign, order and mixing of the columns change no span.
  mixed = after @ np.array([[-3.0, 1.0], [0.5, 2.0]])
  np.testing.assert_allclose(subspaces.principal_angles_deg(before, mixed), [0, 30], atol=1e-6)


def test_a_tiny_angle_is_not_rounded_away():
  after = columns([1, 1e-9, 0])
  found = subspaces.principal_angles_deg(columns([1, 0, 0]), after)
  np.testing.assert_allclose(found, [np.rad2deg(1e-9)], rtol=1e-6)


def test_orthogonal_and_equal_spans():
  eye = np.eye(4)
  np.testing.assert_allclose(subspaces.principal_angles_deg(eye[:, :2], eye[:, 2:]), [90, 90])
  np.testing.assert_allclose(subspaces.principal_angles_deg(eye[:, :2], eye[:, 1::-1]), [0, 0])


def test_overlaps_by_hand():
  eye = np.eye(4)
  half = columns([1, 0, 1, 0], [0, 1, 0, 0])  # One axis at 45 degrees, the other shared.
  found = subspaces.overlaps([eye[:, :2], 7 * eye[:, 2:], half])
  np.testing.assert_allclose(found, [[1, 0, 0.75], [0, 1, 0.25], [0.75, 0.25, 1]], atol=1e-12)
  np.testing.assert_allclose(
    subspaces.share_within([eye[:, :2], half], eye[:, :1]), [0.5, 0.25], atol=1e-12
  )


def factors(kernel, count, rank):
  """The trailing singular components, dealt out one after the other."""
  u, s, v = np.linalg.svd(kernel, full_matrices=False)
  first = len(s) - count * rank
  return {
    'U': u[:, first:].T.reshape(count, rank, -1).transpose(0, 2, 1),
    'S': s[first:].reshape(count, rank),
    'V': v[first:].reshape(count, rank, -1),
  }


@pytest.mark.parametrize('shape', [(9, 6), (6, 9), (6, 6)])
def test_factors_that_did_not_move(shape):
  kernel = np.random.default_rng(0).normal(size=shape)
  start = factors(kernel, 2, 2)
  found = subspaces.compare_factors(start, start, kernel)
  for side in ('U', 'V'):
    np.testing.assert_allclose(found[side]['angles_deg'], np.zeros((2, 2)), atol=1e-5)
    np.testing.assert_allclose(found[side]['overlap'], np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found[side]['semantic_share'], [0, 0], atol=1e-12)
  np.testing.assert_array_equal(found['S']['before'], start['S'])
  artifact = found['artifact']
  assert artifact['norm'] == pytest.approx([np.linalg.norm(start['S'])] * 2)
  assert [*artifact['outside'].values(), *artifact['semantic'].values()] == pytest.approx([0] * 4)


def test_the_artifact_part_by_its_energy():
  # W = diag(6, 5, 4, 3, 2, 1), two semantic axes of four: axes 2 and 3 are reserve.
  kernel = np.diag([6.0, 5, 4, 3, 2, 1])
  start = factors(kernel, 1, 2)
  end = {name: value.copy() for name, value in start.items()}
  end['U'][0] = columns([0, 0, 3, 0, 4, 0], [1, 0, 0, 0, 0, 0])
  end['U'][0] /= np.linalg.norm(end['U'][0], axis=0)
  end['S'] = np.array([[1.0, 0.5]])
  found = subspaces.compare_factors(start, end, kernel, semantic_rank=2)['artifact']
  assert found['norm'] == pytest.approx([np.sqrt(5), np.sqrt(1.25)])
  # Of 1.25: .36 in the reserve and .25 in the semantic axis 0, all of it within V's span.
  assert found['outside'] == pytest.approx({'U': 0.61 / 1.25, 'V': 0.0}, abs=1e-12)
  assert found['semantic'] == pytest.approx({'U': 0.25 / 1.25, 'V': 0.0}, abs=1e-12)
  assert found['effective_rank'][1] == pytest.approx(subspaces.effective_rank([1.0, 0.5]))
  two_parts = subspaces.compare_factors(start, end, kernel)['artifact']
  assert two_parts['semantic']['U'] == pytest.approx(0.61 / 1.25)


def test_a_subspace_that_turned_into_another_and_into_the_semantic_one():
  # W = diag(6, 5, 4, 3, 2, 1): two semantic axes, subspaces of axes (2, 3) and (4, 5).
  kernel = np.diag([6.0, 5, 4, 3, 2, 1])
  start = factors(kernel, 2, 2)
  end = {name: value.copy() for name, value in start.items()}
  end['U'][0] = columns([1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0])  # Half into semantic axis 0.
  end['V'][1] = columns([0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]).T  # One axis into subspace 0.
  found = subspaces.compare_factors(start, end, kernel)
  np.testing.assert_allclose(found['U']['angles_deg'], [[0, 45], [0, 0]], atol=1e-6)
  np.testing.assert_allclose(found['U']['semantic_share'], [0.25, 0], atol=1e-12)
  np.testing.assert_allclose(found['V']['angles_deg'], [[0, 0], [0, 90]], atol=1e-6)
  np.testing.assert_allclose(found['V']['overlap'], [[1, 0.5], [0.5, 1]], atol=1e-12)
  np.testing.assert_allclose(found['V']['semantic_share'], [0, 0], atol=1e-12)


def test_spectra_by_hand():
  before, after = np.diag([4.0, 3.0, 0.0]), np.diag([3.0, 3.0, 0.0])
  found = subspaces.compare_spectra(before, after, rank=1)
  np.testing.assert_allclose(found['before'], [4, 3, 0], atol=1e-12)
  np.testing.assert_allclose(found['after'], [3, 3, 0], atol=1e-12)
  assert found['change'] == pytest.approx(1 / 5)
  assert found['energy_change'] == pytest.approx(-7 / 25)
  assert found['effective_rank'][1] == pytest.approx(2)
  shares = [16 / 25, 9 / 25]
  assert found['effective_rank'][0] == pytest.approx(np.exp(scipy.stats.entropy(shares)))


def test_the_principal_subspace_that_turned():
  angle = np.deg2rad(60)
  turn = np.eye(3)
  turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  kernel = np.diag([4.0, 2.0, 1.0])
  kept = subspaces.compare_spectra(kernel, turn @ kernel, rank=1)
  assert kept['principal_kept']['U'] == pytest.approx(np.cos(angle) ** 2)
  assert kept['principal_kept']['V'] == pytest.approx(1)
  assert kept['change'] == pytest.approx(0, abs=1e-12)
  both = subspaces.compare_spectra(kernel, turn @ kernel, rank=2)  # It turned within the two.
  assert both['principal_kept']['U'] == pytest.approx(1)


def test_long_spectra_are_sampled_from_end_to_end():
  found = subspaces.compare_spectra(np.diag(np.arange(200.0, 0, -1)), np.eye(200), rank=100)
  assert len(found['index']) == 64 and found['index'][[0, -1]].tolist() == [0, 199]
  np.testing.assert_allclose(found['before'], 200 - found['index'])


@pytest.mark.parametrize('form', ['svd', 'balanced', 'core'])
def test_factors_of_every_parametrization_are_compared_alike(form):
  start = factors(np.random.default_rng(0).normal(size=(7, 6)), 2, 2)
  trained, fixed = parametrization.split_factors(start, form)
  found = report.as_svd({**trained, **fixed})
  np.testing.assert_allclose(found['S'], start['S'], rtol=1e-6)
  for name in 'UV':
    np.testing.assert_allclose(found[name], start[name], atol=1e-6)
