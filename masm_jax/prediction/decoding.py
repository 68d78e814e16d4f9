"""Opens one file in the child process: what it is, its limits, its frames.

What a file is, its first bytes say, never its name. Decoded frames are held while they fit in
`_HELD_BYTES`, and decoded again otherwise: so memory depends on the size of a frame, not on the
length of the video.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, BinaryIO, Literal

import av
import numpy as np

from masm_jax.data import raster, transforms
from masm_jax.prediction.answers import Reason
from masm_jax.prediction.media import Limits
from masm_jax.preprocess import streams, video

_HELD_BYTES = 128 * 2**20
_PICTURE_BYTES = 256 * 2**20  # No picture is larger.
_HEAD_BYTES = 32
# Brands of ISO media files that are pictures: AVIF and HEIF.
_PICTURE_BRANDS = (b'avif', b'avis', b'heic', b'heix', b'heim', b'heis', b'mif1', b'msf1')
_ATOMS = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip', b'pnot')
# Decoders that videos of people come in; FFmpeg has four hundred more.
_CODECS = frozenset(
  (
    *('h264', 'hevc', 'vp8', 'vp9', 'av1', 'libdav1d', 'libaom-av1', 'libvpx', 'libvpx-vp9'),
    *('mpeg4', 'mpeg1video', 'mpeg2video', 'mjpeg', 'h263', 'msmpeg4v2', 'msmpeg4', 'msmpeg4v3'),
    *('wmv1', 'wmv2', 'wmv3', 'vc1', 'flv', 'theora', 'dvvideo', 'prores', 'dnxhd', 'cfhd', 'ffv1'),
    *('huffyuv', 'ffvhuff', 'utvideo', 'rawvideo', 'png', 'svq3', 'cinepak'),
  )
)


class Refused(Exception):
  """A file that gets no answer; the text says why in plain words.

  Attributes:
    reason: of `answers.REASONS`.
  """

  def __init__(self, reason: Reason, text: str):
    super().__init__(text)
    self.reason = reason


@dataclasses.dataclass
class Reading:
  """What is known of a file while it is read.

  Attributes:
    input: fields of `answers.InputFacts` but for the name and the hash.
    warnings: plain sentences.
    upside_down: people whose crops are not to be scored.
    num_people: how many there are, those beyond the limit included.
    timing_s: seconds by stage.
  """

  input: dict[str, Any] = dataclasses.field(default_factory=dict)
  warnings: list[str] = dataclasses.field(default_factory=list)
  upside_down: list[int] = dataclasses.field(default_factory=list)
  num_people: int = 0
  timing_s: dict[str, float] = dataclasses.field(
    default_factory=lambda: {'decode': 0.0, 'faces': 0.0}
  )


@dataclasses.dataclass(frozen=True)
class Opened:
  """The sampled frames of a file, twice.

  Attributes:
    frames: once; each is converted when it is asked for.
    again: the same once more.
    num: how many.
  """

  frames: Iterable[video.Frame]
  again: Iterable[video.Frame]
  num: int


def open_file(
  file: BinaryIO,
  *,
  kind: Literal['file', 'array'],
  num_frames: int,
  limits: Limits,
  reading: Reading,
) -> Opened:
  """Opens a file as a video, a picture, or what `np.save` writes of one.

  Args:
    file: opened to read bytes.
    kind: an array is the program's own.
    num_frames: of a video.
    limits: see there.
    reading: filled with what is known.

  Raises:
    Refused: it cannot be read, or a limit strikes.
  """
  if kind == 'array':
    frames = [_array(file, limits, reading)]
  elif not _is_video(file):
    frames = [_picture(file, limits, reading)]
  else:
    clip, held = _open_video(file, num_frames, limits, reading)
    if not held:
      return Opened(video.frames_at(file, clip), video.frames_at(file, clip), len(clip.frames))
    frames = list(clip.frames)
  return Opened(frames, frames, len(frames))


class _Checks(video.Checks):
  """Limits, while a video is read; adds to what is known of it."""

  def __init__(self, limits: Limits, reading: Reading):
    self._limits, self._reading = limits, reading
    self._packets = self._frames = 0
    self.num_pixels = 0  # Of the largest frame so far.

  def container(self, container: av.container.InputContainer) -> None:
    """Sizes that the file declares."""
    limits, found = self._limits, self._reading.input
    self._packets = self._frames = 0
    if len(container.streams) > limits.streams:
      raise Refused(
        'limit_exceeded', f'{len(container.streams)} streams; the limit is {limits.streams}'
      )
    stream = streams.video_stream(container)
    if stream is None:
      raise Refused('no_video_stream', 'no video in it')
    codec = stream.codec_context.name if stream.codec_context else 'an unknown codec'
    if codec not in _CODECS:
      raise Refused('unreadable', f'the codec {codec[:40]} is not read')
    self._size(stream.codec_context.width, stream.codec_context.height)
    duration = container.duration / av.time_base if container.duration else None
    if duration is None and stream.duration and stream.time_base:
      duration = float(stream.duration * stream.time_base)
    self._duration(duration or 0.0)
    if stream.frames > limits.frames:
      raise Refused('limit_exceeded', f'{stream.frames} frames; the limit is {limits.frames}')
    rate = stream.average_rate or stream.guessed_rate
    found |= {
      'codec': stream.codec_context.codec.canonical_name[:64],
      'duration_s': duration if duration and duration > 0 else None,
      'fps': float(rate) if rate and 0 < rate < 1e6 else None,
    }

  def packet(self, packet: av.Packet) -> None:
    """Packets are counted: a header may declare none."""
    self._packets += 1
    if self._packets > 2 * self._limits.frames:
      raise Refused('limit_exceeded', f'more than {self._limits.frames} frames')

  def frame(self, frame: av.VideoFrame) -> None:
    """A frame may be larger than its header said."""
    self._frames += 1
    if self._frames > self._limits.frames:
      raise Refused('limit_exceeded', f'more than {self._limits.frames} frames')
    self._size(frame.width, frame.height)
    self._duration(frame.time or 0.0)

  def _size(self, width: int, height: int) -> None:
    self.num_pixels = max(self.num_pixels, width * height)
    _check_size(width, height, self._limits)

  def _duration(self, seconds: float) -> None:
    if seconds > self._limits.seconds:
      text = f'{seconds:.0f} seconds; the limit is {self._limits.seconds:g}'
      raise Refused('limit_exceeded', text)


def _is_video(file: BinaryIO) -> bool:
  """By its first bytes, never by its name."""
  file.seek(0)
  head = file.read(_HEAD_BYTES)
  if not head:
    raise Refused('unreadable', 'the file is empty')
  if head[:4] == b'\x1aE\xdf\xa3' or (head[:4] == b'RIFF' and head[8:11] == b'AVI'):
    return True
  return head[4:8] in _ATOMS and not (head[4:8] == b'ftyp' and head[8:12] in _PICTURE_BRANDS)


def _open_video(
  file: BinaryIO, num_frames: int, limits: Limits, reading: Reading
) -> tuple[video.Clip, bool]:
  """The sampled frames, and whether they hold their pictures."""
  reading.input['kind'] = 'video'
  checks = _Checks(limits, reading)
  try:
    with streams.open_video(file) as container:
      checks.container(container)
    held = num_frames * checks.num_pixels * 1.5 <= _HELD_BYTES  # They are kept as YUV 4:2:0.
    clip = video.read_video(file, num_frames, hold=held, checks=checks)
    first = clip.frames[0].rgb() if held else next(iter(video.frames_at(file, clip))).rgb()
  except av.FFmpegError as error:
    raise _refused(streams.reason_of(error)) from error
  except video.UnreadableError as error:
    raise _refused(str(error)) from error
  reading.input |= {
    'height': first.shape[0],
    'width': first.shape[1],
    'frames': clip.num_available,
  }
  reading.warnings += [f'Part of the video is damaged: {text}.' for text in clip.problems]
  return clip, held


def _refused(text: str) -> Refused:
  if 'cannot allocate memory' in text.lower():
    return Refused('limit_exceeded', 'it takes more memory than is allowed')
  return Refused('no_video_stream' if text == 'no video stream' else 'unreadable', text)


def _picture(file: BinaryIO, limits: Limits, reading: Reading) -> video.Frame:
  file.seek(0)
  content = file.read(_PICTURE_BYTES + 1)
  if len(content) > _PICTURE_BYTES:
    raise Refused('unreadable', 'neither a video nor a picture')
  reading.input['kind'] = 'unknown'
  try:
    with raster.open_image(content) as opened:
      reading.input |= {'kind': 'image', 'codec': str(opened.format).lower()}
      _check_size(*opened.size, limits)
      if getattr(opened, 'n_frames', 1) > 1:
        reading.warnings.append('An animation: only its first picture is looked at.')
  except raster.TooLargeError as error:
    reading.input['kind'] = 'image'
    raise Refused('limit_exceeded', str(error)) from error
  except (Refused, MemoryError):
    raise
  except Exception as error:  # Pillow raises a dozen types on damaged files.
    raise Refused('unreadable', 'neither a video nor a picture') from error
  try:
    image = transforms.decode_bytes(content, 'the picture')
  except transforms.DecodeError as error:
    raise Refused('unreadable', str(error)) from error
  return _still(image, reading)


def _array(file: BinaryIO, limits: Limits, reading: Reading) -> video.Frame:
  image = np.load(file, allow_pickle=False)
  reading.input |= {'kind': 'array'}
  _check_size(image.shape[1], image.shape[0], limits)
  return _still(image, reading)


def _still(image: np.ndarray, reading: Reading) -> video.Frame:
  reading.input |= {'height': image.shape[0], 'width': image.shape[1]}
  return _Still(0, None, 0.0, image=image)


@dataclasses.dataclass(frozen=True)
class _Still(video.Frame):
  """A picture that is decoded already."""

  image: np.ndarray | None = None

  def rgb(self) -> np.ndarray:
    """The picture, uint8 RGB [H, W, 3]."""
    assert self.image is not None
    return self.image


def _check_size(width: int, height: int, limits: Limits) -> None:
  if width * height > limits.pixels:
    text = f'{width} x {height} pixels; the limit is {limits.pixels} in all'
    raise Refused('limit_exceeded', text)
