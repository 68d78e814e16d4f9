"""The engine of `prediction` as the jobs need it: documents, and small pictures of the faces."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from masm_jax.prediction import answers, words
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.media import Source
from masm_jax.prediction.messages import Face
from masm_jax.serving.jobs import Result

_PEOPLE, _FACES = 8, 6  # Whose faces the page shows, and how many of each.
_SIDE, _QUALITY = 144, 85  # Pixels, and of JPEG: a picture has about 5 kB.


class EngineScorer:
  """Gives uploads to an engine, see `jobs.Scorer`."""

  def __init__(self, engine: Engine):
    """Takes an engine; whoever opened it closes it."""
    self._engine = engine

  def submit(
    self, path: pathlib.Path, name: str, on_progress: Callable[[str, float], None]
  ) -> concurrent.futures.Future[Result]:
    """See `jobs.Scorer`; a future that is cancelled is not told of its answer."""
    kept = _Faces()
    inner = self._engine.submit(Source(path, name=name), on_progress, kept.add)
    outer: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def finish(done: concurrent.futures.Future[answers.Answer]) -> None:
      if not outer.set_running_or_notify_cancel():
        return
      try:
        outer.set_result(Result(done.result().to_dict(), kept.pictures()))
      except BaseException as error:  # The engine is closed, or has a bug.
        outer.set_exception(error)

    outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
    inner.add_done_callback(finish)
    return outer


class _Faces:
  """Faces of a file as they are cut, as JPEG: some of each person, spread over the time."""

  def __init__(self) -> None:
    self._kept: dict[int, list[tuple[int, bytes]]] = {}

  def add(self, faces: Sequence[Face], crops: np.ndarray) -> None:
    """Of a chunk: its faces, and uint8 RGB [N, S, S, 3] of the N that are scored."""
    scored = [face for face in faces if face.scored]
    for face, crop in zip(scored, crops, strict=True):
      if face.person < _PEOPLE:
        small = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        _, code = cv2.imencode('.jpg', small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        self._kept.setdefault(face.person, []).append((face.index, code.tobytes()))

  def pictures(self) -> dict[str, bytes]:
    """By name, `face-PERSON-FRAME.jpg`."""
    chosen = {}
    for person, shots in self._kept.items():
      count = min(_FACES, len(shots))
      for i in np.linspace(0, len(shots) - 1, count).round().astype(int):
        index, jpeg = shots[i]
        chosen[f'face-{person}-{index}.jpg'] = jpeg
    return chosen


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
  return dataclasses.asdict(words.describe(answers.from_dict(answer)))
