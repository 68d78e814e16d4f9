"""Small videos of given pictures, without loss."""

import av
import numpy as np


def write_clip(path, images, *, rate=5, codec='ffv1', pix_fmt='bgr0'):
  """Writes uint8 RGB [T, H, W, 3] as a video; the format goes by the file's suffix."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = np.shape(images)[1:3]
    stream.pix_fmt = pix_fmt
    for image in images:
      for packet in stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')):
        container.mux(packet)
    for packet in stream.encode():
      container.mux(packet)
  return path
