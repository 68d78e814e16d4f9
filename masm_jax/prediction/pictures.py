"""Pictures of an answer: frames with boxes around faces, and a timeline."""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

from masm_jax import files
from masm_jax.plots import timeline
from masm_jax.plots.explanation import explanation_figure
from masm_jax.plots.timeline import Line
from masm_jax.prediction import words
from masm_jax.prediction.answers import Answer, Verdict
from masm_jax.prediction.media import View

FOLDER = 'pictures'
_TIMELINE = 'timeline.png'

# RGB; the words stand beside the colours, for those who do not tell them apart.
_COLOURS: Mapping[Verdict, tuple[int, int, int]] = {
  'fake': (224, 82, 60),
  'real': (72, 140, 220),
  'undecided': (235, 190, 60),
  'no_answer': (170, 170, 170),
}
_JPEG_QUALITY = 85
_MIN_FONT = 0.45


def annotate(view: View, answer: Answer) -> np.ndarray:
  """A frame with a box around each person's face, and what is said of them: uint8 RGB [H, W, 3]."""
  image = np.ascontiguousarray(view.image).copy()
  thickness = max(round(max(image.shape[:2]) / 360), 1)
  for track in answer.tracks:
    frame = next((one for one in track.frames if one.index == view.index), None)
    if frame is None:
      continue
    left, top, width, height = (round(value * view.scale) for value in frame.box)
    colour = _COLOURS[track.verdict]
    cv2.rectangle(image, (left, top), (left + width, top + height), (0, 0, 0), thickness + 2)
    cv2.rectangle(image, (left, top), (left + width, top + height), colour, thickness)
    number = words.number_of(frame.probability)
    text = f'{track.id + 1}: {number or "not judged"}'
    place = (max(left, 0), max(top - 6, 14))
    cv2.putText(image, text, place, 0, _MIN_FONT, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, place, 0, _MIN_FONT, (255, 255, 255), 1, cv2.LINE_AA)
  return image


def save(folder: pathlib.Path, answer: Answer, views: Sequence[View]) -> None:
  """Writes `FOLDER/HASH/frame_000012.jpg` for each view, and `timeline.png` for a video.

  The folder is named by the input's hash, never by its name.

  Raises:
    OSError, UserError: they cannot be written.
  """
  place = folder / FOLDER / answer.input.sha256[:16]
  for view in views:
    stream = io.BytesIO()
    Image.fromarray(annotate(view, answer)).save(stream, 'JPEG', quality=_JPEG_QUALITY)
    files.write_bytes(place / f'frame_{view.index:06d}.jpg', stream.getvalue())
  if lines := timeline_lines(answer):
    policy = answer.policy
    timeline.timeline_figure(
      lines,
      place / _TIMELINE,
      threshold=policy.threshold,
      band=policy.abstain,
      note=words.describe(answer).fine_print,
    )


def save_explanation(folder: pathlib.Path, answer: Answer) -> None:
  """Writes `FOLDER/HASH/explanation_1.png` for each explained face.

  Raises:
    OSError, UserError: they cannot be written.
  """
  explanation = answer.explanation or {'faces': ()}
  for number, face in enumerate(explanation['faces'], start=1):
    parts = explanation['parts']
    _, _, encoded = face['picture'].partition(',')
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=['JPEG']) as opened:
      crop = np.asarray(opened.convert('RGB'))
    maps = {}
    if face['maps'] is not None:
      found = np.asarray(face['maps'])
      maps = {'all changes': found.sum(axis=0)}
      maps |= dict(zip(parts, found, strict=True)) if len(parts) > 1 else {}
    explanation_figure(
      crop,
      maps,
      {'pretrained': face['base_logit'], **dict(zip(parts, face['shapley'], strict=True))},
      folder / FOLDER / answer.input.sha256[:16] / f'explanation_{number}.png',
      title=f'Person {face["track"] + 1}, frame {face["frame"]}: logit {face["logit"]:+.2f}',
      note=explanation['measured'],
    )


def saved_explanations(folder: pathlib.Path, answer: Answer) -> list[pathlib.Path]:
  """The pictures that `save_explanation` wrote, in order."""
  return sorted((folder / FOLDER / answer.input.sha256[:16]).glob('explanation_*.png'))


def saved(folder: pathlib.Path, answer: Answer) -> list[pathlib.Path]:
  """The frames that `save` wrote, in order."""
  return sorted((folder / FOLDER / answer.input.sha256[:16]).glob('frame_*.jpg'))


def are_saved(folder: pathlib.Path, answer: Answer) -> bool:
  """Whether `save` wrote all that there is to be shown: the timeline comes last."""
  if not answer.tracks and 'no_face' not in answer.reasons:
    return True  # It could not be read.
  if timeline_lines(answer):
    return (folder / FOLDER / answer.input.sha256[:16] / _TIMELINE).exists()
  return bool(saved(folder, answer))


def timeline_lines(answer: Answer) -> list[Line]:
  """A line for each person of a video with two scored frames or more."""
  found = []
  for track in answer.tracks if answer.input.kind == 'video' else ():
    scored = [(f.time_s, f.probability) for f in track.frames if f.probability is not None]
    if len(scored) > 1:
      times, probabilities = zip(*scored, strict=True)
      found.append(Line(f'Person {track.id + 1}', times, probabilities))
  return found
