"""Forgeries change the inner face, nothing else, and each leaves the trace it is named after."""

import cv2
import numpy as np
import pytest

from masm_jax.data.synthetic import forgeries, people, videos
from masm_jax.data.synthetic.forgeries import Shot, forge
from masm_jax.errors import UserError


@pytest.fixture(scope='module')
def shots() -> tuple[Shot, Shot]:
  """A frame and a donor's: two identities in the same pose under the same light."""
  scene = people.draw_scene(np.random.default_rng(1))
  frame = people.draw_frames(np.random.default_rng(2), 1)[0]
  target, donor = (videos.shoot(i, scene, frame, 64, (0, i), 0) for i in (2, 5))
  return target, donor


def _forge(method: str, shots: tuple[Shot, Shot], video: int = 1, frame: int = 0) -> np.ndarray:
  rngs = np.random.default_rng(video), np.random.default_rng([video, frame])
  return forge(method, *shots, *rngs)


def _detail(image: np.ndarray, inside: np.ndarray) -> float:
  """Energy of the finest details within a mask."""
  grey = image.mean(2)
  return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))[inside].mean())


@pytest.mark.parametrize('method', forgeries.METHODS)
def test_changes_the_inner_face(method, shots):
  forged = _forge(method, shots)
  assert forged.shape == (64, 64, 3)
  assert forged.dtype == np.float32
  assert 0 <= forged.min() <= forged.max() <= 255
  change = np.abs(forged - shots[0].image).mean(2)
  assert change[shots[0].inner > 0.95].max() > 2


@pytest.mark.parametrize('method', [m for m in forgeries.METHODS if m != 'regenerate'])
def test_leaves_the_rest_to_the_bit(method, shots):
  forged = _forge(method, shots)
  outside = shots[0].inner == 0
  assert outside.mean() > 0.5
  np.testing.assert_array_equal(forged[outside], shots[0].image[outside])


def test_regenerate_changes_the_whole_image(shots):
  change = np.abs(_forge('regenerate', shots) - shots[0].image).mean(2)
  assert (change[shots[0].inner == 0] > 0.05).mean() > 0.9


@pytest.mark.parametrize('method', forgeries.METHODS)
def test_is_a_function_of_its_generators(method, shots):
  first = _forge(method, shots)
  np.testing.assert_array_equal(first, _forge(method, shots))
  if method in ('texture', 'regenerate'):
    assert np.abs(first - _forge(method, shots, frame=1)).max() > 0.5
  else:
    np.testing.assert_array_equal(first, _forge(method, shots, frame=1))
  if method != 'poisson':  # which has no strength to draw
    assert np.abs(first - _forge(method, shots, video=2)).max() > 0.5


def test_upsample_loses_detail_and_texture_replaces_it(shots):
  inside = shots[0].inner > 0.95
  real = _detail(shots[0].image, inside)
  assert _detail(_forge('upsample', shots), inside) < 0.8 * real
  plain = Shot(
    image=np.full((64, 64, 3), 150, np.float32)
    + np.random.default_rng(0).normal(0, 3, (64, 64, 3)).astype(np.float32),
    inner=shots[0].inner,
    landmarks=shots[0].landmarks,
  )
  retextured = _forge('texture', (plain, plain))
  # The new texture is grey, the sensor's noise was not.
  colour = retextured - retextured.mean(2, keepdims=True)
  old_colour = plain.image - plain.image.mean(2, keepdims=True)
  assert colour[inside].std() < 0.4 * old_colour[inside].std()


def test_checkerboard_has_the_period_of_its_stride(shots):
  flat = Shot(np.full((64, 64, 3), 120, np.float32), shots[0].inner, shots[0].landmarks)
  forged = _forge('checkerboard', (flat, flat)).mean(2)
  core = cv2.erode((flat.inner == 1).astype(np.uint8), np.ones((9, 9))) > 0
  assert core.sum() > 50
  phase = np.indices((64, 64)).sum(0) % 2 == 0
  # Pixels with one odd and one even coordinate all have the same gain; the others have two.
  assert forged[core & ~phase].std() < 1e-3
  assert forged[core & phase].std() > 0.3
  np.testing.assert_allclose(forged[core], np.roll(forged, 2, axis=1)[core], atol=1e-3)
  assert np.abs(forged - np.roll(forged, 1, axis=1))[core].min() > 0.3


def test_reenact_moves_the_mouth_and_not_the_eyes(shots):
  target = shots[0]
  change = np.abs(_forge('reenact', shots) - target.image).mean(2)
  mouth = target.landmarks[3:].mean(0)
  y, x = np.indices(change.shape)
  near = np.hypot(x - mouth[0], y - mouth[1]) < 6
  above = y < target.landmarks[:2, 1].mean() + 2
  assert change[near].mean() > 2
  assert change[above].mean() < 0.05 * change[near].mean()


@pytest.mark.parametrize('method', forgeries.DONOR_METHODS)
def test_donor_face_takes_on_the_colours_of_the_target(method, shots):
  target, donor = shots
  pale = Shot(np.clip(donor.image * 0.6 + 90, 0, 255), donor.inner, donor.landmarks)
  core = target.inner == 1
  goal = target.image[core].mean(0)
  apart = np.abs(pale.image[pale.inner == 1].mean(0) - goal).max()
  assert apart > 20
  forged = _forge(method, (target, pale))
  assert np.abs(forged[core].mean(0) - goal).max() < 0.6 * apart


def test_donor_is_moved_onto_the_landmarks(shots):
  target, _ = shots
  matrix = np.array([[0.95, -0.12, 6.0], [0.12, 0.95, -3.0]])
  moved = Shot(
    image=cv2.warpAffine(target.image, matrix, (64, 64)),
    inner=cv2.warpAffine(target.inner, matrix, (64, 64)),
    landmarks=(target.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
  )
  face, inner = forgeries._aligned(moved, target)
  core = target.inner == 1
  assert inner[core].mean() > 0.97
  smooth = cv2.GaussianBlur(target.image, (0, 0), 0.8)
  assert np.abs(face - smooth)[core].mean() < 3


def test_refuses_unknown_methods_and_missing_donors(shots):
  with pytest.raises(UserError, match='unknown forgery'):
    forge('nonsense', shots[0], None, np.random.default_rng(0), np.random.default_rng(0))
  with pytest.raises(UserError, match='donor'):
    forge('swap', shots[0], None, np.random.default_rng(0), np.random.default_rng(0))


def test_survives_a_face_that_is_hidden(shots):
  """Hair may cover all of the inner face: then there is nothing to forge, and no crash."""
  hidden = Shot(shots[0].image, np.zeros_like(shots[0].inner), shots[0].landmarks)
  for method in forgeries.METHODS:
    forged = _forge(method, (hidden, shots[1]))
    assert np.isfinite(forged).all()
    if method != 'regenerate':
      np.testing.assert_array_equal(forged, hidden.image)
