"""Evenly spaced frames of a video, of a folder of frames, or of a single image.

Seeking frame by frame is ten times slower than one sequential pass, and wrong in files without a
proper index: so a video is decoded once from its start, and only the wanted frames are kept and
converted.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import av
import numpy as np

from masm_jax.data import transforms
from masm_jax.data.importers import names
from masm_jax.preprocess.raw_video import is_picture

# Of a frame: 8K, the largest that cameras and players know. Its decoder holds up to 17 frames.
MAX_PIXELS = 8192 * 4352
MAX_SIDE = 2**14
_MAX_DECODED_BYTES = 2**27  # Of one frame, as it is decoded.
_MAX_KEPT_BYTES = 2**25  # Of one that waits for its crops; a larger one is kept as RGB, reduced.

# Containers only. FFmpeg also opens play lists and scripts, which name further files and addresses:
# those must not be reached through a file that merely calls itself a video.
_OPTIONS = {
  'protocol_whitelist': 'file',
  'format_whitelist': 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,'
  'ivf,h264,hevc,nut,mxf,gif',
  'max_pixels': str(MAX_PIXELS),  # Of the decoders that look into streams as they are opened.
}
# A size may change within a stream: so its decoder is told, too.
_DECODER = {'max_pixels': str(MAX_PIXELS)}


class UnreadableError(Exception):
  """No frame can be had from a file; the text says why, without the path."""


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, converted when it is asked for: 32 Full HD frames in RGB would be 200 MB.

  Attributes:
    index: its number in the video, from 0; in a folder of frames, the number in its name.
    source: the decoder's own frame, or the path of an image.
    turns: quarters against the clock that put it upright, 0 to 3.
  """

  index: int
  source: av.VideoFrame | str
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


def read_video(path: str | os.PathLike, num_frames: int) -> Clip:
  """Decodes `num_frames` evenly spaced frames of a video, or all if it has fewer.

  A frame that arrives damaged gives way to the next sound one. Where the file ends before the
  frames that its header declares, the frames are spread over what there is, in a second pass.

  Raises:
    UnreadableError: no file, not a video, or no frame in it decodes.
  """
  declared = _declared_frames(path)
  frames, num_decoded, problems = _decode(path, even_indices(declared, num_frames))
  if len(frames) < min(num_frames, declared) and num_decoded < declared:
    problems = (f'{num_decoded} of {declared} frames decode', *problems)
    frames, _, _ = _decode(path, even_indices(num_decoded, num_frames))
  if not frames:
    raise UnreadableError('; '.join(problems) or 'no frame in it decodes')
  return Clip(tuple(frames), num_decoded, tuple(problems))


def read_video_at(path: str | os.PathLike, indices: Sequence[int]) -> list[Frame]:
  """Decodes the frames with given indices (sorted); those past the end are left out.

  Raises:
    UnreadableError: as `read_video`.
  """
  _declared_frames(path)
  return _decode(path, list(indices))[0]


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


def open_video(path: str | os.PathLike) -> av.container.InputContainer:
  """Opens a video by FFmpeg: this one file, and nothing that it may name.

  Its first video stream is ready to be decoded, by one thread: videos are done side by side.

  Raises:
    av.FFmpegError: it is no video.
    UnreadableError: it has no video stream, or one whose frames take too much memory.
  """
  # The prefix keeps a colon in a name from being taken for a protocol.
  container = av.open(f'file:{os.fspath(path)}', options=_OPTIONS, metadata_errors='ignore')
  try:
    if not container.streams.video:
      raise UnreadableError('no video stream')
    codec = container.streams.video[0].codec_context
    if codec is None:
      raise UnreadableError('nothing here decodes its video stream')
    width, height = codec.width, codec.height
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
      raise UnreadableError(
        f'{width} x {height} pixels; the limit is {MAX_PIXELS:,} in all, and {MAX_SIDE:,} of a side'
      )
    if (size := _frame_bytes(codec)) > _MAX_DECODED_BYTES:
      raise UnreadableError(f'{size:,} bytes in a frame; the limit is {_MAX_DECODED_BYTES:,}')
    codec.thread_count, codec.options = 1, _DECODER
  except UnreadableError:
    container.close()
    raise
  return container


def turns_of(frame: av.VideoFrame) -> int:
  """Quarters against the clock that put a frame upright: phones store what a player has to do."""
  return round(frame.rotation / 90) % 4


def _frame_bytes(frame: av.VideoFrame | av.VideoCodecContext) -> int:
  """Memory of a frame in its own pixel format; 0 where that is not known yet."""
  if frame.format is None:
    return 0
  bits = sum(
    (8 if part.bits <= 8 else 16) * part.width * part.height for part in frame.format.components
  )
  return bits // 8


def _kept(index: int, frame: av.VideoFrame) -> Frame:
  """A frame to keep: a large one as RGB, at a half, a third, ... of its size if need be."""
  turns, factor = turns_of(frame), 1
  if _frame_bytes(frame) > _MAX_KEPT_BYTES:
    while 3 * -(-frame.width // factor) * -(-frame.height // factor) > _MAX_KEPT_BYTES:
      factor += 1
    width, height = (-(-side // factor) for side in (frame.width, frame.height))
    frame = frame.reformat(width, height, 'rgb24', interpolation='AREA')
  return Frame(index, frame, turns)


def _declared_frames(path: str | os.PathLike) -> int:
  """The number of frames as the header says, or else as the packets are counted."""
  try:
    if not os.stat(path).st_size:
      raise UnreadableError('empty file')
    with open_video(path) as container:
      stream = container.streams.video[0]
      return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
  except av.FFmpegError as error:
    raise UnreadableError(reason_of(error)) from error
  except OSError as error:
    raise UnreadableError(error.strerror or str(error)) from error


def _decode(
  path: str | os.PathLike, indices: list[int]
) -> tuple[list[Frame], int, tuple[str, ...]]:
  """Frames with these indices (or the next sound ones), the count decoded, and what went wrong."""
  frames: list[Frame] = []
  problems: list[str] = []
  targets = iter(indices)
  target = next(targets, None)
  count, last = 0, None  # The last sound frame, with its number.
  try:
    with open_video(path) as container:
      stream = container.streams.video[0]
      packets = container.demux(stream)
      while target is not None and (packet := next(packets, None)) is not None:
        try:
          decoded = packet.decode()
        except av.FFmpegError as error:  # What follows a damaged packet may be sound again.
          problems.append(reason_of(error))
          continue
        for frame in decoded:
          if frame.is_corrupt:
            count += 1
            continue
          last = (count, frame)
          if target is not None and count >= target:
            frames.append(_kept(*last))
            while target is not None and target <= count:
              target = next(targets, None)
          count += 1
  except av.FFmpegError as error:
    problems.append(reason_of(error))
  # Headers count frames that an edit list hides: one short at the end is the last frame there is.
  is_short_by_one = target is not None and next(targets, None) is None
  if is_short_by_one and last and (not frames or frames[-1].index != last[0]):
    frames.append(_kept(*last))
  return frames, count, tuple(dict.fromkeys(problems))


def reason_of(error: av.FFmpegError) -> str:
  """FFmpeg's own words, without its number and the path."""
  return error.strerror or type(error).__name__
