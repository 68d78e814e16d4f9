"""Reads one file in the child process: the faces in its pictures, the people, their crops.

Faces are found on the sampled frames first, and only they are kept of it. The crops are cut in a
second run over the frames, and handed out one by one.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np

from masm_jax.data import transforms
from masm_jax.prediction import quality
from masm_jax.prediction.decoding import Opened, Reading, open_file
from masm_jax.prediction.media import VIEW_PX, Limits, View
from masm_jax.preprocess import crop_checks, crops, looks, tracks, video
from masm_jax.preprocess.faces import Detector, Face

Progress = Callable[[Literal['decode', 'faces', 'score'], float], None]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How faces are found and cut.

  Attributes:
    crops: as for `masm_jax.preprocess`; `num_frames` and `detector` among them.
    image_size: side of the square that the detector takes, pixels.
    whole: every picture is one face crop already: nothing is looked for.
    limits: see there.
  """

  crops: crops.Settings
  image_size: int
  whole: bool = False
  limits: Limits = dataclasses.field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class CutFace:
  """One face of one person in one frame.

  Attributes:
    person: from 0.
    frame: fields of `answers.Frame` but for the scores, and `flag`: why it is not scored, or ''.
    crop: uint8 RGB [S, S, 3], the detector's size; None where it is not scored.
  """

  person: int
  frame: dict[str, Any]
  crop: np.ndarray | None


def view_of(frame: video.Frame, image: np.ndarray, time_s: float) -> View:
  """A frame, uint8 RGB [H, W, 3], made small enough to be shown."""
  scale = min(1.0, VIEW_PX / max(image.shape[:2]))
  size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
  small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
  return View(frame.index, time_s, small, scale)


def _shown(frames: Sequence[int], num_views: int) -> set[int]:
  """Which of these frames are shown: evenly spaced."""
  places = video.even_indices(len(frames), num_views) if frames and num_views else []
  return {frames[place] for place in places}


def read(
  file: BinaryIO,
  *,
  kind: Literal['file', 'array'],
  settings: Settings,
  detector: Detector | None,
  reading: Reading,
  on_progress: Progress,
  num_views: int = 0,
) -> Iterator[CutFace | View]:
  """Reads a file; yields each face once it is cut, and some frames before the faces in them.

  Args:
    file: opened to read bytes.
    kind: an array is what `np.save` writes.
    settings: see there.
    detector: finds faces; None where every picture is one crop.
    reading: filled as things become known; complete at the end.
    on_progress: told of a stage and the share of it that is done.
    num_views: frames that are yielded too, spread over those in which somebody is seen.

  Raises:
    Refused: no answer can be given.
  """
  started = time.monotonic()
  opened = open_file(
    file, kind=kind, num_frames=settings.crops.num_frames, limits=settings.limits, reading=reading
  )
  reading.timing_s['decode'] += time.monotonic() - started
  on_progress('decode', 1.0)
  if settings.whole or detector is None:
    yield from _whole(opened, settings, reading, on_progress, num_views)
  else:
    yield from _faces(opened, settings, detector, reading, on_progress, num_views)


def _whole(
  opened: Opened, settings: Settings, reading: Reading, on_progress: Progress, num_views: int
) -> Iterator[CutFace | View]:
  reading.num_people = 1
  shown = _shown(range(opened.num), num_views)
  for t, frame in enumerate(opened.frames):
    image = frame.rgb()
    if t in shown:
      yield view_of(frame, image, _seconds(frame, reading))
    height, width = image.shape[:2]
    measured = {'face_px': round((width * height) ** 0.5, 1), 'yaw_deg': 0.0}
    fields = _fields(frame, reading, (0, 0, width, height), np.zeros((0, 2)))
    fields |= {'quality': measured | {'blur': round(quality.blur(image), 3)}, 'flag': ''}
    yield CutFace(0, fields, transforms.resize(image, settings.image_size))
    on_progress('faces', (t + 1) / opened.num)


def _faces(
  opened: Opened,
  settings: Settings,
  detector: Detector,
  reading: Reading,
  on_progress: Progress,
  num_views: int,
) -> Iterator[CutFace | View]:
  started = time.monotonic()
  detections: list[list[Face]] = []
  views: list[looks.View | None] = []
  for t, frame in enumerate(opened.frames):
    image = frame.rgb()
    found = detector.detect(image)
    detections.append([dataclasses.replace(f, look=looks.look_of(image, f)) for f in found])
    views.append(looks.view_of(image))
    on_progress('faces', 0.8 * (t + 1) / opened.num)
  people = tracks.find_people(detections, views)
  reading.num_people = len(people)
  if len(people) > settings.limits.people:
    reading.warnings.append(
      f'{len(people)} people: the {settings.limits.people} whom it shows most are looked at'
    )
  people = people[: settings.limits.people]
  choices = [tracks.follow(person, detections) for person in people]
  samples = [
    crop_checks.sample([t for t, choice in enumerate(one) if choice and choice.detected])
    for one in choices
  ]
  turned = [0.0] * len(people)
  seen = [t for t in range(opened.num) if any(one[t] for one in choices)]
  shown = _shown(seen or range(opened.num), num_views)
  for t, frame in enumerate(opened.again):
    if t not in shown and not any(one[t] for one in choices):
      continue
    image = frame.rgb()
    if t in shown:
      yield view_of(frame, image, _seconds(frame, reading))
    for person, one in enumerate(choices):
      if choice := one[t]:
        if t in samples[person]:
          turned[person] += crop_checks.turned_excess(detector, image, choice.face)
        yield _cut(frame, image, person, choice, settings, detector, reading)
    on_progress('faces', 0.8 + 0.2 * (t + 1) / opened.num)
  reading.upside_down = [person for person, excess in enumerate(turned) if excess > 0]
  reading.timing_s['faces'] += time.monotonic() - started


def _cut(
  frame: video.Frame,
  image: np.ndarray,
  person: int,
  choice: tracks.Choice,
  settings: Settings,
  detector: Detector,
  reading: Reading,
) -> CutFace:
  found = crops.cut(detector, image, choice, settings.crops)
  fields = _fields(frame, reading, found.face.box.tolist(), found.face.landmarks)
  measured = quality.measure(found.crop, found.face.landmarks, found.face_px)
  fields |= {'quality': dataclasses.asdict(measured), 'flag': found.flag}
  crop = None if found.flag else transforms.resize(found.crop, settings.image_size)
  return CutFace(person, fields, crop)


def _fields(
  frame: video.Frame, reading: Reading, box: Iterable[float], landmarks: np.ndarray
) -> dict[str, Any]:
  return {
    'index': frame.index,
    'time_s': _seconds(frame, reading),
    'box': [float(value) for value in box],
    'landmarks': landmarks.tolist(),
  }


def _seconds(frame: video.Frame, reading: Reading) -> float:
  rate = reading.input.get('fps')
  seconds = frame.time_s if frame.time_s is not None else frame.index / rate if rate else 0.0
  return max(float(seconds), 0.0)
