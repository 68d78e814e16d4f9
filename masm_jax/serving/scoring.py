"""The engine of `prediction` as the jobs need it: documents, and a few frames to be shown."""

import concurrent.futures
import dataclasses
import pathlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from masm_jax import files
from masm_jax.data import transforms
from masm_jax.prediction import answers, pictures, words
from masm_jax.prediction import report as report_lib
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.media import Source, View
from masm_jax.serving.jobs import Result

_QUALITY = 80  # Of JPEG: a view has some 50 kB.
_DRAWING = threading.Lock()  # matplotlib is not made for threads.


class EngineScorer:
  """Gives uploads to an engine, see `jobs.Scorer`."""

  def __init__(self, engine: Engine):
    """Takes an engine; whoever opened it closes it."""
    self._engine = engine

  @property
  def num_faces(self) -> int:
    """See `jobs.Scorer`."""
    return self._engine.scorer.num_rows

  def submit(
    self, path: pathlib.Path, name: str, on_progress: Callable[[str, float], None]
  ) -> concurrent.futures.Future[Result]:
    """See `jobs.Scorer`; a future that is cancelled is not told of its answer."""
    frames: dict[str, bytes] = {}

    def keep(view: View) -> None:
      frames[f'view-{view.index}.jpg'] = _jpeg(view.image)

    inner = self._engine.submit(Source(path, name=name), on_progress, on_view=keep)
    outer: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def finish(done: concurrent.futures.Future[answers.Answer]) -> None:
      if not outer.set_running_or_notify_cancel():
        return
      try:
        outer.set_result(Result(done.result().to_dict(), frames))
      except BaseException as error:  # The engine is closed, or has a bug.
        outer.set_exception(error)

    outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
    inner.add_done_callback(finish)
    return outer


def warm_up(engine: Engine) -> None:
  """Starts the engine's processes and compiles its programs, so that no client waits for them."""
  picture = np.zeros((64, 64, 3), np.uint8)
  waiting = [engine.submit(Source(picture, name='warm-up')) for _ in range(engine.num_workers)]
  side = engine.detector.image_size
  engine.scorer.submit(np.zeros((1, side, side, 3), np.uint8), single=True).result()
  engine.scorer.submit(np.zeros((1, side, side, 3), np.uint8), single=False).result()
  for future in waiting:
    future.result()


def model_document(engine: Engine) -> dict[str, Any]:
  """What `GET /v1/model` tells of the detector, its rules and its limits."""
  return {
    'model': dataclasses.asdict(engine.model),
    'policy': {
      level: dataclasses.asdict(engine.policy.facts(level)) for level in ('frame', 'video')
    },
    'limits': dataclasses.asdict(engine.limits),
  }


def read(answer: Mapping[str, Any]) -> dict[str, Any]:
  """An answer's document in plain words, those of the terminal and the report."""
  made = answers.from_dict(answer)
  return dataclasses.asdict(words.describe(made)) | {
    'explanation_lines': words.explanation_lines(made)
  }


def report(answer: Mapping[str, Any], frames: Mapping[str, bytes]) -> str:
  """The printable page of an answer, with boxes around the faces of the frames that came with it.

  Args:
    answer: its document.
    frames: JPEG files by name, of `EngineScorer`.
  """
  made = answers.from_dict(answer)
  with tempfile.TemporaryDirectory() as name, _DRAWING:
    folder = pathlib.Path(name)
    place = folder / pictures.FOLDER / made.input.sha256[:16]  # Where `pictures.saved` looks.
    for file, jpeg in frames.items():
      index = int(file[len('view-') : -len('.jpg')])
      files.write_bytes(place / f'frame_{index:06d}.jpg', _annotated(made, index, jpeg))
    if made.explanation is not None:
      pictures.save_explanation(folder, made)
    return report_lib.render([made], folder)


def _annotated(answer: answers.Answer, index: int, jpeg: bytes) -> bytes:
  image = transforms.decode_bytes(jpeg, 'jpg')
  scale = image.shape[1] / (answer.input.width or image.shape[1])
  view = View(index, 0.0, image, scale)
  return _jpeg(pictures.annotate(view, answer))


def _jpeg(image: np.ndarray) -> bytes:
  flags = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
  return cv2.imencode('.jpg', image[..., ::-1], flags)[1].tobytes()
