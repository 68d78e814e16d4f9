"""Files that mean harm, each with the answers that it may get; made from a seed.

    python -m tests.prediction.hostile --count 300 --model runs/demo/masm

sends as many through an engine and says what came of each.
"""

import argparse
import dataclasses
import io
import os
import pathlib
import struct
import sys
import time
import zlib
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image

_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Hostile:
  """One file.

  Attributes:
    kind: what is wrong with it.
    name: what it is called.
    content: its bytes.
    allowed: reasons that a `no_answer` may have; () where any answer is right, as for a file whose
      damage may leave it readable.
  """

  kind: str
  name: str
  content: bytes
  allowed: tuple[str, ...] = ()


def make(count: int, seed: int = 0) -> Iterator[Hostile]:
  """So many files, kind after kind; equal arguments give equal files."""
  rng = np.random.default_rng(seed)
  for i in range(count):
    yield make_one(KINDS[i % len(KINDS)], rng)


def make_one(kind: str, rng: np.random.Generator) -> Hostile:
  """A file of a kind."""
  name, content, *allowed = _MAKERS[kind](rng)
  return Hostile(kind, name, content, tuple(allowed))


def _picture(rng: np.random.Generator, form: str = 'PNG', side: int = _SIDE) -> bytes:
  pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, form)
  return stream.getvalue()


def _clip(
  rng: np.random.Generator, form: str = 'mp4', *, frames: int = 8, streams: int = 1, side: int = 32
) -> bytes:
  stream = io.BytesIO()
  with av.open(stream, 'w', format=form) as container:
    tracks = [container.add_stream('mpeg4', rate=25) for _ in range(streams)]
    for track in tracks:
      track.width = track.height = side
      track.pix_fmt = 'yuv420p'
    for _ in range(frames):
      pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
      for track in tracks:
        for packet in track.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')):
          container.mux(packet)
    for track in tracks:
      for packet in track.encode():
        container.mux(packet)
  return stream.getvalue()


def _form(rng: np.random.Generator) -> tuple[str, str]:
  return [('mp4', 'mp4'), ('matroska', 'mkv'), ('avi', 'avi'), ('webm', 'webm')][rng.integers(3)]


def _truncated_video(rng):
  form, suffix = _form(rng)
  content = _clip(rng, form)
  return f'cut.{suffix}', content[: rng.integers(1, len(content))]


def _flipped_video(rng):
  form, suffix = _form(rng)
  content = bytearray(_clip(rng, form))
  for place in rng.integers(0, len(content), rng.integers(1, 200)):
    content[place] ^= 1 << rng.integers(8)
  return f'flipped.{suffix}', bytes(content)


def _flipped_head(rng):
  content = bytearray(_clip(rng))
  for place in rng.integers(0, 48, 12):
    content[place] = rng.integers(256)
  return 'head.mp4', bytes(content)


def _truncated_picture(rng):
  form = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF')[rng.integers(6)]
  content = _picture(rng, form)
  return f'cut.{form.lower()}', content[: rng.integers(1, len(content) - 2)]


def _flipped_picture(rng):
  form = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'GIF')[rng.integers(5)]
  content = bytearray(_picture(rng, form))
  for place in rng.integers(0, len(content), rng.integers(1, 60)):
    content[place] ^= 1 << rng.integers(8)
  return f'flipped.{form.lower()}', bytes(content)


def _png(width: int, height: int, rows: bytes) -> bytes:
  def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  parts = (chunk(b'IHDR', header), chunk(b'IDAT', rows), chunk(b'IEND', b''))
  return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def _huge_picture(rng):
  side = int(rng.integers(28_000, 32_000))
  compress = zlib.compressobj(9)
  row = bytes(side + 1)
  rows = b''.join(compress.compress(row) for _ in range(200)) + compress.flush()
  return 'huge.png', _png(side, side, rows), 'limit_exceeded', 'unreadable'


