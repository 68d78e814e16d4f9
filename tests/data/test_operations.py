"""Each image operation against what its docstring says, with its limits."""

import cv2
import numpy as np
import pytest

from masm_jax.data import colour, operations, presets


def _scene(height=64, width=64):
  """A smooth picture with a red left and a blue right side, uint8 [H, W, 3]."""
  x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
  return np.stack([220 * (1 - x), 60 + 80 * y, 220 * x], -1).astype(np.uint8)


def _results(operation, image, count, seed=0):
  return [operation(image, np.random.default_rng((seed, i))) for i in range(count)]


def _grey(value, size=8):
  return np.full((size, size, 3), value, np.uint8)


ALL = sorted(
  {
    operation
    for preset in [*presets.PRESETS.values(), presets.SELF_BLENDING.statistics]
    for chosen in preset
    for operation in (chosen.choices if isinstance(chosen, operations.OneOf) else (chosen,))
  },
  key=repr,
)


@pytest.mark.parametrize('operation', ALL, ids=lambda operation: type(operation).__name__)
def test_keeps_shape_type_and_input_and_depends_on_the_generator_alone(operation):
  for size in ((1, 1), (2, 5), (33, 20)):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    first, again = _results(operation, image, 12), _results(operation, image, 12)
    np.testing.assert_array_equal(image, before)
    for one, same in zip(first, again, strict=True):
      assert (one.shape, one.dtype) == (image.shape, np.uint8)
      np.testing.assert_array_equal(one, same)


def test_presets_have_the_parameters_of_their_sources():
  hue = dict(hue=20, saturation=30, value=20)
  assert presets.PRESETS['deepfakebench'] == (
    operations.HorizontalFlip(probability=0.5),
    operations.Affine(probability=0.5, rotation_deg=10, reflect=True),
    operations.GaussianBlur(probability=0.5, kernel_px=(3, 7)),
    operations.OneOf(
      probability=0.5,
      choices=(
        colour.BrightnessContrast(brightness=0.1, contrast=0.1),
        colour.PcaColour(std=0.1),
        colour.HueSaturation(**hue),
      ),
    ),
    colour.Jpeg(probability=0.5, quality=(40, 100)),
  )
  assert presets.PRESETS['gend'] == (
    operations.HorizontalFlip(probability=0.5),
    operations.Affine(rotation_deg=10, shift=(0.1, 0.1), scale=(0.9, 1.1)),
    operations.GaussianBlur(probability=0.1, kernel_px=(7, 7), sigma_px=(0.1, 2.0)),
    colour.ColourJitter(brightness=0.1, contrast=0.1),
    colour.Jpeg(quality=(40, 100)),
  )
  shares = [(type(one).__name__, one.probability) for one in presets.PRESETS['effort']]
  assert shares == [
    ('HorizontalFlip', 0.5),
    ('BrightnessContrast', 0.5),
    ('HueSaturation', 0.3),
    *((name, 0.1) for name in ('Jpeg', 'GaussianNoise', 'MotionBlur', 'Clahe')),
    *((name, 0.1) for name in ('ChannelShuffle', 'Cutout')),
    ('Gamma', 0.3),
    ('GlassBlur', 0.3),
  ]
  light, jpeg = presets.PRESETS['effort'][1], presets.PRESETS['effort'][3]
  assert (light.brightness, light.contrast, jpeg.quality) == (0.2, 0.2, (40, 100))


def test_probability_is_how_often_it_acts():
  image = _scene()
  flip = operations.HorizontalFlip(probability=0.3)
  results = _results(flip, image, 500)
  flipped = [np.array_equal(one, image[:, ::-1]) for one in results]
  assert all(np.array_equal(one, image) for one, f in zip(results, flipped, strict=True) if not f)
  assert 110 < sum(flipped) < 190


def test_one_of_takes_each_choice_as_often():
  choices = tuple(colour.Gamma(gamma=(gamma, gamma)) for gamma in (0.5, 1.0, 2.0))
  values = [one[0, 0, 0] for one in _results(operations.OneOf(choices=choices), _grey(100), 300)]
  expected = [round(255 * (100 / 255) ** gamma) for gamma in (0.5, 1.0, 2.0)]
  counts = [values.count(value) for value in expected]
  assert sum(counts) == 300
  assert min(counts) > 75


def test_affine_shifts_by_up_to_its_share():
  image = np.zeros((100, 100, 3), np.uint8)
  image[45:56, 45:56] = 255
  centres = []
  for one in _results(operations.Affine(shift=(0.1, 0.05)), image, 200):
    weights = one[:, :, 0] / one[:, :, 0].sum()
    grid = np.arange(100)
    centres.append((weights.sum(0) @ grid - 50, weights.sum(1) @ grid - 50))
  centres = np.array(centres)
  assert (np.abs(centres).max(0) <= (10.05, 5.05)).all()
  assert (np.abs(centres).max(0) > (9, 4.5)).all()
  assert abs(np.corrcoef(centres.T)[0, 1]) < 0.2


