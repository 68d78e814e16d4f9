import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from masm_jax.data import raster, transforms
from masm_jax.errors import UserError


def _scene(height=64, width=64):
  """A smooth picture with a red left and a blue right side, uint8 [H, W, 3]."""
  x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
  return np.stack([220 * (1 - x), 60 + 80 * y, 220 * x], -1).astype(np.uint8)


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
  (folder / 'noise.jpg').write_bytes((folder / 'whole.jpg').read_bytes()[:200] + b'\xff' * 400)
  (folder / 'header.png').write_bytes((folder / 'whole.png').read_bytes()[:33])
  Image.fromarray(np.ones((8, 8), np.float32)).save(folder / 'float.tif')
  (folder / 'folder.png').mkdir()
  reasons = dict.fromkeys(('cut.png', 'cut.jpg', 'cut.webp'), 'not an image')
  reasons |= dict.fromkeys(('text.png', 'empty.jpg', 'folder.png'), 'not an image')
  reasons |= dict.fromkeys(('noise.jpg', 'header.png'), 'not an image')
  return reasons | {'float.tif': '32-bit', 'absent.png': 'no such file'}


def test_unusable_files_are_decode_errors_with_their_path(tmp_path):
  for name, reason in _write_unusable(tmp_path).items():
    with pytest.raises(transforms.DecodeError, match=reason) as caught:
      transforms.decode(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert '\n' not in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_extreme_sizes(tmp_path):
  Image.new('RGB', (1, 1), (9, 8, 7)).save(tmp_path / 'dot.png')
  dot = transforms.decode(tmp_path / 'dot.png')
  assert dot.tolist() == [[[9, 8, 7]]]
  assert np.unique(transforms.resize(dot, 8).reshape(-1, 3), axis=0).tolist() == [[9, 8, 7]]
  for preset in transforms.PRESETS:
    for image in _augmented(dot, preset, 40):
      assert image.shape == (1, 1, 3)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')  # As the module sets it.
def test_bombs_take_no_memory(tmp_path):
  Image.new('1', (12_000, 12_000)).save(tmp_path / 'huge.png')
  tracemalloc.start()
  told = '12000 x 12000 pixels; the limit is 134,217,728 in all'
  with pytest.raises(transforms.DecodeError, match=told):
    transforms.decode(tmp_path / 'huge.png')
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_photos_of_108_megapixels_are_reduced(tmp_path):
  """As phones make them: half of each side is left, in the same colours, upright."""
  photo = Image.new('RGB', (12_000, 9_000), (200, 30, 90))
  photo.paste((10, 220, 40), (0, 0, 6_000, 4_500))  # Top left; bottom left as it is shown.
  exif = Image.Exif()
  exif[274] = 8
  photo.save(tmp_path / 'photo.jpg', exif=exif)
  image = transforms.decode(tmp_path / 'photo.jpg')
  assert image.shape == (6000, 4500, 3)
  np.testing.assert_allclose(image[4500, 1000], (10, 220, 40), atol=3)
  np.testing.assert_allclose(image[1000, 1000], (200, 30, 90), atol=3)


@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P', 'I;16', 'RGBA', 'CMYK'])
def test_large_images_of_any_mode_are_reduced(tmp_path, monkeypatch, mode):
  suffix = 'tif' if mode == 'CMYK' else 'png'
  grey = Image.fromarray(np.kron(np.array([[0, 1], [1, 0]], np.uint8) * 255, np.ones((30, 45))))
  image = grey if mode == 'I;16' else grey.convert('L').convert('RGB').convert(mode)
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
  image.save(tmp_path / f'a.{suffix}')
  whole = transforms.decode(tmp_path / f'a.{suffix}')
  assert whole.shape == (60, 90, 3)
  monkeypatch.setattr(raster, 'MAX_PIXELS', 700)  # A third of each side.
  small = transforms.decode(tmp_path / f'a.{suffix}')
  assert small.shape == (20, 30, 3)
  assert np.abs(small.astype(int) - whole[1::3, 1::3]).max() <= 1


def test_formats_are_a_closed_list(tmp_path):
  """Pillow would hand EPS to Ghostscript, whatever the file is called."""
  image = Image.fromarray(_scene(32, 32))
  for kind in ('eps', 'ppm', 'tga', 'pdf', 'ico'):
    if kind == 'eps':
      (tmp_path / 'a.eps').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n')
    else:
      image.save(tmp_path / f'a.{kind}')
    (tmp_path / f'a.{kind}').rename(tmp_path / 'a.jpg')
    with pytest.raises(transforms.DecodeError, match=r'not an image$'):
      transforms.decode(tmp_path / 'a.jpg')
  assert 'EPS' not in raster.FORMATS


def test_avif(tmp_path):
  scene = _scene(64, 64)
  Image.fromarray(scene).save(tmp_path / 'a.avif', quality=95)
  found = transforms.decode(tmp_path / 'a.avif')
  assert found.shape == (64, 64, 3)
  assert np.corrcoef(found.ravel(), scene.ravel())[0, 1] > 0.9


def test_resize():
  image = _scene(64, 64)
  assert transforms.resize(image, 64) is image
  halves = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(transforms.resize(image, 32) - halves).max() <= 1
  assert transforms.resize(_scene(30, 50), 40).shape == (40, 40, 3)
  assert np.abs(transforms.resize(image, 128)[::2, ::2].astype(int) - image).max() <= 4


@pytest.mark.parametrize('preset', ['deepfakebench', 'effort', 'gend', 'sbi'])
def test_augment_depends_on_the_generator_alone_and_keeps_its_input(preset):
  image = _scene()
  before = image.copy()
  first, again = _augmented(image, preset, 16), _augmented(image, preset, 16)
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(image, before)
  assert len({one.tobytes() for one in first}) > 8
  assert all(one.dtype == np.uint8 and one.shape == image.shape for one in first)


def test_no_augmentation_and_no_such_preset():
  image = _scene()
  assert transforms.augment(image, 'none', np.random.default_rng(0)) is image
  with pytest.raises(UserError, match="no augmentation preset 'strong'; there are none, flip"):
    transforms.augment(image, 'strong', np.random.default_rng(0))


def test_augment_keeps_colours_in_their_channels(shared_data):
  image = transforms.decode(shared_data / 'real_crops/FF/real/000/000.png')
  assert image.shape == (256, 256, 3)
  assert image[..., 0].mean() > image[..., 2].mean()  # Skin is redder than it is blue.
  for one in _augmented(image, 'gend', 5):
    for channel in range(3):
      assert abs(one[..., channel].mean() / image[..., channel].mean() - 1) < 0.35
    assert one[..., 0].mean() > one[..., 2].mean()


def test_names_with_spaces_and_letters_of_any_language(tmp_path):
  for name in ('a b.png', 'größe.png', '人脸 №1.png', "it's.png"):
    Image.fromarray(_scene(8, 8)).save(tmp_path / name)
    np.testing.assert_array_equal(transforms.decode(tmp_path / name), _scene(8, 8))


def test_every_cut_of_a_small_file_decodes_whole_or_not_at_all(tmp_path):
  """Fuzzing: a file cut anywhere is an error or, where only its end mark is gone, the image."""
  image = _scene(24, 24)
  for suffix in ('png', 'jpg', 'webp', 'bmp', 'gif'):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(image).save(path)
    content, whole = path.read_bytes(), transforms.decode(path)
    for end in range(0, len(content), 7):
      try:
        decoded = transforms.decode_bytes(content[:end], 'cut')
      except transforms.DecodeError:
        continue
      np.testing.assert_array_equal(decoded, whole, err_msg=f'{suffix} cut at {end}')


def test_flipped_bits_never_raise_anything_but_decode_errors(tmp_path):
  rng = np.random.default_rng(0)
  for suffix in ('png', 'jpg', 'webp', 'tif'):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(_scene(24, 24)).save(path)
    for _ in range(60):
      content = bytearray(path.read_bytes())
      for place in rng.integers(len(content), size=4):
        content[place] ^= 1 << int(rng.integers(8))
      try:
        assert transforms.decode_bytes(bytes(content), 'flipped').shape[2:] == (3,)
      except transforms.DecodeError as error:
        assert str(error).startswith('flipped: ')
