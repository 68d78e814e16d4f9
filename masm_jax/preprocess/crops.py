"""One video: decode, detect, choose, align, and commit its crops at a stroke.

A video's crops and its outcome appear together, by renaming one folder: a process that is killed at
any moment leaves either all of a video or nothing of it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, Literal

import cv2
import numpy as np

from masm_jax.data import storage
from masm_jax.errors import UserError
from masm_jax.preprocess import tracks, video
from masm_jax.preprocess.faces import Detector, Face, make_detector
from masm_jax.preprocess.raw_video import RawVideo
from masm_jax.preprocess.templates import align

OUTCOMES = ('ok', 'too_short', 'no_face', 'unreadable')
CROPS = 'crops'  # Below the output folder.
PARTIAL = '.partial'
RECORD = '.outcome.json'  # In the folder of each video; hidden, so that image importers pass it by.

_JPEG_QUALITY = 95
_PNG_COMPRESSION = 3
_MASK_THRESHOLD = 32  # Black is not quite black after H.264.


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the pixels of the crops depend on, beside the videos.

  Attributes:
    num_frames: frames taken of each video.
    template: a key of `templates.TEMPLATES`.
    margin: size of a crop over that of the face's own square.
    size_px: side of a crop; None for the face's own scale.
    image_format: 'png', or 'jpg' (quality 95).
    detector: 'yunet' or 'haar'.
    model: YuNet's file.
    min_score: least confidence of a face.
  """

  num_frames: int = 32
  template: str = 'deepfakebench'
  margin: float = 1.3
  size_px: int | None = 256
  image_format: Literal['png', 'jpg'] = 'png'
  detector: Literal['yunet', 'haar'] = 'yunet'
  model: str | None = None
  min_score: float = 0.7


class Cropper:
  """Turns videos into crops; one to a process.

  Args:
    input_folder: what the videos' paths are relative to.
    masks_folder: what the masks' paths are relative to.
    output_folder: where the crops go.
    settings: see there.
  """

  def __init__(
    self,
    input_folder: pathlib.Path,
    masks_folder: pathlib.Path,
    output_folder: pathlib.Path,
    settings: Settings,
  ):
    cv2.setNumThreads(1)  # The processes share the cores already.
    self._input, self._masks, self._output = input_folder, masks_folder, output_folder
    self._settings = settings
    self._detector: Detector = make_detector(
      settings.detector, model=settings.model, min_score=settings.min_score
    )

  def __call__(self, raw: RawVideo) -> dict[str, Any]:
    """Crops the faces of one video and commits them; returns its outcome.

    Raises:
      UserError: the crops cannot be written. Whatever is wrong with the video is an outcome.
    """
    record, files = self._crops(raw)
    commit(self._output, raw, record, files)
    return record

  def _crops(self, raw: RawVideo) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
      clip = self._read(raw)
      choices, sizes, reasons = self._faces(raw, clip)
      if not sizes:
        raise video.UnreadableError('; '.join(reasons))
      files, frames = self._encode(clip, choices, sizes)
    except video.UnreadableError as error:
      return make_record(self._input, raw, 'unreadable', [str(error)]), {}
    except Exception as error:  # FFmpeg and OpenCV raise many types on damaged files.
      text = ' '.join(str(error).split())
      return make_record(self._input, raw, 'unreadable', [f'{type(error).__name__}: {text}']), {}
    reasons = [*clip.problems, *reasons]
    wanted = 1 if raw.kind == 'image' else self._settings.num_frames
    if not frames:
      outcome, reasons = 'no_face', [f'no face in {len(sizes)} frames', *reasons]
    elif clip.num_available < wanted:
      outcome = 'too_short'
      reasons = [f'{clip.num_available} frames, {wanted} were asked for', *reasons]
    else:
      outcome = 'ok'
    return make_record(self._input, raw, outcome, reasons, clip.num_available, frames), files

  def _read(self, raw: RawVideo) -> video.Clip:
    path = self._input / raw.path
    if raw.kind == 'image':
      return video.read_image(path)
    read = video.read_folder if raw.kind == 'frames' else video.read_video
    return read(path, self._settings.num_frames)

  def _faces(
    self, raw: RawVideo, clip: video.Clip
  ) -> tuple[list[tracks.Choice | None], dict[int, np.ndarray], list[str]]:
    """The face of each frame, height and width of each sound one, and remarks."""
    reasons: list[str] = []
    detections: list[list[Face]] = []
    sizes: dict[int, tuple[int, int]] = {}
    for t, frame in enumerate(clip.frames):
      try:
        image = frame.rgb()
      except video.UnreadableError as error:
        reasons.append(f'frame {frame.index}: {error}' if raw.kind == 'frames' else str(error))
        detections.append([])
        continue
      sizes[t] = image.shape[:2]
      detections.append(self._detector.detect(image))
    masks = self._read_masks(raw, clip, sizes, reasons) if raw.mask else None
    choices, guided = tracks.choose(detections, masks)
    if masks is not None and not guided and any(detections):
      reasons.append('the forgery mask overlaps no face: the largest was taken')
    return choices, sizes, reasons

  def _read_masks(
    self,
    raw: RawVideo,
    clip: video.Clip,
    sizes: dict[int, tuple[int, int]],
    reasons: list[str],
  ) -> list[np.ndarray | None]:
    """The mask of each frame, bool [H, W] at the frame's size."""
    path = self._masks / raw.mask
    indices = [frame.index for frame in clip.frames]
    by_index: dict[int, video.Frame] = {}
    try:
      if path.is_dir():
        images = video.image_paths(path)
        by_index = {
          video.names.frame_number(image.stem): video.Frame(0, os.fspath(image)) for image in images
        }
      elif video.names.is_image(path.name):
        by_index = dict.fromkeys(indices, video.Frame(0, os.fspath(path)))
      else:
        by_index = {frame.index: frame for frame in video.read_video_at(path, indices)}
      masks: list[np.ndarray | None] = []
      for t, index in enumerate(indices):
        if index not in by_index or t not in sizes:
          masks.append(None)
          continue
        height, width = sizes[t]
        mask = by_index[index].rgb().max(axis=2)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        masks.append(mask > _MASK_THRESHOLD)
      return masks
    except (video.UnreadableError, OSError) as error:
      reasons.append(f'mask {raw.mask}: {error}')
      return [None] * len(indices)

  def _encode(
    self,
    clip: video.Clip,
    choices: list[tracks.Choice | None],
    sizes: dict[int, tuple[int, int]],
  ) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The crops' files by name, and a row for each."""
    settings = self._settings
    files: dict[str, bytes] = {}
    rows = []
    for t, (frame, choice) in enumerate(zip(clip.frames, choices, strict=True)):
      if choice is None or t not in sizes:
        continue
      crop = align(
        frame.rgb(),
        choice.face.landmarks,
        template=settings.template,
        size_px=settings.size_px,
        margin=settings.margin,
      )
      name = f'{frame.index:06d}.{settings.image_format}'
      files[name] = _encode_image(crop, settings.image_format)
      rows.append({
        'file': name,
        'frame': frame.index,
        'width': crop.shape[1],
        'height': crop.shape[0],
        'sha256': hashlib.sha256(files[name]).hexdigest(),
        'face_detected': choice.detected,
        'face_score': round(choice.face.score, 4),
        'face_px': round(float(np.sqrt(choice.face.area)), 1),
        'face_box': [round(float(value), 1) for value in choice.face.box],
      })  # fmt: skip
    return files, rows