def _bomb(rng):
  del rng
  rows = zlib.compress(bytes(10_000_000), 9)  # More than the header declares.
  return 'bomb.png', _png(64, 64, rows)


def _text_bomb(rng):
  del rng
  text = zlib.compress(bytes(50_000_000), 9)
  body = b'zTXtComment\0\0' + text
  bomb = struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))
  content = _png(8, 8, zlib.compress(bytes(8 * 9)))
  return 'text.png', content[:33] + bomb + content[33:]


def _playlist(rng):
  target = ('/etc/passwd', 'file:///etc/hostname', 'http://127.0.0.1:9/a.ts')[rng.integers(3)]
  text = f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n'
  return ('list.m3u8', 'list.mp4')[rng.integers(2)], text.encode(), 'unreadable'


def _concat(rng):
  del rng
  return 'list.mkv', b"ffconcat version 1.0\nfile '/etc/passwd'\n", 'unreadable'


def _dash(rng):
  del rng
  text = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
    '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL>&b;</MPD>'
  )
  return 'stream.mp4', text.encode(), 'unreadable'


def _eps(rng):
  del rng
  text = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/owned) (w) file closefile\n'
  return 'photo.png', text, 'unreadable'


def _svg(rng):
  del rng
  text = (
    '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/>'
    '<script>fetch("http://127.0.0.1:9")</script></svg>'
  )
  return 'photo.png', text.encode(), 'unreadable'


def _long(rng):
  """A header that declares ten hours and more."""
  content = bytearray(_clip(rng, 'matroska'))
  at = content.index(b'\x44\x89\x88') + 3  # Duration, a double, in milliseconds.
  content[at : at + 8] = struct.pack('>d', float(rng.integers(36_000_000, 360_000_000)))
  return 'long.mkv', bytes(content), 'limit_exceeded'


def _many_streams(rng):
  return 'streams.mkv', _clip(rng, 'matroska', frames=1, streams=200), 'limit_exceeded'


def _large_frames(rng):
  content = bytearray(_clip(rng))
  at = content.find(b'mp4v', content.find(b'stsd'))
  content[at + 28 : at + 32] = struct.pack('>HH', 30_000, 30_000)
  return 'wide.mp4', bytes(content)


def _many_declared(rng):
  """An index that declares more samples than there are bytes."""
  content = bytearray(_clip(rng))
  at = content.find(b'stsz')
  content[at + 12 : at + 16] = struct.pack('>I', int(rng.integers(2**24, 2**31)))
  return 'index.mp4', bytes(content)


