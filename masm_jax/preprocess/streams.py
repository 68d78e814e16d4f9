"""Opens a video by FFmpeg: one file, and nothing that it may name; its stream, for one thread."""

import os
from typing import BinaryIO

import av
from av.stream import Disposition

from masm_jax.preprocess import video_limits

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


def reason_of(error: av.FFmpegError | OSError) -> str:
  """FFmpeg's own words, or the system's, without the number and the path."""
  return error.strerror or type(error).__name__
