"""What a video may take: sizes are checked before a frame of it takes memory."""

import av

MAX_PIXELS = 8192 * 4352  # Of a frame: 8K, the largest that cameras and players know.
MAX_SIDE = 2**14
_MAX_DECODED_BYTES = 2**27  # Of a frame, as it is decoded; its decoder holds up to 17.
_MAX_KEPT_BYTES = 2**25  # Of one that waits for its crops; a larger one is kept as RGB, reduced.

# For a container: decoders look into streams as it is opened.
OPTIONS = {'max_pixels': str(MAX_PIXELS)}
# For a decoder: a size may change within its stream.
_DECODER = {'max_pixels': str(MAX_PIXELS)}


class TooLargeError(Exception):
  """Frames of a video take too much memory, or nothing decodes it; the text says which."""


def make_ready(stream: av.VideoStream) -> None:
  """Makes a stream ready to be decoded, by one thread: videos are done side by side.

  Raises:
    TooLargeError: see there.
  """
  codec = stream.codec_context
  if codec is None:
    raise TooLargeError('nothing here decodes its video stream')
  width, height = codec.width, codec.height
  if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
    raise TooLargeError(
      f'{width} x {height} pixels; the limit is {MAX_PIXELS:,} in all, and {MAX_SIDE:,} of a side'
    )
  if (size := _frame_bytes(codec)) > _MAX_DECODED_BYTES:
    raise TooLargeError(f'{size:,} bytes in a frame; the limit is {_MAX_DECODED_BYTES:,}')
  codec.thread_count, codec.options = 1, _DECODER


def to_keep(frame: av.VideoFrame) -> av.VideoFrame:
  """A frame that is kept; a large one as RGB, at a half, a third, ... of its size if need be."""
  if _frame_bytes(frame) <= _MAX_KEPT_BYTES:
    return frame
  factor = 1
  while 3 * -(-frame.width // factor) * -(-frame.height // factor) > _MAX_KEPT_BYTES:
    factor += 1
  width, height = (-(-side // factor) for side in (frame.width, frame.height))
  return frame.reformat(width, height, 'rgb24', interpolation='AREA', threads=1)


def _frame_bytes(frame: av.VideoFrame | av.VideoCodecContext) -> int:
  """Memory of a frame in its own pixel format; 0 where that is not known yet."""
  if frame.format is None:
    return 0
  bits = sum(
    (8 if part.bits <= 8 else 16) * part.width * part.height for part in frame.format.components
  )
  return bits // 8
