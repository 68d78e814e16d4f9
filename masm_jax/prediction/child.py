"""The process that reads strangers' files, one at a time; it begins in `start`.

What it sends is JSON and pixels, never pickled objects: a process that a file took over could
otherwise run code in its parent. Files arrive as open descriptors, so no name is ever opened here.
"""

import dataclasses
import json
import os
from multiprocessing import connection, reduction
from typing import Any

import cv2
import numpy as np
from PIL import Image

from masm_jax.data import transforms
from masm_jax.prediction import sandbox
from masm_jax.prediction.decoding import Reading, Refused
from masm_jax.prediction.media import View
from masm_jax.prediction.messages import CHUNK
from masm_jax.prediction.reading import CutFace, Settings, read
from masm_jax.preprocess.faces import Detector, make_detector

_SHARES = 100  # Steps of progress that are told apart.


def main(pipe: connection.Connection, settings: Settings, box: sandbox.Sandbox) -> None:
  """The life of the process: makes itself ready, gives up its rights, reads file after file.

  Args:
    pipe: to the parent.
    settings: see there.
    box: in which no file of others can be opened already.
  """
  cv2.setNumThreads(1)
  cv2.ocl.setUseOpenCL(False)
  detector = None
  if not settings.whole:
    made = settings.crops
    detector = make_detector(made.detector, model=made.model, min_score=made.min_score)
  _warm_up(detector)
  os.dup2(1, 2)  # To nowhere: a terminal obeys what is written to it.
  box.enter(memory_bytes=settings.limits.memory_bytes)
  is_ready = False
  while True:
    try:
      if not is_ready:
        _send(pipe, 'ready', in_force=box.in_force)
        is_ready = True
      job = json.loads(pipe.recv_bytes())
      descriptor = reduction.recv_handle(pipe)
      sandbox.limit_cpu(settings.limits.cpu_seconds)
      with os.fdopen(descriptor, 'rb') as file:
        _answer(pipe, file, job, settings, detector)
    except (EOFError, ConnectionError):
      return  # The parent is gone.


def _answer(
  pipe: connection.Connection,
  file: Any,
  job: dict[str, Any],
  settings: Settings,
  detector: Detector | None,
) -> None:
  reading = Reading()
  told: dict[str, int] = {}

  def on_progress(stage: str, share: float) -> None:
    step = int(_SHARES * share)
    if told.get(stage) != step:
      told[stage] = step
      _send(pipe, 'progress', stage=stage, share=share)

  settings = dataclasses.replace(
    settings, crops=dataclasses.replace(settings.crops, num_frames=job['num_frames'])
  )
  try:
    chunk: list[CutFace] = []
    for face in read(
      file,
      kind=job['kind'],
      settings=settings,
      detector=detector,
      reading=reading,
      on_progress=on_progress,
      num_views=job['num_views'],
    ):
      if isinstance(face, View):
        _send_view(pipe, face)
        continue
      chunk.append(face)
      if len(chunk) == CHUNK:
        _send_faces(pipe, chunk, reading)
        chunk = []
    _send_faces(pipe, chunk, reading)
    _send(pipe, 'done', **dataclasses.asdict(reading))
  except Refused as refused:
    _refuse(pipe, refused.reason, str(refused), reading)
  except MemoryError:
    _refuse(pipe, 'limit_exceeded', 'it takes more memory than is allowed', reading)
  except ConnectionError:
    raise  # The parent is gone.
  except Exception as error:  # FFmpeg and OpenCV raise many types on damaged files.
    text = ' '.join(str(error).split())
    is_memory = 'memory' in text.lower()
    reason = 'limit_exceeded' if is_memory else 'unreadable'
    _refuse(pipe, reason, f'{type(error).__name__}: {text}', reading)


def _refuse(pipe: connection.Connection, reason: str, text: str, reading: Reading) -> None:
  _send(pipe, 'refused', reason=reason, text=text[:500], **dataclasses.asdict(reading))


def _send_faces(pipe: connection.Connection, faces: list[CutFace], reading: Reading) -> None:
  if not faces:
    return
  rows = [{'person': face.person, 'scored': face.crop is not None} | face.frame for face in faces]
  crops = [face.crop for face in faces if face.crop is not None]
  _send(pipe, 'faces', faces=rows, is_single=reading.input['kind'] != 'video')
  if crops:
    pipe.send_bytes(np.stack(crops).tobytes())


def _send_view(pipe: connection.Connection, view: View) -> None:
  height, width = view.image.shape[:2]
  size = {'width': width, 'height': height, 'scale': view.scale}
  _send(pipe, 'view', index=view.index, time_s=view.time_s, **size)
  pipe.send_bytes(np.ascontiguousarray(view.image).tobytes())


def _send(pipe: connection.Connection, what: str, **fields: Any) -> None:
  pipe.send_bytes(json.dumps({'what': what, **fields}).encode())


def _warm_up(detector: Detector | None) -> None:
  """Loads what is loaded at first use: later, no file can be opened."""
  Image.init()
  for suffix in ('png', 'jpg', 'webp', 'tiff', 'bmp'):
    done, code = cv2.imencode(f'.{suffix}', np.zeros((64, 64, 3), np.uint8))
    if done:
      image = transforms.decode_bytes(code.tobytes(), suffix)
      if detector is not None:
        detector.detect(image)
