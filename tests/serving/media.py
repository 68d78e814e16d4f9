"""A small picture and a small video with something like faces in them."""

import io

import av
import cv2
import numpy as np

from tests.serving import fakes

SIZE = (640, 360)


def frame(t, people=1):
  """uint8 [H, W, 3] BGR at t seconds: faces where `fakes.frame` says, at half the size."""
  rows = np.linspace(205, 150, SIZE[1])[:, None, None]
  image = np.broadcast_to(rows * [1.0, 0.96, 0.9], (SIZE[1], SIZE[0], 3)).astype(np.uint8).copy()
  for person in range(people):
    x, y, w, h = (v / 2 for v in fakes.frame(t / 0.4, 0.5, x=420.0 - 260 * person)['box'])
    center = (int(x + w / 2), int(y + h / 2))
    skin = (150, 182, 226) if person else (128, 158, 205)
    cv2.ellipse(image, (center[0], SIZE[1]), (110, 120), 0, 180, 360, (120, 92, 70), -1)
    cv2.ellipse(image, center, (int(w / 2.3), int(h / 2.1)), 0, 0, 360, skin, -1)
    for side in (-1, 1):
      cv2.circle(image, (center[0] + side * 18, center[1] - 12), 5, (60, 50, 50), -1)
    cv2.ellipse(image, (center[0], center[1] + 28), (16, 6), 0, 0, 180, (90, 80, 160), 2)
  return image


def picture(t=0.0, people=1):
  """A JPEG file."""
  return cv2.imencode('.jpg', frame(t, people))[1].tobytes()


def video(seconds=12, fps=5, people=1):
  """An MP4 file."""
  file = io.BytesIO()
  with av.open(file, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=fps, options={'preset': 'ultrafast'})
    stream.width, stream.height, stream.pix_fmt = *SIZE, 'yuv420p'
    for i in range(seconds * fps):
      made = av.VideoFrame.from_ndarray(frame(i / fps, people), format='bgr24')
      container.mux(stream.encode(made))
    container.mux(stream.encode(None))
  return file.getvalue()
