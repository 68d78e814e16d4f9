"""Each perturbation does what its definition says, at every level, on crops of any size."""

import itertools
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from masm_jax.errors import UserError
from masm_jax.perturbations import catalogue as robustness

LEVELS = [(key, level) for key, levels in robustness.PERTURBATIONS.items() for level in levels]
RNG = np.random.default_rng


def textured(size_px, seed=0):
  """A coloured picture with detail at all scales, as uint8 [size_px, size_px, 3]."""
  rng = RNG(seed)
  image = np.zeros((size_px, size_px, 3))
  for cells in (2, 5, 13, 31, size_px):
    noise = rng.random((cells, cells, 3)).astype(np.float32)
    image += cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC) / math.sqrt(cells)
  image = (image - image.min()) / (image.max() - image.min())
  return np.uint8(255 * image)


def apply(image, key, level, seed=0, video_id='set/DF/000_003', frame=7):
  rng = robustness.make_rng(seed, video_id, frame, key, level)
  return robustness.perturb(image, key, level, rng)


def test_the_levels_are_the_published_ones():
  assert {k: tuple(v.values()) for k, v in robustness.PERTURBATIONS.items()} == {
    'CS': (0.4, 0.3, 0.2, 0.1, 0.0),
    'CC': (0.85, 0.725, 0.6, 0.475, 0.35),
    'BW': (16, 32, 48, 64, 80),
    'GNC': (0.001, 0.002, 0.005, 0.01, 0.05),
    'GB': (7, 9, 13, 17, 21),
    'PX': (2, 3, 4, 5, 6),
    'gend_jpeg': (100, 80, 60, 40, 20, 10),
    'gend_blur': ((5, 0.5), (7, 1.0), (11, 1.5), (13, 2.0), (19, 3.0)),
    'gend_resize': (224, 112, 64),
    'gend_noise': (0.01, 0.03, 0.05, 0.1, 0.2),
  }
  assert all(list(v) == list(range(1, len(v) + 1)) for v in robustness.PERTURBATIONS.values())
  assert robustness.CATALOGUE['VC'].parameters == (30, 32, 35, 38, 40)
  assert robustness.VIDEO_KEYS == ('CS', 'CC', 'BW', 'GNC', 'GB', 'PX', 'VC')


