"""Evenly spaced frames of a video, of a folder of frames, or of a single image.

Seeking frame by frame is ten times slower than one sequential pass, and wrong in files without a
proper index: so a video is decoded once from its start, and only the wanted frames are kept and
converted.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from masm_jax.data import transforms
from masm_jax.data.importers import names
from masm_jax.preprocess import video_limits
from masm_jax.preprocess.raw_video import is_picture

# Containers only. FFmpeg also opens play lists and scripts, which name further files and addresses:
# those must not be reached through a file that merely calls itself a video.
_OPTIONS = {
  'protocol_whitelist': 'file',
  'format_whitelist': 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,'
  'ivf,h264,hevc,nut,mxf,gif',
  **video_limits.OPTIONS,
}
_STRANGERS_OPTIONS = {
  'protocol_whitelist': 'none',
  'format_whitelist': 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi',
  **video_limits.OPTIONS,
}

Source = str | os.PathLike | BinaryIO


class UnreadableError(Exception):
  """No frame can be had from a file; the text says why, without the path."""


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, converted when it is asked for: 32 Full HD frames in RGB would be 200 MB.

  Attributes:
    index: its number in the video, from 0; in a folder of frames, the number in its name.
    source: the decoder's own frame, or the path of an image; None where it was let go.
    time_s: when it is shown, seconds; None where nothing tells.
    turns: quarters against the clock that put it upright, 0 to 3.
  """

  index: int
  source: av.VideoFrame | str | None
  time_s: float | None = None
  turns: int = 0

  def rgb(self) -> np.ndarray:
    """The frame upright, as uint8 RGB [H, W, 3].

    Raises:
      UnreadableError: an image that does not decode.
    """
    if isinstance(self.source, str):
      try:
        return transforms.decode(self.source)
      except transforms.DecodeError as error:
        raise UnreadableError(str(error).removeprefix(f'{self.source}: ')) from error
    assert self.source is not None, 'read it again with `frames_at`'
    image = self.source.to_ndarray(format='rgb24')
    return np.ascontiguousarray(np.rot90(image, k=self.turns))


@dataclasses.dataclass(frozen=True)
class Clip:
  """Frames of one video, in order.

  Attributes:
    frames: at most as many as were asked for.
    num_available: frames that the video has, as far as it can be decoded.
    problems: what was wrong with it; empty for a sound file.
  """

  frames: tuple[Frame, ...]
  num_available: int
  problems: tuple[str, ...] = ()


def even_indices(num_available: int, num_frames: int) -> list[int]:
  """Evenly spaced indices from the first frame to the last, as DeepfakeBench takes them.

  All indices where there are no more than `num_frames`; the whole part where they fall between.
  """
  count = min(num_available, num_frames)
  return np.linspace(0, num_available - 1, count).astype(int).tolist()


class Checks:
  """What a caller wants to look at while a video is read; each method may raise.

  This one lets everything pass.
  """

  def container(self, container: av.container.InputContainer) -> None:
    """Called once a file is open, before anything is decoded for its own sake."""

  def packet(self, packet: av.Packet) -> None:
    """Called with each packet of the video, before it is decoded."""

  def frame(self, frame: av.VideoFrame) -> None:
    """Called with each decoded frame, before it is converted."""


def read_video(
  source: Source, num_frames: int, *, hold: bool = True, checks: Checks | None = None
) -> Clip:
  """Decodes `num_frames` evenly spaced frames of a video, or all if it has fewer.

  A frame that arrives damaged gives way to the next sound one. Where the file ends before the
  frames that its header declares, the frames are spread over what there is, in a second pass.

  Args:
    source: path of the file, or the file itself, opened to read bytes.
    num_frames: at most so many.
    hold: False lets the pictures go as they come: `frames_at` reads them again.
    checks: see there.

  Raises:
    UnreadableError: no file, not a video, or no frame in it decodes.
  """
  checks = checks or Checks()
  declared = _declared_frames(source, checks)
  first = _Pass(source, even_indices(declared, num_frames), checks)
  frames, problems = first.read(hold), first.problems
  if len(frames) < min(num_frames, declared) and first.count < declared:
    problems = [f'{first.count} of {declared} frames decode', *problems]
    frames = _Pass(source, even_indices(first.count, num_frames), checks).read(hold)
  if not frames:
    raise UnreadableError('; '.join(dict.fromkeys(problems)) or 'no frame in it decodes')
  return Clip(tuple(frames), first.count, tuple(dict.fromkeys(problems)))


def read_video_at(path: str | os.PathLike, indices: Sequence[int]) -> list[Frame]:
  """Decodes the frames with given indices (sorted); those past the end are left out.

  Raises:
    UnreadableError: as `read_video`.
  """
  _declared_frames(path, Checks())
  return _Pass(path, indices, Checks()).read(hold=True)


def frames_at(source: Source, clip: Clip, *, checks: Checks | None = None) -> Iterator[Frame]:
  """The frames of a clip of `read_video`, one after the other, in another pass.

  Raises:
    UnreadableError: as `read_video`.
  """
  yield from _Pass(source, [frame.index for frame in clip.frames], checks or Checks())


