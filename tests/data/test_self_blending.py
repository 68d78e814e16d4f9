"""Self-blended fakes: what differs from the real face, and where."""

import dataclasses

import numpy as np
import pytest

from masm_jax.data import presets, transforms
from masm_jax.data.self_blending import face_mask, parse_landmarks, self_blended, soften

SIZE = 128


@pytest.fixture(scope='module')
def face():
  """Texture without structure, so that any blending shows, uint8 [128, 128, 3]."""
  return np.random.default_rng(0).integers(40, 216, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def alone(monkeypatch):
  """Leaves the augmentation that follows the blending out."""
  monkeypatch.setattr(presets, 'PRESETS', dict(presets.PRESETS, sbi=()))


def _pair(image, seed, **options):
  return [
    self_blended(image, np.random.default_rng((3, seed)), is_fake=is_fake, **options)
    for is_fake in (False, True)
  ]


def test_a_pair_differs_inside_the_face_alone(face, alone):
  inside = np.zeros((SIZE, SIZE), bool)
  for seed in range(20):
    real, fake = _pair(face, seed)
    assert fake.dtype == np.uint8 and fake.shape == face.shape
    differs = (real != fake).any(-1)
    assert 0.03 < differs.mean() < 0.6
    inside |= differs
  corners = np.stack([inside[:16, :16], inside[:16, -16:], inside[-16:, :16], inside[-16:, -16:]])
  assert not corners.any()
  assert inside[60:90, 50:78].all()


def test_the_real_face_is_untouched_or_changed_as_a_whole(face, alone):
  reals = [_pair(face, seed)[0] for seed in range(60)]
  kept = [np.array_equal(real, face) for real in reals]
  assert 18 < sum(kept) < 42
  assert all(
    (real != face).mean() > 0.5 for real, same in zip(reals, kept, strict=True) if not same
  )


def test_both_are_augmented_alike(face):
  """Without blending, a pair is one image twice: the augmentation shares its numbers."""
  nothing = dataclasses.replace(presets.SELF_BLENDING, ratios=(0.0,))
  images = []
  for seed in range(10):
    real, fake = _pair(face, seed, options=nothing)
    np.testing.assert_array_equal(real, fake)
    images.append(real.tobytes())
  assert len(set(images)) == 10


def test_the_result_depends_on_the_generator_alone(face):
  before = face.copy()
  np.testing.assert_array_equal(_pair(face, 1), _pair(face, 1))
  assert not np.array_equal(_pair(face, 1)[1], _pair(face, 2)[1])
  np.testing.assert_array_equal(face, before)


def test_mask_is_an_ellipse_where_no_landmarks_are_known():
  fixed = dataclasses.replace(presets.SELF_BLENDING, jitter=0.0, no_forehead_probability=0.0)
  rng = np.random.default_rng(0)
  five = np.array([[50.0, 50.0]] * 5)  # Too few to outline a face.
  for landmarks in (None, five):
    mask = face_mask(200, 100, rng, landmarks, fixed)
    assert mask.mean() == pytest.approx(np.pi * 0.27 * 0.36, rel=0.03)
    rows, columns = np.nonzero(mask)
    assert rows.mean() == pytest.approx(0.58 * 200, abs=1.5)
    assert columns.mean() == pytest.approx(50, abs=1)
  low = dataclasses.replace(fixed, no_forehead_probability=1.0)
  assert np.nonzero(face_mask(200, 100, rng, None, low))[0].min() == round(116 - 72 / 3)


def test_mask_is_the_hull_of_the_landmarks_with_or_without_the_forehead():
  angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
  chin = np.stack([60 + 20 * np.cos(angles), 80 + 20 * np.sin(angles)], -1)
  forehead = np.stack([np.linspace(50, 70, 13), np.full(13, 30.0)], -1)
  landmarks = np.concatenate([chin, forehead])
  areas = {}
  for probability in (0.0, 1.0):
    options = dataclasses.replace(presets.SELF_BLENDING, no_forehead_probability=probability)
    mask = face_mask(128, 128, np.random.default_rng(0), landmarks, options)
    areas[probability] = np.nonzero(mask)[0].min(), mask.sum()
  assert areas[0.0][0] == 30
  assert areas[1.0][0] == 60
  assert areas[1.0][1] == pytest.approx(np.pi * 20**2, rel=0.1)


def test_soft_border_lies_within_the_mask_and_reaches_one():
  mask = np.zeros((256, 256), np.float32)
  mask[60:200, 60:200] = 1
  for seed in range(10):
    soft = soften(mask, np.random.default_rng(seed), presets.SELF_BLENDING)
    assert soft.max() == 1.0
    assert soft[60:200, 60:200].sum() > 0.95 * soft.sum()
    assert 0 < ((soft > 0.05) & (soft < 0.95)).mean() < 0.25
    assert soft.sum() < mask.sum()
  assert not soften(np.zeros((8, 8), np.float32), np.random.default_rng(0),
                    presets.SELF_BLENDING).any()  # fmt: skip


def test_tiny_and_oblong_images():
  for height, width in ((1, 1), (5, 40)):
    image = np.full((height, width, 3), 90, np.uint8)
    for fake in _pair(image, 0):
      assert fake.shape == image.shape


def test_landmarks_as_text():
  assert parse_landmarks('') is None
  np.testing.assert_array_equal(parse_landmarks('1,2;3.5,4'), [[1, 2], [3.5, 4]])
  for text in ('1,2,3', '1;2', 'a,b', '1,nan', '1,2;3'):
    with pytest.raises(ValueError):
      parse_landmarks(text)


def test_real_face_is_recognisable_and_altered(shared_data):
  image = transforms.decode(shared_data / 'real_crops/FF/real/000/000.png')
  for seed in range(5):
    real, fake = (one.astype(int) for one in _pair(image, seed))
    assert np.abs(real - fake)[60:220, 60:196].mean() > 0.3
    assert np.abs(real - fake)[:8].mean() < 1  # Compression spreads it a little.