@pytest.mark.parametrize('size_px', [224, 64])
@pytest.mark.parametrize(('key', 'level'), LEVELS)
def test_no_level_is_a_no_op(key, level, size_px):
  image = textured(size_px)
  before = image.copy()
  result = apply(image, key, level)
  np.testing.assert_array_equal(image, before)
  assert result.dtype == np.uint8
  if key == 'gend_resize':
    assert result.shape[0] < size_px
    result = cv2.resize(result, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
  assert result.shape == image.shape
  assert np.abs(result.astype(int) - image).mean() > 0.2


@pytest.mark.parametrize('key', robustness.PERTURBATIONS)
def test_no_level_is_a_no_op_on_real_crops_and_each_is_worse_than_the_last(key, shared_data):
  paths = sorted((shared_data / 'real_crops').rglob('*.png'))[::8]
  assert len(paths) == 4
  for path in paths:
    crop = np.asarray(Image.open(path).convert('RGB'))
    for size_px in (224, 64):
      image = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA)
      errors = [0.0]
      for level in robustness.PERTURBATIONS[key]:
        total = 0.0
        for frame in range(80 if key == 'BW' else 1):  # Where a block falls is chance.
          result = apply(image, key, level, frame=frame)
          result = cv2.resize(result, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
          total += float(((result.astype(float) - image) ** 2).mean())
          assert total > 0
        errors.append(total)
      assert all(b > a for a, b in itertools.pairwise(errors)), (path, size_px, errors)


def test_saturation_scales_chroma_about_its_centre():
  image = textured(24)
  for level, factor in robustness.PERTURBATIONS['CS'].items():
    red, green, blue = (image[..., i].astype(np.float64) for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # Scaling both chroma channels is scaling each colour's distance from its luma.
    expected = np.stack([luma + factor * (c - luma) for c in (red, green, blue)], axis=-1)
    np.testing.assert_allclose(apply(image, 'CS', level), np.clip(expected, 0, 255), atol=0.75)
  grey = apply(image, 'CS', 5)
  assert np.ptp(grey.astype(int), axis=-1).max() <= 1


def test_saturation_of_pure_colours_does_not_wrap_around():
  pure = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
  result = apply(pure, 'CS', 1).astype(int)  # Factor 0.4: luma + 0.4 * (colour - luma).
  assert np.abs(result[0, 0] - (148, 46, 46)).max() <= 1
  assert np.abs(result[0, 1] - (90, 192, 90)).max() <= 1
  assert np.abs(result[0, 2] - (17, 17, 119)).max() <= 1
  assert result[0, 3].tolist() == [255, 255, 255] and result[0, 4].tolist() == [0, 0, 0]


def test_contrast_multiplies_every_pixel():
  image = textured(16)
  image[0, 0] = (0, 100, 255)
  for level, factor in robustness.PERTURBATIONS['CC'].items():
    np.testing.assert_array_equal(
      apply(image, 'CC', level), np.rint(image.astype(np.float64) * factor).astype(np.uint8)
    )
  assert apply(image, 'CC', 3)[0, 0].tolist() == [0, 60, 153]


@pytest.mark.parametrize(
  ('shape', 'counts'),
  [
    ((256, 256), (16, 32, 48, 64, 80)),
    ((224, 224), (12, 24, 37, 49, 61)),  # The published count is 0 here.
    ((64, 64), (1, 2, 3, 4, 5)),
    ((32, 32), (1, 1, 1, 1, 1)),  # 0.25 to 1.25: never nothing.
    ((300, 512), (38, 75, 112, 150, 188)),
    ((8, 8), (1, 1, 1, 1, 1)),
  ],
)
def test_grey_blocks_are_counted_by_area(shape, counts):
  image = np.zeros((*shape, 3), np.uint8)
  for level, count in enumerate(counts, start=1):
    result = apply(image, 'BW', level)
    grey = (result == 128).all(-1)
    assert grey.sum() <= 64 * count and set(np.unique(result)) <= {0, 128}
    # The area that n blocks at uniform places leave free, where they may overlap.
    covered = 1 - (1 - 64 / grey.size) ** count
    assert grey.mean() == pytest.approx(covered, rel=0.35)


def test_grey_blocks_are_whole_squares_and_reach_every_edge():
  seen = np.zeros((12, 12), bool)
  for frame in range(300):
    grey = (apply(np.zeros((12, 12, 3), np.uint8), 'BW', 1, frame=frame) == 128).all(-1)
    rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
    assert grey.sum() == 64 and np.ptp(rows) == np.ptp(columns) == 7  # One block.
    seen |= grey
  assert seen.all()
  with pytest.raises(UserError, match='at least 8 pixels, not 20 x 7'):
    apply(np.zeros((7, 20, 3), np.uint8), 'BW', 1)


def test_noise_has_the_published_variance_in_each_ycbcr_channel():
  image = np.full((400, 400, 3), 128, np.uint8)
  for level, variance in list(robustness.PERTURBATIONS['GNC'].items())[:3]:  # The rest clips.
    red, green, blue = (apply(image, 'GNC', level)[..., i] / 255 for i in range(3))
    # BT.601 in studio range, in which the published code adds its noise.
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    channels = luma * 219, (blue - luma) / 1.772 * 224, (red - luma) / 1.402 * 224
    for channel in channels:
      assert np.var(channel / 255) == pytest.approx(variance, rel=0.03)
    assert abs(np.corrcoef([c.ravel() for c in channels])[np.triu_indices(3, 1)]).max() < 0.02
    assert np.mean(luma) == pytest.approx(128 / 255, abs=0.001)


def test_noise_of_gend_has_its_deviation_in_each_rgb_channel():
  image = np.full((400, 400, 3), 128, np.uint8)
  for level, sigma in list(robustness.PERTURBATIONS['gend_noise'].items())[:4]:
    noise = apply(image, 'gend_noise', level) / 255 - 128 / 255
    assert noise.std(axis=(0, 1)) == pytest.approx([sigma] * 3, rel=0.02)
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)]).max() < 0.02