def test_affine_rotation_and_scale_stay_in_their_limits():
  image = np.zeros((101, 101, 3), np.uint8)
  image[50, 10:91] = 255
  angles = []
  for one in _results(operations.Affine(rotation_deg=10), image, 200):
    y, x = np.nonzero(one[:, :, 0] > 60)
    angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
  assert 9 < max(angles) <= 10.5
  assert -10.5 <= min(angles) < -9
  scaled = _results(operations.Affine(scale=(0.9, 1.1)), image, 200)
  lengths = [(one[50, :, 0] > 127).sum() / 81 for one in scaled]
  assert 0.88 < min(lengths) < 0.92
  assert 1.08 < max(lengths) < 1.12


def test_affine_borders_are_black_or_mirrored():
  image = _grey(200, 32)
  black = _results(operations.Affine(rotation_deg=10), image, 5)
  mirrored = _results(operations.Affine(rotation_deg=10, reflect=True), image, 5)
  assert sum(one.min() == 0 for one in black) >= 4  # A tiny turn leaves the corners in place.
  assert all(one.min() == 200 for one in mirrored)


def test_gaussian_blur_uses_each_odd_kernel():
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  expected = {cv2.GaussianBlur(image, (k, k), 0).tobytes(): k for k in (3, 5, 7)}
  found = [
    expected[one.tobytes()]
    for one in _results(operations.GaussianBlur(kernel_px=(3, 7)), image, 60)
  ]
  assert set(found) == {3, 5, 7}
  blur = operations.GaussianBlur(kernel_px=(7, 7), sigma_px=(0.1, 2.0))
  spreads = [one.std() for one in _results(blur, image, 60)]
  assert cv2.GaussianBlur(image, (7, 7), 2.0).std() <= min(spreads) < 0.4 * image.std()
  assert max(spreads) > 0.95 * image.std()


def test_motion_blur_smears_along_a_line():
  dot = np.zeros((31, 31, 3), np.uint8)
  dot[15, 15] = 255
  for one in _results(operations.MotionBlur(kernel_px=(3, 7)), dot, 60):
    y, x = np.nonzero(one[..., 0])
    assert max(np.ptp(y), np.ptp(x)) <= 6
    assert int(one[..., 0].sum()) == pytest.approx(255, abs=4)
    points = np.stack([x, y], -1) - (x.mean(), y.mean())
    assert np.linalg.svd(points, compute_uv=False)[-1] <= 1.5  # They lie on a line, to a pixel.


def test_glass_blur_moves_pixels_but_not_far():
  step = np.zeros((64, 64, 3), np.uint8)
  step[:, 32:] = 255
  glass = operations.GlassBlur(sigma_px=0.7, max_shift_px=4, iterations=2)
  for one in _results(glass, step, 10):
    assert not one[:, :20].any()
    assert (one[:, 44:] == 255).all()
    assert one[:, 24:40].std(0).max() > 20  # Ragged along the edge, unlike a blur.


def test_sharpen_and_downscale():
  image = _scene()
  sharpen = operations.Sharpen(alpha=(0.2, 0.5), lightness=(1.0, 1.0))
  inner = np.s_[1:-1, 1:-1]
  for one in _results(sharpen, image, 10):
    assert np.abs(one[inner].astype(int) - image[inner]).max() <= 3  # Smooth: nothing to sharpen.
  noisy = np.random.default_rng(0).integers(100, 156, (32, 32, 3), np.uint8)
  assert all(one.std() > 1.2 * noisy.std() for one in _results(sharpen, noisy, 10))
  expected = {}
  for factor in (2, 4):
    small = noisy[::factor, ::factor]
    expected[cv2.resize(small, (32, 32), interpolation=cv2.INTER_LINEAR).tobytes()] = factor
  downscale = operations.Downscale(factors=(2, 4))
  assert {expected[one.tobytes()] for one in _results(downscale, noisy, 30)} == {2, 4}


def test_cutout_blackens_squares():
  image = _grey(200, 64)
  for one in _results(operations.Cutout(count=1, size_px=8), image, 40):
    y, x = np.nonzero(one[..., 0] == 0)
    assert 16 <= len(y) <= 64
    assert np.ptp(y) <= 7 and np.ptp(x) <= 7
    assert set(np.unique(one)) == {0, 200}
  many = _results(operations.Cutout(count=8, size_px=8), image, 40)
  assert np.mean([(one[..., 0] == 0).sum() for one in many]) > 250