def _sound_only(rng):
  stream = io.BytesIO()
  with av.open(stream, 'w', format='mp4') as container:
    track = container.add_stream('aac', rate=44100)
    samples = rng.normal(0, 0.1, (1, 1024)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
    frame.sample_rate = 44100
    packets = track.encode(frame)
    for packet in (*packets, *track.encode()):
      container.mux(packet)
  return 'sound.mp4', stream.getvalue(), 'no_video_stream'


def _odd_name(rng):
  names = (
    *('../../../etc/cron.d/a.mp4', 'a\0b.mp4', 'a\nb.png', '/etc/passwd', 'x' * 5000, '..', '-rf'),
    *('\u202egpj.exe', 'CON', '%2e%2e%2f', '<img src=x onerror=alert(1)>.png'),
  )
  return names[rng.integers(len(names))], _picture(rng)


def _noise(rng):
  head = (b'', b'\x1aE\xdf\xa3', b'\0\0\0\x18ftypmp42', b'RIFF\0\0\0\0AVI ', b'\xff\xd8\xff\xe0',
          b'GIF89a', b'II*\0', b'RIFF\0\0\0\0WEBPVP8 ', b'BM')[rng.integers(9)]  # fmt: skip
  return 'noise.bin', head + rng.integers(0, 256, rng.integers(1, 20_000), dtype=np.uint8).tobytes()


def _pickle(rng):
  del rng
  return 'array.npy', b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", 'unreadable'


def _empty(rng):
  del rng
  return 'empty.mp4', b'', 'unreadable'


def _gif_bomb(rng):
  """An animation of many frames: only its first one is looked at."""
  frames = [Image.new('P', (256, 256), int(rng.integers(256))) for _ in range(200)]
  stream = io.BytesIO()
  frames[0].save(stream, 'GIF', save_all=True, append_images=frames[1:])
  return 'long.gif', stream.getvalue()


def _tiff_loop(rng):
  """Directories that point at themselves."""
  content = bytearray(_picture(rng, 'TIFF'))
  at = struct.unpack('<I', content[4:8])[0]
  count = struct.unpack('<H', content[at : at + 2])[0]
  content[at + 2 + 12 * count : at + 6 + 12 * count] = struct.pack('<I', at)
  return 'loop.tiff', bytes(content)


_MAKERS = {
  'truncated video': _truncated_video,
  'flipped bits of a video': _flipped_video,
  'damaged head of a video': _flipped_head,
  'truncated picture': _truncated_picture,
  'flipped bits of a picture': _flipped_picture,
  'huge picture': _huge_picture,
  'decompression bomb': _bomb,
  'text bomb': _text_bomb,
  'playlist': _playlist,
  'concat script': _concat,
  'DASH manifest with an entity': _dash,
  'EPS named PNG': _eps,
  'SVG named PNG': _svg,
  'ten hours declared': _long,
  '200 streams': _many_streams,
  'huge frames declared': _large_frames,
  'endless index': _many_declared,
  'sound only': _sound_only,
  'odd name': _odd_name,
  'noise behind a known head': _noise,
  'pickle named as an array': _pickle,
  'empty': _empty,
  'endless animation': _gif_bomb,
  'TIFF loop': _tiff_loop,
}

KINDS = tuple(_MAKERS)


def main(argv: list[str] | None = None) -> int:
  """Sends files through an engine, in this process; returns 1 if one had a wrong answer."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--model', required=True)
  parser.add_argument('--out', type=pathlib.Path, help='writes the files there, and no more')
  args = parser.parse_args(argv)
  if args.out:
    args.out.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(make(args.count, args.seed)):
      suffix = os.path.splitext(file.name)[1][:8].replace('/', '_').replace('\0', '_')
      (args.out / f'{i:03d}_{file.kind.replace(" ", "_")}{suffix}').write_bytes(file.content)
    return 0
  import collections
  import resource

  import masm_jax
  from masm_jax.prediction.engine import Engine
  from masm_jax.prediction.media import Limits, Source
  from tests.prediction.answers_made import check

  detector = masm_jax.load(args.model, batch_size=8)
  limits = Limits(seconds=3600, pixels=2**24, frames=20_000, streams=16,
                  memory_bytes=600 * 2**20, cpu_seconds=10, wall_seconds=30)  # fmt: skip
  outcomes: collections.Counter = collections.Counter()
  wrong = 0
  started = time.monotonic()
  with Engine(detector, faces='whole', limits=limits) as engine:
    for file in make(args.count, args.seed):
      answer = engine.submit(Source(file.content, name=file.name)).result()
      check(answer)
      if file.allowed and (answer.verdict != 'no_answer' or answer.reasons[0] not in file.allowed):
        wrong += 1
        print(f'WRONG {file.kind}: {answer.verdict} {answer.reasons} {answer.warnings}')
      outcomes[file.kind, answer.verdict if answer.tracks else answer.reasons[0]] += 1
    print(engine.isolation)
  for (kind, outcome), number in sorted(outcomes.items()):
    print(f'{kind:32s} {outcome:16s} {number}')
  seconds = time.monotonic() - started
  peak = [resource.getrusage(who).ru_maxrss // 1024
          for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # fmt: skip
  print(f'{args.count} files in {seconds:.0f} s, {wrong} wrong; peak {peak[0]} MiB here, {peak[1]}'
        ' MiB in a child')  # fmt: skip
  return int(wrong > 0)


if __name__ == '__main__':
  sys.exit(main())