def gaussian(size_px, sigma):
  weights = np.exp(-((np.arange(size_px) - size_px // 2) ** 2) / (2 * sigma**2))
  return weights / weights.sum()


@pytest.mark.parametrize('key', ['GB', 'gend_blur'])
def test_blur_spreads_a_point_as_its_gaussian(key):
  image = np.zeros((41, 41, 3), np.uint8)
  image[20, 20] = 255
  for level, value in robustness.PERTURBATIONS[key].items():
    size_px, sigma = value if key == 'gend_blur' else (value, value / 6)
    weights = gaussian(size_px, sigma)
    expected = np.zeros((41, 41))
    half = size_px // 2
    expected[20 - half : 21 + half, 20 - half : 21 + half] = 255 * np.outer(weights, weights)
    result = apply(image, key, level)
    np.testing.assert_allclose(result, np.repeat(expected[..., None], 3, -1), atol=1.5)
    assert result[20, 20, 0] < 255


def test_pixelation_samples_bilinearly_down_and_up():
  ramp = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None] * 20, 12, 0).repeat(3, 2)
  # Halves: each small pixel is the mean of two, at their middle; between them straight lines.
  middles = np.array([10, 50, 90, 130, 170, 210])
  expected = np.interp((np.arange(12) + 0.5) / 2 - 0.5, np.arange(6), middles)
  np.testing.assert_allclose(apply(ramp, 'PX', 1)[5, :, 0], expected, atol=1)
  image = textured(224)
  for level, factor in robustness.PERTURBATIONS['PX'].items():
    small = cv2.resize(image, (224 // factor, 224 // factor), interpolation=cv2.INTER_LINEAR)
    large = cv2.resize(small, (224, 224), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(apply(image, 'PX', level), large)
  assert apply(image[:3, :2], 'PX', 5).shape == (3, 2, 3)


def test_jpeg_is_that_of_pillow_with_420_chroma(tmp_path):
  image = textured(64)
  for level, quality in robustness.PERTURBATIONS['gend_jpeg'].items():
    Image.fromarray(image).save(tmp_path / 'x.jpg', quality=quality, subsampling='4:2:0')
    with Image.open(tmp_path / 'x.jpg') as decoded:
      np.testing.assert_allclose(
        apply(image, 'gend_jpeg', level).astype(int), np.asarray(decoded).astype(int), atol=3
      )


@pytest.mark.parametrize(
  ('shape', 'sizes'),
  [
    ((256, 256), [(224, 224), (112, 112), (64, 64)]),
    ((512, 384), [(299, 224), (149, 112), (85, 64)]),
    ((224, 224), [(196, 196), (98, 98), (56, 56)]),  # The same shares as of 256.
    ((64, 64), [(56, 56), (28, 28), (16, 16)]),
  ],
)
def test_resize_reaches_its_side_or_its_share(shape, sizes):
  image = np.full((*shape, 3), 9, np.uint8)
  results = [apply(image, 'gend_resize', level) for level in (1, 2, 3)]
  assert [result.shape[:2] for result in results] == sizes
  assert all((result == 9).all() for result in results)
  checkerboard = np.indices((256, 256)).sum(0) % 2 * 200
  result = apply(np.repeat(checkerboard[..., None], 3, 2).astype(np.uint8), 'gend_resize', 3)
  assert (result == 100).all()  # Averaged, not sampled.


@pytest.mark.parametrize('key', ['BW', 'GNC', 'gend_noise'])
def test_randomness_is_a_function_of_seed_video_frame_key_and_level(key):
  image = np.zeros((32, 32, 3), np.uint8) + np.uint8(90)
  first = apply(image, key, 2)
  np.testing.assert_array_equal(apply(image, key, 2), first)
  for change in ({'seed': 1}, {'video_id': 'set/F2F/000_003'}, {'frame': 8}):
    assert (apply(image, key, 2, **change) != first).any()


def test_random_numbers_stay_what_they_are():
  draws = [
    robustness.make_rng(0, 'ff/DF/000_003', 12, 'BW', 1).integers(1000),
    robustness.make_rng(0, 'ff/DF/000_003', 12, 'BW', 2).integers(1000),
    robustness.make_rng(0, 'ff/DF/000_003', 12, 'GNC', 1).integers(1000),
    robustness.make_rng(np.int64(0), np.str_('ff/DF/000_003'), np.int64(12), 'BW', 1).integers(
      1000
    ),
  ]
  assert draws == [902, 79, 693, 902]


@pytest.mark.parametrize(
  ('key', 'level', 'message'),
  [
    ('JPEG', 1, "no perturbation 'JPEG'; there are CS, CC, BW"),
    ('CS', 0, 'CS has levels 1 to 5, not 0'),
    ('gend_resize', 4, 'gend_resize has levels 1 to 3, not 4'),
    ('VC', 1, 'VC needs whole videos: .*masm_jax.perturb_videos'),
  ],
)
def test_what_does_not_exist_is_one_line(key, level, message):
  with pytest.raises(UserError, match=message):
    robustness.perturb(textured(16), key, level, RNG(0))
