"""Evenly spaced frames of a video, of a folder of frames, or of a single image.

Seeking frame by frame is ten times slower than one sequential pass, and wrong in files without a
proper index: so a video is decoded once from its start, and only the wanted frames are kept and
converted. Other frames that no frame refers to are not even decoded, where a first look at the
packets leaves no doubt which of them holds which frame: about half of H.264's, a third of the time.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from masm_jax import plain_files
from masm_jax.data import transforms
from masm_jax.data.importers import names
from masm_jax.preprocess import video_limits
from masm_jax.preprocess.raw_video import is_picture
from masm_jax.preprocess.streams import (
  Source,
  UnreadableError,
  open_video,
  ready_stream,
  reason_of,
)

# Whose decoders pass over frames by themselves if told so, before any work on them.
_SKIPPING_CODECS = ('h264', 'hevc')


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, converted when it is asked for: 32 Full HD frames in RGB would be 200 MB.

  Attributes:
    index: its number in the video, from 0; in a folder of frames, the number in its name.
    source: the decoder's own frame, an image's path, or what `rgb` returns; None where it was let
      go.
    time_s: when it is shown, seconds; None where nothing tells.
    turns: quarters against the clock that put it upright, 0 to 3.
  """

  index: int
  source: av.VideoFrame | str | np.ndarray | None
  time_s: float | None = None
  turns: int = 0

  def rgb(self) -> np.ndarray:
    """The frame upright, as uint8 RGB [H, W, 3].

    Raises:
      UnreadableError: an image that does not decode, or colours that nobody can convert.
    """
    if isinstance(self.source, str):
      try:
        return transforms.decode(self.source)
      except transforms.DecodeError as error:
        raise UnreadableError(str(error).removeprefix(f'{self.source}: ')) from error
    assert self.source is not None, 'read it again with `frames_at`'
    if isinstance(self.source, np.ndarray):
      return self.source
    return self._in_rgb(self.source, VideoReformatter())

  def converted(self, reformatter: VideoReformatter) -> Self:
    """The same frame with its pixels in RGB; raises as `rgb`."""
    assert isinstance(self.source, av.VideoFrame)
    return dataclasses.replace(self, source=self._in_rgb(self.source, reformatter))

  def _in_rgb(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    try:
      # Threads would come and go with each frame, and take address space that may be limited.
      picture = reformatter.reformat(frame, format='rgb24', threads=1).to_ndarray()
    except av.FFmpegError as error:
      raise UnreadableError(f'its colours cannot be converted: {reason_of(error)}') from error
    return np.ascontiguousarray(np.rot90(picture, k=self.turns))


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

  def converted(self, max_bytes: int) -> Self:
    """The same clip, its pixels in RGB where they are a video's and take at most `max_bytes`.

    They are then converted once for all who look at them, by one converter.
    """
    sizes = [
      3 * frame.source.width * frame.source.height
      for frame in self.frames
      if isinstance(frame.source, av.VideoFrame)
    ]
    if len(sizes) < len(self.frames) or sum(sizes) > max_bytes:
      return self
    reformatter = VideoReformatter()
    frames = tuple(frame.converted(reformatter) for frame in self.frames)
    return dataclasses.replace(self, frames=frames)


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
    """Called each time a file is opened, before anything is decoded for its own sake."""

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
  Damage in a frame that is not asked for and that no frame refers to may go unnoticed.

  Args:
    source: path of the file, or the file itself, opened to read bytes.
    num_frames: at most so many.
    hold: False lets the pictures go as they come: `frames_at` reads them again.
    checks: see there.

  Raises:
    UnreadableError: no file, not a video, or no frame in it decodes.
  """
  checks = checks or Checks()
  declared, times = _survey(source, checks)
  if times and num_frames < declared:
    indices = even_indices(declared, num_frames)
    if found := _referenced_and_wanted(source, times, indices, hold, checks):
      return Clip(tuple(found), declared)
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
  _survey(path, Checks(), with_times=False)
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


def turns_of(frame: av.VideoFrame) -> int:
  """Quarters against the clock that put a frame upright: phones store what a player has to do."""
  return round(frame.rotation / 90) % 4


def _survey(
  source: Source, checks: Checks, *, with_times: bool = True
) -> tuple[int, list[int] | None]:
  """The number of frames as the header says, or as the packets are counted; and their `_times`."""
  try:
    if isinstance(source, str | os.PathLike) and not plain_files.refuse_odd(source).st_size:
      raise UnreadableError('empty file')
    with open_video(source) as container:
      checks.container(container)
      stream = ready_stream(container)
      if stream.frames:
        return stream.frames, _times(container, stream) if with_times else None
      count = 0
      for packet in container.demux(stream):
        checks.packet(packet)
        count += packet.size > 0
      return count, None
  except (av.FFmpegError, OSError) as error:
    raise UnreadableError(reason_of(error)) from error


def _times(container: av.container.InputContainer, stream: av.VideoStream) -> list[int] | None:
  """When the frames are shown, in that order, in units of the stream; None where that is in doubt.

  There is no doubt in an MP4 file in which every packet that its header counts is there, has a time
  of its own and holds one visible frame, the first a key frame that is shown first.
  """
  is_mp4 = 'mp4' in container.format.name.split(',')
  if not is_mp4 or stream.codec_context.name not in _SKIPPING_CODECS:
    return None
  times: list[int] = []
  first_is_key = False
  try:
    for packet in container.demux(stream):
      if not packet.size:
        continue
      is_doubtful = packet.pts is None or packet.is_discard or packet.is_corrupt
      if is_doubtful or len(times) == stream.frames:
        return None
      first_is_key = first_is_key or (not times and packet.is_keyframe)
      times.append(packet.pts)
  except av.FFmpegError:
    return None
  shown = sorted(set(times))
  is_sound = len(shown) == stream.frames and first_is_key and shown[0] == times[0]
  return shown if is_sound else None


def _referenced_and_wanted(
  source: Source, times: Sequence[int], indices: Sequence[int], hold: bool, checks: Checks
) -> list[Frame] | None:
  """The frames with some indices; None where anything is odd: a plain pass tells what it is."""
  wanted = {times[index]: index for index in indices}
  frames: list[Frame] = []
  try:
    with open_video(source) as container:
      stream = ready_stream(container)
      for packet in container.demux(stream):
        checks.packet(packet)
        stream.codec_context.skip_frame = 'DEFAULT' if packet.pts in wanted else 'NONREF'
        for frame in packet.decode():
          checks.frame(frame)
          if frame.is_corrupt:
            return None
          if frame.pts in wanted:
            kept = video_limits.to_keep(frame) if hold else None
            frames.append(Frame(wanted[frame.pts], kept, frame.time, turns_of(frame)))
  except av.FFmpegError:
    return None
  return frames if [frame.index for frame in frames] == list(indices) else None


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
        self._checks.container(container)
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
