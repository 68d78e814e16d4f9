"""Pictures that would eat the machine are refused before they do, and large ones keep the limit."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from masm_jax.data import raster, transforms

MIB = 2**20

pytestmark = pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')


def encoded(size, kind, mode='RGB', **options):
  file = io.BytesIO()
  Image.new(mode, size).save(file, kind, **options)
  return file.getvalue()


def webp(width, height):
  """34 bytes."""
  content = bytearray(encoded((16, 16), 'WEBP', lossless=True))
  start = content.index(b'VP8L') + 9
  content[start : start + 4] = struct.pack('<I', (width - 1) | (height - 1) << 14)
  return bytes(content)


def extended_webp(width, height):
  """An animation's canvas, larger than its frame."""
  inner = encoded((16, 16), 'WEBP', lossless=True)[12:]
  sides = b''.join(struct.pack('<I', side - 1)[:3] for side in (width, height))
  body = b'WEBP' + b'VP8X' + struct.pack('<I', 10) + bytes(4) + sides + inner
  return b'RIFF' + struct.pack('<I', len(body)) + body


def png(width, height):
  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  pixels = zlib.compress(bytes(1000))
  parts = chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + parts


def jpeg(width, height):
  content = bytearray(encoded((16, 16), 'JPEG'))
  start = content.index(b'\xff\xc0') + 5
  content[start : start + 4] = struct.pack('>HH', height, width)
  return bytes(content)


def gif(width, height):
  content = bytearray(encoded((16, 16), 'GIF', mode='P'))
  content[6:10] = struct.pack('<HH', width, height)
  return bytes(content)


def bmp(width, height):
  content = bytearray(encoded((16, 16), 'BMP'))
  content[18:26] = struct.pack('<ii', width, height)
  return bytes(content)


def tiff(width, height):
  content = bytearray(encoded((16, 16), 'TIFF', compression='tiff_lzw'))
  (start,) = struct.unpack_from('<I', content, 4)
  for i in range(struct.unpack_from('<H', content, start)[0]):
    tag = start + 2 + 12 * i
    if (number := struct.unpack_from('<H', content, tag)[0]) in (256, 257):
      struct.pack_into('<HII', content, tag + 2, 4, 1, width if number == 256 else height)
  return bytes(content)


def peak_bytes(run):
  """What a call adds to the memory of this process at its height."""
  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')  # Sets the peak to what is taken now.

  def read(name):
    with open('/proc/self/status') as file:
      return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

  before = read('VmRSS')
  run()
  return read('VmHWM') - before


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (webp(11_000, 12_000), '11000 x 12000 pixels; the limit is 53,687,091 in all'),
    (webp(16_384, 16_384), '16384 x 16384 pixels; the limit is 53,687,091 in all'),
    (extended_webp(12_000, 11_000), '12000 x 11000 pixels; the limit is 53,687,091 in all'),
    (extended_webp(2**24, 1), '16777216 x 1 pixels; the limit of a side is 32768'),
    (png(1, 67_108_864), '1 x 67108864 pixels; the limit of a side is 32768'),
    (png(40_000, 10), '40000 x 10 pixels; the limit of a side is 32768'),
    (png(12_000, 12_000), '12000 x 12000 pixels; the limit is 134,217,728 in all'),
    (jpeg(65_500, 65_500), ' pixels'),
    (jpeg(12_000, 12_000), '12000 x 12000 pixels; the limit is 134,217,728 in all'),
    (gif(65_535, 1), '65535 x 16 pixels; the limit of a side is 32768'),
    (bmp(1, 2**30), ' pixels'),
    (tiff(10_000, 10_000), '10000 x 10000 pixels; the limit is 53,687,091 in all'),
  ],
  ids=lambda value: value if isinstance(value, str) else f'{len(value)} bytes',
)  # fmt: skip
def test_bombs_are_refused_before_they_take_memory(content, message):
  def decode():
    with pytest.raises(transforms.DecodeError, match=r'a\.png: ') as caught:
      transforms.decode_bytes(content, 'a.png')
    assert message in str(caught.value)

  assert len(content) < 5000
  assert peak_bytes(decode) < 16 * MIB


@pytest.mark.parametrize(
  ('kind', 'options'),
  [
    ('JPEG', {'progressive': True, 'subsampling': 0}),
    ('JPEG', {'progressive': True, 'mode': 'CMYK'}),
    ('PNG', {}),
    ('PNG', {'mode': 'RGBA'}),
    ('GIF', {'mode': 'P'}),
    ('BMP', {}),
    ('WEBP', {'lossless': True}),
    ('WEBP', {'lossless': True, 'mode': 'RGBA'}),
    ('TIFF', {'compression': 'tiff_lzw'}),
    ('AVIF', {'speed': 10}),
  ],
  ids=str,
)
def test_the_largest_pictures_keep_the_limit_of_memory(monkeypatch, kind, options):
  """With a limit of a sixteenth: all that is measured grows with the pixels."""
  if kind == 'AVIF' and kind not in raster.FORMATS:
    pytest.skip('this Pillow reads no AVIF')
  limit = raster.MAX_MEMORY_BYTES // 16
  monkeypatch.setattr(raster, 'MAX_MEMORY_BYTES', limit)
  monkeypatch.setattr(raster, 'MAX_PIXELS', raster.MAX_PIXELS // 16)
  monkeypatch.setattr(raster, '_STRIP_PIXELS', raster._STRIP_PIXELS // 16)
  more = raster._MORE_BYTES.get((kind, options.get('mode')), 0)
  side = int((limit / (raster._BYTES_PER_PIXEL[kind] + more)) ** 0.5)
  content = encoded((side, side), kind, **options)
  found = []
  assert peak_bytes(lambda: found.append(transforms.decode_bytes(content, 'a'))) < limit
  assert found[0].shape[0] in (side, -(-side // 2)) and found[0].dtype == np.uint8
  with pytest.raises(transforms.DecodeError, match='pixels; the limit is'):
    transforms.decode_bytes(encoded((side + 2, side + 2), kind, **options), 'a')


def test_strips_are_the_whole(monkeypatch):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (53, 40, 4), np.uint8)
  for image in (Image.fromarray(pixels), Image.fromarray(pixels[..., 0])):
    whole = raster.rgb(image)
    monkeypatch.setattr(raster, '_STRIP_PIXELS', 400)
    np.testing.assert_array_equal(raster.rgb(image), whole)
    monkeypatch.undo()
    np.testing.assert_array_equal(whole, np.asarray(image.convert('RGB')))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  from masm_jax.data.manifest import build_manifest

  with open(tmp_path / 'a.png', 'wb') as file:
    file.truncate(raster.MAX_FILE_BYTES + 1)  # It has holes, and takes no space.
  rows = [{'path': 'a.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': 'v'}]

  def read():
    with pytest.raises(transforms.DecodeError, match='a file of 536,870,913 bytes; the limit is'):
      transforms.decode(tmp_path / 'a.png')
    table = build_manifest(rows, tmp_path).table
    assert table[['width', 'height', 'sha256']].values.tolist() == [[0, 0, '']]

  assert peak_bytes(read) < 16 * MIB
