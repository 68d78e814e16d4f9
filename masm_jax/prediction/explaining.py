"""Explanations within an answer: for each person the face that speaks most for a fake.

Maps that lost to the middle of the picture in the detector's benchmark, or were never measured, are
left out unless they are asked for; the words say so.
"""

import base64
import io
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from masm_jax.explain import verdict
from masm_jax.explain.explanation import explain
from masm_jax.explain.run import Explained, load, part_names
from masm_jax.prediction.jobs import Candidate

MAX_PEOPLE = 4  # Of one input that are explained.
_QUALITY = 85

Maps = Literal['measured', 'always']


class FaceExplainer:
  """Explains faces of one detector.

  Args:
    source: folder of the run or detector file, the one that scores.
    step: of a run: 'best', 'last' or a number.
    weights: of a run: the file of base weights, if it has moved.
    maps: `measured` shows maps that beat the centre prior in the benchmark; `always` shows all.
    points: of the path's quadrature.

  Raises:
    UserError: the detector cannot be explained; see `explain.run.load`.
  """

  def __init__(
    self,
    source: str | os.PathLike,
    *,
    step: str = 'best',
    weights: str = '',
    maps: Maps = 'measured',
    points: int = 8,
  ):
    self._run: Explained = load(pathlib.Path(source), step=step, weights=weights)
    self._points = points
    self.names = part_names(self._run.explainer.changes.num_parts)
    self.words = verdict.in_words(self._run.benchmark)
    beats = self._run.benchmark is not None and verdict.beats_centre_prior(self._run.benchmark)
    self.shows_maps = maps == 'always' or beats
    self._lock = threading.Lock()  # One at a time: each takes all cores.

  def document(self, candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """The field `explanation` of an answer; None without a face.

    Args:
      candidates: one face a person.

    Returns:
      `parts`: names of the K changes; `measured`: what is known of the maps, in words;
      `maps_shown`; `faces`: for each candidate `track`, `frame`, the numbers of
      `explain.Explanation`, `maps` [K][G][G] or None, and `picture`, the crop as a data URI.
    """
    if not candidates:
      return None
    chosen = candidates[:MAX_PEOPLE]
    with self._lock:
      found = list(
        explain(
          self._run.explainer,
          np.stack([one.crop for one in chosen]),
          points=self._points,
          batch_size=1,
        )
      )
    faces = []
    for one, explanation in zip(chosen, found, strict=True):
      numbers = explanation.to_dict()
      if not self.shows_maps:
        numbers['maps'] = None
      faces.append(
        {'track': one.track, 'frame': one.frame, **numbers, 'picture': _data_uri(one.crop)}
      )
    return {
      'parts': list(self.names),
      'measured': self.words,
      'maps_shown': self.shows_maps,
      'faces': faces,
    }


def _data_uri(crop: np.ndarray) -> str:
  buffer = io.BytesIO()
  Image.fromarray(crop).save(buffer, 'JPEG', quality=_QUALITY)
  return f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'
