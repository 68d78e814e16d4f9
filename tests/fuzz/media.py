"""Borders of media: pictures and videos."""

import io
import pathlib

import av
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from masm_jax.data import raster, transforms
from masm_jax.preprocess import video
from tests.fuzz.border import Border
from tests.fuzz.mutations import spoilt_bytes


def _pictures(folder: pathlib.Path) -> list[bytes]:
  """A small file of every format, and of every mode that a format has."""
  rng = np.random.default_rng(0)
  noise = Image.fromarray(rng.integers(0, 256, (24, 18, 4), np.uint8))
  exif = Image.Exif()
  exif[274] = 6
  ways = [
    ('JPEG', 'RGB', {'exif': exif}), ('JPEG', 'L', {'progressive': True}), ('JPEG', 'CMYK', {}),
    ('PNG', 'RGBA', {}), ('PNG', 'P', {}), ('PNG', '1', {}), ('PNG', 'LA', {'optimize': True}),
    ('WEBP', 'RGB', {}), ('WEBP', 'RGBA', {'lossless': True}), ('WEBP', 'RGB', {'exif': exif}),
    ('BMP', 'RGB', {}), ('BMP', 'P', {}), ('GIF', 'P', {}), ('TIFF', 'RGB', {}),
    ('TIFF', 'RGB', {'compression': 'tiff_lzw'}), ('TIFF', 'L', {'compression': 'jpeg'}),
    ('TIFF', 'CMYK', {'compression': 'tiff_adobe_deflate'}), ('AVIF', 'RGB', {'speed': 10}),
  ]  # fmt: skip
  files = []
  for kind, mode, options in ways:
    if kind in raster.FORMATS:
      file = io.BytesIO()
      noise.convert('RGB' if mode == 'CMYK' else mode).convert(mode).save(file, kind, **options)
      files.append(file.getvalue())
  file = io.BytesIO()
  frames = [noise.convert('P'), noise.convert('P').rotate(90)]
  frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
  deep = io.BytesIO()
  Image.fromarray(rng.integers(0, 2**16, (9, 9), np.uint16)).save(deep, 'PNG')
  return [*files, file.getvalue(), deep.getvalue()]


def _decode(state: list[bytes], folder: pathlib.Path) -> str:
  image = transforms.decode(folder / 'a.png')
  assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
  assert image.shape[0] * image.shape[1] <= raster.MAX_PIXELS
  return 'decoded'


def _videos(folder: pathlib.Path) -> list[bytes]:
  """Four frames in several containers and codecs."""
  rng = np.random.default_rng(0)
  found = []
  for name, codec, pixels in (
    ('a.mp4', 'libx264', 'yuv420p'), ('b.mkv', 'libx264', 'yuv420p'), ('c.avi', 'mpeg4', 'yuv420p'),
    ('d.webm', 'libvpx', 'yuv420p'), ('e.mov', 'mjpeg', 'yuvj420p'), ('f.gif', 'gif', 'rgb8'),
    ('g.ts', 'mpeg2video', 'yuv420p'), ('h.h264', 'libx264', 'yuv420p'),
  ):  # fmt: skip
    with av.open(f'file:{folder / name}', 'w') as container:
      stream = container.add_stream(codec, rate=25)
      stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
      stream.codec_context.thread_count = 1
      for _ in range(4):
        picture = rng.integers(0, 256, (32, 48, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
      container.mux(stream.encode())
    found.append((folder / name).read_bytes())
  return found


def _read(state: list[bytes], folder: pathlib.Path) -> str:
  try:
    clip = video.read_video(folder / 'a.mp4', 3)
    shapes = {frame.rgb().shape for frame in clip.frames}
  except video.UnreadableError as error:
    assert '\n' not in str(error)
    return 'refused'
  assert len(clip.frames) <= 3 and all(shape[2] == 3 for shape in shapes)
  return 'damaged' if clip.problems else 'decoded'


def _files(name: str) -> 'st.SearchStrategy':
  return lambda seeds: st.builds(lambda content: {name: content}, spoilt_bytes(seeds))


IMAGES = Border('images', _pictures, _files('a.png'), _decode, 400)
VIDEOS = Border('videos', _videos, _files('a.mp4'), _read, 100)