def make_record(
  input_folder: pathlib.Path,
  raw: RawVideo,
  outcome: str,
  reasons: list[str],
  num_available: int = 0,
  frames: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
  """What is kept of a video: its outcome, and a row for each crop."""
  frames = frames or []
  return {
    'video_id': raw.video_id,
    'outcome': outcome,
    'reasons': reasons,
    'num_frames': num_available,
    'num_crops': len(frames),
    'num_kept_boxes': sum(not frame['face_detected'] for frame in frames),
    **raw.origin(input_folder),
    'crops': frames,
  }


def commit(
  output: pathlib.Path, raw: RawVideo, record: dict[str, Any], files: dict[str, bytes]
) -> None:
  """Makes a video's folder with its crops and its record, whole or not at all.

  Raises:
    UserError: it cannot be written.
  """
  final = video_folder(output, raw)
  partial = output / PARTIAL / str(os.getpid())
  content = {**files, RECORD: json_line(record)}
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in content.items():
      with open(partial / name, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # Of another state of this video's file.
      old = partial.with_name(f'{partial.name}.old')
      shutil.rmtree(old, ignore_errors=True)
      os.rename(final, old)
      shutil.rmtree(old)
    os.rename(partial, final)
  except OSError as error:
    raise UserError(f'cannot write {final}: {error.strerror or error}') from error


def committed(output: pathlib.Path, raw: RawVideo) -> dict[str, Any] | None:
  """The record of a video that is done; None if it is not, or if some of it is gone since."""
  folder = video_folder(output, raw)
  try:
    record = json.loads((folder / RECORD).read_bytes())
    crops = {crop['file'] for crop in record['crops']}
  except (OSError, ValueError, TypeError, KeyError):
    return None
  return record if crops <= storage.file_names(folder) else None


def video_folder(output: pathlib.Path, raw: RawVideo) -> pathlib.Path:
  """Where a video's crops lie."""
  return output / CROPS / raw.video_id


def json_line(record: dict[str, Any]) -> bytes:
  """A record as one line of JSON in UTF-8; bytes of names that are no UTF-8 stay escaped."""
  return (json.dumps(record, ensure_ascii=False) + '\n').encode(errors='backslashreplace')


def _encode_image(image: np.ndarray, image_format: str) -> bytes:
  parameters = {
    'png': (cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION),
    'jpg': (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
  }[image_format]
  done, code = cv2.imencode(f'.{image_format}', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
  if not done:
    raise ValueError(f'OpenCV cannot write {image_format}')
  return code.tobytes()
