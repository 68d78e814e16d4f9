"""One video: decode, detect, choose, align, check, and commit its crops at a stroke."""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Literal

import cv2
import numpy as np

from masm_jax.data import crop_flags
from masm_jax.preprocess import crop_checks, looks, tracks, video
from masm_jax.preprocess.faces import Detector, Face, make_detector
from masm_jax.preprocess.raw_video import RawVideo
from masm_jax.preprocess.records import ALL_FAKE, commit, make_record
from masm_jax.preprocess.templates import align

_JPEG_QUALITY = 95
# A face's pixels hardly repeat: looking for what repeats takes zlib half of the time, for nothing.
_PNG = (
  cv2.IMWRITE_PNG_COMPRESSION, 1,
  cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
  cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH,
)  # fmt: skip
_RGB_BYTES = 2**26  # Of a video's frames; if they take more, each is converted when it is used.
_MASK_THRESHOLD = 32  # Black is not quite black after H.264.


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the pixels of the crops depend on, beside the videos.

  Attributes:
    num_frames: frames taken of each video.
    template: a key of `templates.TEMPLATES`.
    margin: size of a crop over the size of the face's own square.
    size_px: side of a crop; None for the face's own scale.
    image_format: 'png', or 'jpg' (quality 95).
    detector: 'yunet' or 'haar'.
    model: YuNet's file.
    min_score: least confidence of a face.
    people: 'one', whom the video is about, or 'all' who are seen.
    min_face_px: smaller faces are flagged.
  """

  num_frames: int = 32
  template: str = 'deepfakebench'
  margin: float = 1.3
  size_px: int | None = 256
  image_format: Literal['png', 'jpg'] = 'png'
  detector: Literal['yunet', 'haar'] = 'yunet'
  model: str | None = None
  min_score: float = 0.7
  people: Literal['one', 'all'] = 'one'
  min_face_px: int = 24


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
      detections, views, sizes, reasons = self._look(raw, clip)
      if not sizes:
        raise video.UnreadableError('; '.join(reasons))
      people = self._people(raw, clip, detections, views, sizes, reasons)
      # With masks, whoever they leave out is not forged: the video's label is not theirs.
      taken = [person for person in people if person.in_mask == people[0].in_mask]
      taken = taken[: 1 if self._settings.people == 'one' else None]
      files, rows = self._encode(clip, [tracks.follow(one, detections) for one in taken], sizes)
    except video.UnreadableError as error:
      return make_record(self._input, raw, 'unreadable', [str(error)]), {}
    except Exception as error:  # FFmpeg and OpenCV raise many types on damaged files.
      text = ' '.join(str(error).split())
      return make_record(self._input, raw, 'unreadable', [f'{type(error).__name__}: {text}']), {}
    flags = [row['crop_flag'] for row in rows]
    reasons = [*clip.problems, *reasons, *crop_checks.remarks(flags)]
    if others := len(people) - len(taken):
      more = '; --people all takes them' if self._settings.people == 'one' else ''
      reasons.append(f'{others} other {"person" if others == 1 else "people"} not taken{more}')
    from masm_jax.data.columns import FAKE  # It imports pandas.

    if raw.label == FAKE and len(taken) > 1 and not taken[0].in_mask:
      reasons.append(f'{len(taken)} people {ALL_FAKE}')
    wanted = 1 if raw.kind == 'image' else self._settings.num_frames
    outcome = 'ok'
    if not rows:
      outcome, reasons = 'no_face', [f'no face in {len(sizes)} frames', *reasons]
    elif all(flags):
      outcome = max(sorted(set(flags)), key=flags.count)
    elif clip.num_available < wanted:
      outcome = 'too_short'
      reasons = [f'{clip.num_available} frames, {wanted} were asked for', *reasons]
    counts = {'num_people': len(people), 'num_people_not_taken': others}
    record = make_record(self._input, raw, outcome, reasons, clip.num_available, rows, **counts)
    return record, files

  def _read(self, raw: RawVideo) -> video.Clip:
    path = self._input / raw.path
    if raw.kind == 'image':
      return video.read_image(path)
    read = video.read_folder if raw.kind == 'frames' else video.read_video
    return read(path, self._settings.num_frames).converted(_RGB_BYTES)

  def _look(
    self, raw: RawVideo, clip: video.Clip
  ) -> tuple[list[list[Face]], list[looks.View | None], dict[int, tuple[int, int]], list[str]]:
    """The faces and the view of each frame, height and width of each sound one, and remarks."""
    reasons: list[str] = []
    detections: list[list[Face]] = []
    views: list[looks.View | None] = []
    sizes: dict[int, tuple[int, int]] = {}
    for t, frame in enumerate(clip.frames):
      try:
        image = frame.rgb()
      except video.UnreadableError as error:
        reasons.append(f'frame {frame.index}: {error}' if raw.kind == 'frames' else str(error))
        detections.append([])
        views.append(None)
        continue
      sizes[t] = image.shape[:2]
      faces = self._detector.detect(image)
      detections.append(
        [dataclasses.replace(face, look=looks.look_of(image, face)) for face in faces]
      )
      views.append(looks.view_of(image))
    return detections, views, sizes, reasons

  def _people(
    self,
    raw: RawVideo,
    clip: video.Clip,
    detections: list[list[Face]],
    views: list[looks.View | None],
    sizes: dict[int, tuple[int, int]],
    reasons: list[str],
  ) -> list[tracks.Person]:
    """Who is seen; adds to the remarks."""
    masks = self._read_masks(raw, clip, sizes, reasons) if raw.mask else None
    people = tracks.find_people(detections, views, masks)
    if masks is not None and people and not people[0].in_mask:
      reasons.append('the forgery mask overlaps no face: the largest was taken')
    return people

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
      elif video.is_picture(path.name):
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
    people: list[list[tracks.Choice | None]],
    sizes: dict[int, tuple[int, int]],
  ) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The crops' files by name, and a row for each."""
    files: dict[str, bytes] = {}
    rows: list[list[dict[str, Any]]] = [[] for _ in people]
    turned = [0.0] * len(people)
    samples = [
      crop_checks.sample([t for t, choice in enumerate(one) if choice and choice.detected])
      for one in people
    ]
    for t, frame in enumerate(clip.frames):
      if t not in sizes or not any(one[t] for one in people):
        continue
      image = frame.rgb()
      for i, one in enumerate(people):
        if choice := one[t]:
          file, content, row = self._crop(image, frame.index, choice, i + 1)
          files[file] = content
          rows[i].append(row)
          if t in samples[i]:
            turned[i] += crop_checks.turned_excess(self._detector, image, choice.face)
    for excess, of_one in zip(turned, rows, strict=True):
      for row in of_one:
        if excess > 0 and not row['crop_flag']:
          row['crop_flag'] = crop_flags.UPSIDE_DOWN
    return files, [row for of_one in rows for row in of_one]

  def _crop(
    self, image: np.ndarray, index: int, choice: tracks.Choice, person: int
  ) -> tuple[str, bytes, dict[str, Any]]:
    """One crop: name of its file, the file, and its row."""
    settings = self._settings
    found = cut(self._detector, image, choice, settings)
    name = f'{index:06d}.{settings.image_format}'
    name = name if person == 1 else f'p{person}_{name}'
    content = _encode_image(found.crop, settings.image_format)
    return name, content, {
      'file': name,
      'person': person,
      'frame': index,
      'width': found.crop.shape[1],
      'height': found.crop.shape[0],
      'sha256': hashlib.sha256(content).hexdigest(),
      'bytes': len(content),
      'face_detected': found.detected,
      'face_score': round(found.score, 4),
      'face_px': found.face_px,
      'face_box': [round(float(value), 1) for value in found.face.box],
      'crop_flag': found.flag,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cut:
  """A face cut out of a picture.

  Attributes:
    face: where it is, after a closer look.
    detected: whether the detector saw it in this picture.
    score: the detector's confidence; 0 where it saw nothing.
    crop: uint8 RGB [S, S, 3].
    face_px: square root of the area of its box, pixels.
    flag: one of `data.crop_flags.FLAGS`, or ''.
  """

  face: Face
  detected: bool
  score: float
  crop: np.ndarray
  face_px: float
  flag: str


def cut(detector: Detector, image: np.ndarray, choice: tracks.Choice, settings: Settings) -> Cut:
  """Cuts a face out of a picture, uint8 RGB [H, W, 3], and says whether it is fit.

  Whether somebody is upside down shows only over several frames, see `crop_checks.turned_excess`.
  """
  face, score = choice.face, choice.face.score
  detected = choice.detected
  if not detected:
    score = 0.0  # The other frame's says nothing of this one.
    if found := crop_checks.closer_look(detector, image, face):
      face, score, detected = found, found.score, True
  how = {'template': settings.template, 'margin': settings.margin}
  crop = align(image, face.landmarks, size_px=settings.size_px, **how)
  face_px = round(float(np.sqrt(face.area)), 1)
  flag = ''
  if not detected:
    flag = crop_flags.NO_FACE
  elif crop_checks.padding_share(image.shape, face.landmarks, **how) > crop_checks.MAX_PADDING:
    flag = crop_flags.PADDING
  elif face_px < settings.min_face_px:
    flag = crop_flags.TOO_SMALL
  return Cut(face, detected, score, crop, face_px, flag)


def _encode_image(image: np.ndarray, image_format: str) -> bytes:
  parameters = {
    'png': _PNG,
    'jpg': (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
  }[image_format]
  done, code = cv2.imencode(f'.{image_format}', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
  if not done:
    raise ValueError(f'OpenCV cannot write {image_format}')
  return code.tobytes()
