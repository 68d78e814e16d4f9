"""Perturbed videos: full frames changed before any crop is taken, and H.264 at a given quality.

A perturbation of DeeperForensics-1.0 is applied to every full frame, and the result is kept without
loss (H.264 in RGB, quantiser 0), so that nothing but the perturbation comes in. `VC` compresses the
video again by libx264 with the level's constant rate factor and its default preset, in 4:2:0, as
`ffmpeg -crf` does. [ours] One thread encodes, so that the same video comes out on any machine.
"""

import dataclasses
import fractions
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np

from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.perturbations import catalogue as robustness
from masm_jax.preprocess import streams, video

_COMPRESSION = 'VC'
_LOSSLESS = {'qp': '0', 'preset': 'ultrafast'}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a video.

  Attributes:
    num_frames: written.
    problems: what was wrong with the source on the way; empty for a sound file.
  """

  num_frames: int
  problems: tuple[str, ...] = ()


def perturb_frames(
  frames: Sequence[np.ndarray], key: str, level: int, *, seed: int, video_id: str, fps: int = 25
) -> list[np.ndarray]:
  """Perturbs the frames of a clip in memory.

  Args:
    frames: T frames uint8 RGB [H, W, 3], all of one size.
    key: one of `robustness.VIDEO_KEYS`.
    level: 1 for the mildest.
    seed: of what is random, with `video_id` and the frame's place.
    video_id: of the clip.
    fps: of the clip; `VC` spends its bits by it.

  Returns:
    T frames uint8 RGB [H, W, 3].

  Raises:
    UserError: no such perturbation or level, or one that is defined on crops alone.
  """
  value = parameter(key, level)
  if key != _COMPRESSION:
    return [
      robustness.perturb(frame, key, level, robustness.make_rng(seed, video_id, number, key, level))
      for number, frame in enumerate(frames)
    ]
  if not len(frames):
    return []
  height, width = frames[0].shape[:2]
  stream = io.BytesIO()
  pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(f), 'rgb24') for f in frames)
  with av.open(stream, 'w', format='mp4') as container:
    _encode(container, pictures, fractions.Fraction(fps), _compressed(value), 'yuv420p')
  stream.seek(0)
  with av.open(stream) as container:
    decoded = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  return [frame[:height, :width] for frame in decoded]


def perturb_video(
  source: str | os.PathLike,
  target: str | os.PathLike,
  key: str,
  level: int,
  *,
  seed: int,
  video_id: str,
) -> Outcome:
  """Writes a perturbed copy of a video; the file appears whole or not at all.

  Frames stand upright in the copy, with their times; sound is left out. Sides of an odd number of
  pixels are made even for `VC`, whose 4:2:0 needs that, by repeating the last row or column.

  Args:
    source: the video.
    target: an MP4 file; its folder is made.
    key: one of `robustness.VIDEO_KEYS`.
    level: 1 for the mildest.
    seed: of what is random, with `video_id` and the frame's number.
    video_id: of the video.

  Raises:
    UserError: no such perturbation or level, or the copy cannot be written.
    video.UnreadableError: the source is no video, or no frame in it decodes.
  """
  value = parameter(key, level)
  target = pathlib.Path(target)
  problems: list[str] = []
  try:
    with files.replacing(target) as fresh, streams.open_video(source) as container:
      fps = _frame_rate(container)
      frames = _every_frame(container, problems)
      options, pixels = (
        (_compressed(value), 'yuv420p') if key == _COMPRESSION else (_LOSSLESS, 'rgb24')
      )
      if key != _COMPRESSION:
        frames = _perturbed(frames, key, level, seed, video_id)
      with av.open(f'file:{fresh}', 'w', format='mp4') as copy:
        num_frames = _encode(copy, frames, fps, options, pixels)
      if not num_frames:
        raise video.UnreadableError('; '.join(problems) or 'no frame in it decodes')
  except av.FFmpegError as error:
    raise video.UnreadableError(streams.reason_of(error)) from error
  except OSError as error:
    raise UserError(f'cannot write {target}: {error.strerror or error}') from error
  return Outcome(num_frames, tuple(dict.fromkeys(problems)))


def parameter(key: str, level: int) -> object:
  """The parameter of a level of a perturbation that suits full frames.

  Raises:
    UserError: there is no such perturbation or level, or it is defined on crops alone.
  """
  value = robustness.parameter(key, level)
  if key not in robustness.VIDEO_KEYS:
    raise UserError(
      f'{key} is defined on crops; on videos there are {", ".join(robustness.VIDEO_KEYS)}'
    )
  return value


def _compressed(rate_factor: object) -> dict[str, str]:
  return {'crf': str(rate_factor), 'preset': 'medium'}


def _frame_rate(container: av.container.InputContainer) -> fractions.Fraction:
  """Frames in a second."""
  rate = streams.ready_stream(container).average_rate
  return fractions.Fraction(rate or 25).limit_denominator(60_000)


def _every_frame(
  container: av.container.InputContainer, problems: list[str]
) -> Iterator[av.VideoFrame]:
  """All frames that decode, upright; what goes wrong on the way is added to `problems`."""
  packets = container.demux(streams.ready_stream(container))
  while True:
    try:
      packet = next(packets, None)
      if packet is None:
        return
      decoded = packet.decode()
    except av.FFmpegError as error:  # What follows a damaged packet may be sound again.
      problems.append(streams.reason_of(error))
      if packet is None:
        return
      continue
    for frame in decoded:
      if frame.is_corrupt:
        problems.append('damaged frames, left out')
      else:
        yield _upright(frame)


def _upright(frame: av.VideoFrame) -> av.VideoFrame:
  turns = video.turns_of(frame)
  if not turns:
    return frame
  image = np.ascontiguousarray(np.rot90(frame.to_ndarray(format='rgb24'), k=turns))
  turned = av.VideoFrame.from_ndarray(image, 'rgb24')
  turned.pts, turned.time_base = frame.pts, frame.time_base
  return turned


def _perturbed(
  frames: Iterable[av.VideoFrame], key: str, level: int, seed: int, video_id: str
) -> Iterator[av.VideoFrame]:
  for number, frame in enumerate(frames):
    rng = robustness.make_rng(seed, video_id, number, key, level)
    image = robustness.perturb(frame.to_ndarray(format='rgb24'), key, level, rng)
    changed = av.VideoFrame.from_ndarray(image, 'rgb24')
    changed.pts, changed.time_base = frame.pts, frame.time_base
    yield changed


def _encode(
  container: av.container.OutputContainer,
  frames: Iterable[av.VideoFrame],
  fps: fractions.Fraction,
  options: dict[str, str],
  pixels: str,
) -> int:
  """Encodes frames, all brought to the first one's size, as H.264; returns how many."""
  stream, last, count = None, -1, 0
  for frame in frames:
    if stream is None:
      codec = 'libx264' if pixels == 'yuv420p' else 'libx264rgb'
      stream = container.add_stream(codec, rate=fps, options=options)
      stream.pix_fmt = pixels
      stream.codec_context.thread_count = 1
      stream.codec_context.time_base = frame.time_base or 1 / fps
      odd = pixels == 'yuv420p'
      stream.width = frame.width + (frame.width % 2 if odd else 0)
      stream.height = frame.height + (frame.height % 2 if odd else 0)
    base = stream.codec_context.time_base
    picture = _fitted(frame, stream.width, stream.height, pixels)
    # Times must rise: where a file has none, or they turn back, frames follow at the frame rate.
    following = last + max(1, round(1 / (fps * base))) if count else 0
    pts = frame.pts if frame.pts is not None and frame.pts > last else following
    picture.pts, picture.time_base, last = pts, base, pts
    picture.pict_type = av.video.frame.PictureType.NONE  # The encoder's choice, not the source's.
    container.mux(stream.encode(picture))
    count += 1
  if stream is not None:
    container.mux(stream.encode())
  return count


def _fitted(frame: av.VideoFrame, width: int, height: int, pixels: str) -> av.VideoFrame:
  """A frame of this size: one missing row or column is repeated, any other size is scaled."""
  rows, columns = height - frame.height, width - frame.width
  if (rows or columns) and 0 <= rows <= 1 and 0 <= columns <= 1:
    image = frame.to_ndarray(format='rgb24')
    image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode='edge')
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), 'rgb24')
  return frame.reformat(width, height, pixels)
