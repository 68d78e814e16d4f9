import dataclasses

import cv2
import numpy as np
import pytest
from PIL import Image

from masm_jax.data import transforms
from masm_jax.errors import UserError


def _scene(height=64, width=64):
  """A smooth picture with a red left and a blue right side, uint8 [H, W, 3]."""
  x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
  return np.stack([220 * (1 - x), 60 + 80 * y, 220 * x], -1).astype(np.uint8)


def _only(monkeypatch, **options):
  """Makes a preset of the given operations alone."""
  presets = {'only': transforms.Augmentation(**options), 'none': transforms.Augmentation()}
  monkeypatch.setattr(transforms, 'PRESETS', presets)


def _augmented(image, preset, count, seed=0):
  return [transforms.augment(image, preset, np.random.default_rng((seed, i))) for i in range(count)]


def test_decode_gives_rgb(tmp_path):
  image = _scene()
  for name in ('a.png', 'a.bmp', 'a.tif', 'ä b.webp'):
    options = {'lossless': True} if name.endswith('webp') else {}
    Image.fromarray(image).save(tmp_path / name, **options)
    decoded = transforms.decode(tmp_path / name)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, image)
  Image.fromarray(image).save(tmp_path / 'a.jpg', quality=95)
  assert np.abs(transforms.decode(tmp_path / 'a.jpg').astype(int) - image).mean() < 3


def test_decode_converts_other_pixel_formats(tmp_path):
  image = _scene()
  grey = image[:, :, 2]
  Image.fromarray(grey).save(tmp_path / 'grey.png')
  Image.fromarray(np.dstack([image, np.full_like(grey, 7)])).save(tmp_path / 'rgba.png')
  cv2.imwrite(str(tmp_path / 'grey16.png'), grey.astype(np.uint16) * 256 + 200)
  cv2.imwrite(str(tmp_path / 'rgb16.png'), image[:, :, ::-1].astype(np.uint16) * 256 + 200)
  Image.fromarray(image).quantize(256).save(tmp_path / 'palette.png')
  Image.fromarray(image).convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=95)
  first, second = Image.fromarray(image).quantize(256), Image.new('P', (64, 64))
  first.save(tmp_path / 'moving.gif', save_all=True, append_images=[second])
  three = np.repeat(grey[:, :, None], 3, axis=2)
  np.testing.assert_array_equal(transforms.decode(tmp_path / 'grey.png'), three)
  np.testing.assert_array_equal(transforms.decode(tmp_path / 'grey16.png'), three)
  np.testing.assert_array_equal(transforms.decode(tmp_path / 'rgba.png'), image)
  np.testing.assert_array_equal(transforms.decode(tmp_path / 'rgb16.png'), image)
  for name in ('palette.png', 'cmyk.jpg', 'moving.gif'):
    assert np.abs(transforms.decode(tmp_path / name).astype(int) - image).mean() < 8, name


@pytest.mark.parametrize('orientation', range(1, 9))
def test_decode_applies_exif_rotation(tmp_path, orientation):
  upright = _scene(16, 24)
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: np.rot90(upright, 1),
    7: np.rot90(upright, 2).transpose(1, 0, 2),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[274] = orientation
  Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(transforms.decode(tmp_path / 'a.png'), upright)