def read_folder(folder: str | os.PathLike, num_frames: int) -> Clip:
  """Evenly spaced images of a folder, in the order of the numbers in their names.

  Raises:
    UnreadableError: there is no image in it.
  """
  paths = image_paths(folder)
  if not paths:
    raise UnreadableError('no image in the folder')
  numbers = [names.frame_number(path.stem) for path in paths]
  if len(set(numbers)) < len(paths):  # Names without numbers of their own: their order counts.
    numbers = list(range(len(paths)))
  chosen = even_indices(len(paths), num_frames)
  return Clip(tuple(Frame(numbers[i], os.fspath(paths[i])) for i in chosen), len(paths))


def read_image(path: str | os.PathLike) -> Clip:
  """A single image, as a clip of one frame."""
  return Clip((Frame(0, os.fspath(path)),), 1)


def image_paths(folder: str | os.PathLike) -> list[pathlib.Path]:
  """The images directly in a folder, by the number at the end of their names, then by name."""
  with os.scandir(folder) as entries:
    found = [pathlib.Path(entry.path) for entry in entries if is_picture(entry.name)]
  return sorted(found, key=lambda path: (names.frame_number(path.stem), path.name))


def open_video(source: Source) -> av.container.InputContainer:
  """Opens a video by FFmpeg: this one file, and nothing that it may name.

  Args:
    source: path of the file, or the file itself, opened to read bytes.

  Raises:
    av.FFmpegError: it is no video.
  """
  if isinstance(source, str | os.PathLike):
    # The prefix keeps a colon in a name from being taken for a protocol.
    return av.open(f'file:{os.fspath(source)}', options=_OPTIONS, metadata_errors='ignore')
  source.seek(0)
  # Bytes of strangers: fewer formats, and no protocol by which anything else could be opened.
  return av.open(source, options=_STRANGERS_OPTIONS, metadata_errors='ignore')


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
  """The first video stream that is no cover picture of a song; None if there is none."""
  streams = [
    stream
    for stream in container.streams.video
    if not stream.disposition & Disposition.attached_pic
  ]
  return streams[0] if streams else None


def ready_stream(container: av.container.InputContainer) -> av.VideoStream:
  """The video stream of a container, to be decoded by one thread.

  Raises:
    UnreadableError: there is none, or one whose frames take too much memory.
  """
  stream = video_stream(container)
  if stream is None:
    raise UnreadableError('no video stream')
  try:
    video_limits.make_ready(stream)
  except video_limits.TooLargeError as error:
    raise UnreadableError(str(error)) from error
  return stream


def turns_of(frame: av.VideoFrame) -> int:
  """Quarters against the clock that put a frame upright: phones store what a player has to do."""
  return round(frame.rotation / 90) % 4


def _declared_frames(source: Source, checks: Checks) -> int:
  """The number of frames as the header says, or as the packets are counted."""
  try:
    if isinstance(source, str | os.PathLike) and not os.stat(source).st_size:
      raise UnreadableError('empty file')
    with open_video(source) as container:
      checks.container(container)
      stream = ready_stream(container)
      if stream.frames:
        return stream.frames
      count = 0
      for packet in container.demux(stream):
        checks.packet(packet)
        count += packet.size > 0
      return count
  except av.FFmpegError as error:
    raise UnreadableError(reason_of(error)) from error
  except OSError as error:
    raise UnreadableError(error.strerror or str(error)) from error


class _Pass:
  """One pass over a video: the frames with some indices (or the next sound ones).

  Attributes:
    count: frames decoded so far.
    problems: what went wrong so far.
  """

  def __init__(self, source: Source, indices: Sequence[int], checks: Checks):
    self._source, self._indices, self._checks = source, indices, checks
    self.count = 0
    self.problems: list[str] = []

  def read(self, hold: bool) -> list[Frame]:
    """All of its frames; large ones reduced; without their pictures where they are not held."""
    return [
      dataclasses.replace(frame, source=video_limits.to_keep(frame.source) if hold else None)
      for frame in self
    ]

  def __iter__(self) -> Iterator[Frame]:
    targets = iter(self._indices)
    target = next(targets, None)
    last: Frame | None = None
    is_given = False
    try:
      with open_video(self._source) as container:
        packets = container.demux(ready_stream(container))
        while target is not None and (packet := next(packets, None)) is not None:
          self._checks.packet(packet)
          try:
            decoded = packet.decode()
          except av.FFmpegError as error:  # What follows a damaged packet may be sound again.
            self.problems.append(reason_of(error))
            continue
          for frame in decoded:
            self._checks.frame(frame)
            if frame.is_corrupt:
              self.count += 1
              continue
            last, is_given = Frame(self.count, frame, frame.time, turns_of(frame)), False
            if target is not None and self.count >= target:
              is_given = True
              yield last
              while target is not None and target <= self.count:
                target = next(targets, None)
            self.count += 1
    except av.FFmpegError as error:
      self.problems.append(reason_of(error))
    # Headers count frames that an edit list hides: one short at the end is the last frame there is.
    if target is not None and next(targets, None) is None and last and not is_given:
      yield last


def reason_of(error: av.FFmpegError) -> str:
  """FFmpeg's own words, without its number and the path."""
  return error.strerror or type(error).__name__