def test_brightness_and_contrast_of_both_forms():
  values = [one[0, 0, 0] / 100 for one in _results(
    colour.ColourJitter(brightness=0.1, contrast=0.0), _grey(100), 200)]  # fmt: skip
  assert 0.895 < min(values) < 0.91 and 1.09 < max(values) < 1.105
  image = _scene()
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
  for one in _results(colour.ColourJitter(brightness=0.0, contrast=0.1), image, 50):
    factor = (one[..., 0].astype(float) - grey).std() / (image[..., 0] - grey).std()
    assert 0.89 < factor < 1.11
    np.testing.assert_allclose(one, np.clip(grey + factor * (image - grey), 0, 255), atol=1.5)
  shifts = [
    int(one[0, 0, 0]) - 100
    for one in _results(colour.BrightnessContrast(brightness=0.1, contrast=0.0), _grey(100), 200)
  ]
  assert -26 <= min(shifts) < -23 and 23 < max(shifts) <= 26
  factors = [
    one[0, 0, 0] / 100
    for one in _results(colour.BrightnessContrast(brightness=0.0, contrast=0.1), _grey(100), 200)
  ]
  assert 0.895 < min(factors) < 0.91 and 1.09 < max(factors) < 1.105


def test_gamma_hue_and_rgb_shift():
  for gamma in (0.8, 1.2):
    (one,) = _results(colour.Gamma(gamma=(gamma, gamma)), _grey(100), 1)
    assert one[0, 0, 0] == round(255 * (100 / 255) ** gamma)
  image = _scene()
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
  for one in _results(colour.HueSaturation(hue=20, saturation=0, value=0), image, 30):
    turned = cv2.cvtColor(one, cv2.COLOR_RGB2HSV).astype(int)
    difference = (turned[..., 0] - hsv[..., 0] + 90) % 180 - 90
    assert np.ptp(difference[hsv[..., 1] > 60]) <= 4
    assert np.abs(difference[hsv[..., 1] > 60]).max() <= 22
    assert np.abs(turned[..., 2] - hsv[..., 2]).max() <= 2
  values = [one[0, 0, 0] for one in _results(
    colour.HueSaturation(hue=0, saturation=0, value=20), _grey(100), 100)]  # fmt: skip
  assert 80 <= min(values) < 83 and 117 < max(values) <= 120
  shifts = np.array([one[0, 0] for one in _results(colour.RgbShift(shift=20), _grey(100), 100)])
  assert (shifts.min(0) < 84).all() and (shifts.max(0) > 116).all()
  assert shifts.min() >= 80 and shifts.max() <= 120
  assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.35


def test_pca_colour_moves_all_pixels_along_the_colours_that_vary():
  rng = np.random.default_rng(0)
  direction = np.array([3, 2, 1]) / np.sqrt(14)
  image = np.rint(128 + 60 * rng.normal(0, 0.5, (32, 32, 1)) * direction).astype(np.uint8)
  shifts = []
  for one in _results(colour.PcaColour(std=3.0), image, 200):
    difference = one.astype(int) - image
    assert np.ptp(difference.reshape(-1, 3), axis=0).max() <= 1
    shifts.append(difference.reshape(-1, 3).mean(0))
  shifts = np.array(shifts)
  along = shifts @ direction
  variance = 30**2 / 255  # Of the image along its direction, times 255 for the shift in levels.
  assert along.std() == pytest.approx(3.0 * variance, rel=0.15)
  assert np.abs(shifts - along[:, None] * direction).max() < 1


def test_channel_shuffle_and_clahe():
  orders = {tuple(one[0, 0]) for one in _results(
    colour.ChannelShuffle(), np.tile(np.array([1, 2, 3], np.uint8), (4, 4, 1)), 60)}  # fmt: skip
  assert len(orders) == 6
  flat = np.random.default_rng(0).integers(100, 120, (64, 64, 1), np.uint8).repeat(3, 2)
  for one in _results(colour.Clahe(clip=(4, 4), tiles=8), flat, 3):
    assert one.std() > 2 * flat.std()
    assert np.ptp(one.astype(int), axis=2).max() <= 2  # Grey stays grey.


def test_noise_has_its_variance_and_jpeg_each_quality_with_luma_of_rgb():
  image = _grey(128, 64)
  for one in _results(colour.GaussianNoise(variance=(40, 40)), image, 5):
    assert one.astype(float).var() == pytest.approx(40, rel=0.1)
    assert one.mean() == pytest.approx(128, abs=0.3)
  rng = np.random.default_rng(1)
  image = np.clip(_scene() + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
  expected = {}
  for quality in range(40, 101):
    _, code = cv2.imencode('.jpg', image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    expected[cv2.imdecode(code, cv2.IMREAD_COLOR)[:, :, ::-1].tobytes()] = quality
  jpegs = _results(colour.Jpeg(quality=(40, 100)), image, 600)
  qualities = [expected[one.tobytes()] for one in jpegs]
  assert len(set(qualities)) == 61