def _write_unusable(folder):
  """Files that must not decode, as {name: what the error says}."""
  image = Image.fromarray(_scene(96, 96))
  for suffix in ('png', 'jpg', 'webp'):
    image.save(folder / f'whole.{suffix}')
    content = (folder / f'whole.{suffix}').read_bytes()
    (folder / f'cut.{suffix}').write_bytes(content[: len(content) * 2 // 3])
  (folder / 'text.png').write_text('this is no image')
  (folder / 'empty.jpg').write_bytes(b'')
  Image.fromarray(np.ones((8, 8), np.float32)).save(folder / 'float.tif')
  (folder / 'folder.png').mkdir()
  reasons = dict.fromkeys(('cut.png', 'cut.jpg', 'cut.webp'), 'not an image')
  reasons |= dict.fromkeys(('text.png', 'empty.jpg', 'folder.png'), 'not an image')
  return reasons | {'float.tif': '32-bit', 'absent.png': 'no such file'}


def test_unusable_files_are_decode_errors_with_their_path(tmp_path):
  for name, reason in _write_unusable(tmp_path).items():
    with pytest.raises(transforms.DecodeError, match=reason) as caught:
      transforms.decode(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert '\n' not in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_extreme_sizes(tmp_path, monkeypatch):
  Image.new('RGB', (1, 1), (9, 8, 7)).save(tmp_path / 'dot.png')
  dot = transforms.decode(tmp_path / 'dot.png')
  assert dot.tolist() == [[[9, 8, 7]]]
  assert np.unique(transforms.resize(dot, 8).reshape(-1, 3), axis=0).tolist() == [[9, 8, 7]]
  for image in _augmented(dot, 'gend', 20):
    assert image.shape == (1, 1, 3)
  monkeypatch.setattr(transforms, 'MAX_PIXELS', 99)
  Image.new('RGB', (10, 10)).save(tmp_path / 'large.png')
  with pytest.raises(transforms.DecodeError, match='10 x 10 pixels; the limit is 99'):
    transforms.decode(tmp_path / 'large.png')


def test_resize():
  image = _scene(64, 64)
  assert transforms.resize(image, 64) is image
  halves = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(transforms.resize(image, 32) - halves).max() <= 1
  assert transforms.resize(_scene(30, 50), 40).shape == (40, 40, 3)
  assert np.abs(transforms.resize(image, 128)[::2, ::2].astype(int) - image).max() <= 4


def test_gend_has_the_parameters_of_its_source():
  assert dataclasses.asdict(transforms.PRESETS['gend']) == {
    'hflip_probability': 0.5,
    'rotation_deg': 10.0,
    'shift': 0.1,
    'scale': (0.9, 1.1),
    'blur_probability': 0.1,
    'blur_kernel_px': 7,
    'blur_sigma_px': (0.1, 2.0),
    'brightness': 0.1,
    'contrast': 0.1,
    'jpeg_quality': (40, 100),
  }


def test_augment_depends_on_the_generator_alone_and_keeps_its_input():
  image = _scene()
  before = image.copy()
  first, again = _augmented(image, 'gend', 8), _augmented(image, 'gend', 8)
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(image, before)
  assert len({one.tobytes() for one in first}) == 8
  assert all(one.dtype == np.uint8 and one.shape == image.shape for one in first)
  assert transforms.augment(image, 'none', np.random.default_rng(0)) is image
  with pytest.raises(UserError, match="no augmentation preset 'strong'; there are none, gend"):
    transforms.augment(image, 'strong', np.random.default_rng(0))


def test_augment_draws_the_same_count_whatever_it_does():
  states = []
  for seed in range(5):
    rng = np.random.default_rng(seed)
    reference = np.random.default_rng(seed)
    transforms.augment(_scene(), 'gend', rng)
    reference.random(10)
    states.append(rng.bit_generator.state == reference.bit_generator.state)
  assert all(states)


def test_flip_alone(monkeypatch):
  _only(monkeypatch, hflip_probability=0.5)
  image = _scene()
  flipped = [np.array_equal(one, image[:, ::-1]) for one in _augmented(image, 'only', 400)]
  kept = [np.array_equal(one, image) for one in _augmented(image, 'only', 400)]
  assert all(a != b for a, b in zip(flipped, kept, strict=True))
  assert 150 < sum(flipped) < 250


def test_shift_alone_moves_by_up_to_its_share(monkeypatch):
  _only(monkeypatch, shift=0.1)
  image = np.zeros((100, 100, 3), np.uint8)
  image[45:56, 45:56] = 255
  centres = []
  for one in _augmented(image, 'only', 200):
    weights = one[:, :, 0] / one[:, :, 0].sum()
    grid = np.arange(100)
    centres.append((weights.sum(0) @ grid - 50, weights.sum(1) @ grid - 50))
  centres = np.array(centres)
  assert np.abs(centres).max() <= 10.05
  assert (np.abs(centres).max(0) > 9).all()
  assert abs(np.corrcoef(centres.T)[0, 1]) < 0.2


def test_rotation_and_scale_stay_in_their_limits(monkeypatch):
  image = np.zeros((101, 101, 3), np.uint8)
  image[50, 10:91] = 255
  _only(monkeypatch, rotation_deg=10.0)
  angles = []
  for one in _augmented(image, 'only', 200):
    y, x = np.nonzero(one[:, :, 0] > 60)
    angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
  assert 9 < max(angles) <= 10.5
  assert -10.5 <= min(angles) < -9
  _only(monkeypatch, scale=(0.9, 1.1))
  lengths = [(one[50, :, 0] > 127).sum() / 81 for one in _augmented(image, 'only', 200)]
  assert 0.88 < min(lengths) < 0.92
  assert 1.08 < max(lengths) < 1.12


def test_blur_alone_is_rare_and_smooths(monkeypatch):
  _only(monkeypatch, blur_probability=0.1)
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  changed = [one for one in _augmented(image, 'only', 400) if not np.array_equal(one, image)]
  # A sigma near 0.1 changes nothing, so somewhat fewer than a tenth differ.
  assert 20 < len(changed) < 55
  assert all(one.std() < image.std() for one in changed)


def test_brightness_and_contrast_alone(monkeypatch):
  image = _scene()
  _only(monkeypatch, brightness=0.1)
  ratios = [one.mean() / image.mean() for one in _augmented(image, 'only', 200)]
  assert 0.895 < min(ratios) < 0.91
  assert 1.09 < max(ratios) < 1.105
  _only(monkeypatch, contrast=0.1)
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
  for one in _augmented(image, 'only', 50):
    factor = (one[..., 0].astype(float) - grey).std() / (image[..., 0] - grey).std()
    assert 0.89 < factor < 1.11
    np.testing.assert_allclose(one, np.clip(grey + factor * (image - grey), 0, 255), atol=1.5)


def test_jpeg_alone_uses_each_quality_and_luma_of_rgb(monkeypatch):
  _only(monkeypatch, jpeg_quality=(40, 100))
  rng = np.random.default_rng(1)
  image = np.clip(_scene() + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
  expected = {}
  for quality in range(40, 101):
    _, code = cv2.imencode('.jpg', image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    expected[cv2.imdecode(code, cv2.IMREAD_COLOR)[:, :, ::-1].tobytes()] = quality
  qualities = [expected[one.tobytes()] for one in _augmented(image, 'only', 600)]
  assert set(qualities) >= {40, 41, 99, 100}
  assert len(set(qualities)) == 61


def test_augment_keeps_colours_in_their_channels(shared_data):
  image = transforms.decode(shared_data / 'real_crops/FF/real/000/000.png')
  assert image.shape == (256, 256, 3)
  assert image[..., 0].mean() > image[..., 2].mean()  # Skin is redder than it is blue.
  for one in _augmented(image, 'gend', 5):
    for channel in range(3):
      assert abs(one[..., channel].mean() / image[..., channel].mean() - 1) < 0.35
    assert one[..., 0].mean() > one[..., 2].mean()
