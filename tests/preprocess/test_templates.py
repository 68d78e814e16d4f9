import numpy as np
import pytest

from masm_jax.preprocess.templates import align, landmark_targets, similarity

SIZE = 256


def test_deepfakebench_positions():
  # Its code puts these points of a 112 px square (x moved by 8) into a crop with a margin of 1.3.
  points = np.array([
    [30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655],
    [62.7299, 92.2041],
  ])  # fmt: skip
  expected = SIZE * ((points + np.array([8, 0])) / 112 + 0.15) / 1.3
  np.testing.assert_allclose(landmark_targets('deepfakebench', SIZE, 1.3), expected, atol=0.02)
  np.testing.assert_allclose(expected[0], [96.87, 120.43], atol=0.01)


def test_gend_positions():
  points = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]])
  for margin in (1.0, 1.3, 2.0):
    expected = SIZE * (points + (margin - 1) / 2) / margin
    np.testing.assert_allclose(landmark_targets('gend', SIZE, margin), expected, atol=1e-9)
  np.testing.assert_allclose(landmark_targets('gend', SIZE, 1.3)[0], [96.4923, 120.1231], atol=1e-4)


def test_another_margin_moves_points_away_from_the_centre():
  wide = landmark_targets('deepfakebench', SIZE, 2.6) - SIZE / 2
  np.testing.assert_allclose(2 * wide, landmark_targets('deepfakebench', SIZE, 1.3) - SIZE / 2)


def _transform(angle_deg, scale, shift):
  c, s = np.cos(np.radians(angle_deg)) * scale, np.sin(np.radians(angle_deg)) * scale
  return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def _apply(matrix, points):
  return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize('angle', [0, 30, 90, -170])
def test_similarity_is_recovered(angle):
  source = np.random.default_rng(0).normal(size=(5, 2)) * 50
  matrix = _transform(angle, 1.7, (12, -30))
  np.testing.assert_allclose(similarity(source, _apply(matrix, source)), matrix, atol=1e-9)


def test_similarity_is_the_least_squares_one():
  rng = np.random.default_rng(1)
  source, target = rng.normal(size=(2, 5, 2))
  best = similarity(source, target)
  error = lambda matrix: np.square(_apply(matrix, source) - target).sum()
  for _ in range(50):
    a, b, dx, dy = rng.normal(size=4) * 1e-3
    assert error(best) <= error(best + np.array([[a, -b, dx], [b, a, dy]]))
  # numpy's own solver of the same linear problem.
  x, y = source.T
  rows = np.concatenate([
    np.stack([x, -y, np.ones(5), np.zeros(5)], 1), np.stack([y, x, np.zeros(5), np.ones(5)], 1)
  ])  # fmt: skip
  a, b, dx, dy = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
  np.testing.assert_allclose(best, [[a, -b, dx], [b, a, dy]], atol=1e-12)


def test_faces_are_never_mirrored():
  source = landmark_targets('gend', 100, 1.3)
  matrix = similarity(source * (-1, 1), source)
  assert np.linalg.det(matrix[:, :2]) > 0


def test_coinciding_landmarks():
  with pytest.raises(ValueError, match='coincide'):
    similarity(np.ones((5, 2)), landmark_targets('gend', 10, 1.3))


@pytest.mark.parametrize('template', ['deepfakebench', 'gend'])
def test_aligned_landmarks_lie_where_the_template_says(template):
  targets = landmark_targets(template, SIZE, 1.3)
  landmarks = _apply(_transform(25, 0.8, (150, 40)), targets)
  image = np.zeros((480, 640, 3), np.uint8)
  for x, y in np.rint(landmarks).astype(int):
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
  crop = align(image, landmarks, template=template, size_px=SIZE, margin=1.3)
  assert crop.shape == (SIZE, SIZE, 3) and crop.dtype == np.uint8
  rows, columns = np.mgrid[:SIZE, :SIZE]
  for x, y in targets:
    near = np.hypot(columns - x, rows - y) < 8
    weight = crop[..., 0] * near
    found = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    np.testing.assert_allclose(found, (x, y), atol=0.8)
  assert crop.sum() / 3 / 255 == pytest.approx(5 * 25 / 0.8**2, rel=0.1)  # Nothing else is bright.


def test_native_size_keeps_the_scale():
  landmarks = landmark_targets('gend', 100, 1.3) + np.array([20, 30])
  image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
  crop = align(image, landmarks, template='gend', size_px=None, margin=1.3)
  np.testing.assert_array_equal(crop, image[30:130, 20:120])
