"""Whose face a video is about: faces linked over frames, one person chosen, gaps filled.

The largest face of each single frame jumps between two people who stand side by side, and a frame
in which detection fails would be lost or show somebody else. So faces are linked into tracks first,
and the choice is made once for the whole video. All of it is [ours].
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from masm_jax.preprocess.faces import Face

# Sampled frames lie up to a second apart: boxes are grown by this factor before they are compared,
# so that a head which moved by its own width is still the same one.
_GROWTH = 2.0
_MIN_OVERLAP = 0.1
# A box is kept for this many frames without a detection; further away it would show anything.
MAX_GAP = 5
# A track that continues the chosen one has at least this many faces: false alarms have one or two.
_MIN_CONTINUATION = 3


@dataclasses.dataclass(frozen=True)
class Choice:
  """The face to cut out of one frame.

  Attributes:
    face: where it is.
    detected: False where the detector found nothing, and the face is that of the nearest frame of
      the track.
  """

  face: Face
  detected: bool


def choose(
  detections: Sequence[Sequence[Face]], masks: Sequence[np.ndarray | None] | None = None
) -> tuple[list[Choice | None], bool]:
  """Chooses one person's face over the T frames of a video.

  The track with the largest faces in sum wins, or the one that overlaps the forgery masks most. It
  is continued by tracks that lie wholly before or after it (the same person after a cut); whoever
  is seen beside it, or in a gap of it, is somebody else and never taken. Frames without a detection
  keep the box of the nearest frame that has one, up to `MAX_GAP` frames away.

  Args:
    detections: faces of each of T frames.
    masks: bool [H, W] for each frame, in pixels of that frame; None where there is none.

  Returns:
    For each frame the face, or None where there is none; whether masks decided.
  """
  tracks = link(detections)
  weights = np.array([sum(face.area for face in track.values()) for track in tracks])
  by_mask = np.zeros(len(tracks))
  if masks is not None:
    for i, track in enumerate(tracks):
      by_mask[i] = sum(
        mask_overlap(face, masks[t]) for t, face in track.items() if masks[t] is not None
      )
  guided = bool(by_mask.any())
  if not tracks:
    return [None] * len(detections), guided
  first, *others = np.lexsort((np.arange(len(tracks)), -weights, -by_mask))
  chosen = [tracks[first]]
  for i in others:
    fits = len(tracks[i]) >= _MIN_CONTINUATION and (by_mask[i] > 0 or not guided)
    if fits and all(max(track) < min(tracks[i]) or max(tracks[i]) < min(track) for track in chosen):
      chosen.append(tracks[i])
  faces = {t: face for track in chosen for t, face in track.items()}
  return [_at(faces, t) for t in range(len(detections))], guided


def link(detections: Sequence[Sequence[Face]]) -> list[dict[int, Face]]:
  """Links the faces of successive frames into tracks: for each, frame -> face.

  Faces go to the tracks that they overlap, so that the overlaps are the largest in sum (one face to
  a track). A track may pause for any number of frames.
  """
  tracks: list[dict[int, Face]] = []
  for t, faces in enumerate(detections):
    overlaps = np.array([[_overlap(track[max(track)], face) for face in faces] for track in tracks])
    taken: set[int] = set()
    if overlaps.size:
      for i, j in zip(*linear_sum_assignment(-overlaps), strict=True):
        if overlaps[i, j] >= _MIN_OVERLAP:
          tracks[i][t] = faces[j]
          taken.add(int(j))
    tracks += [{t: face} for j, face in enumerate(faces) if j not in taken]
  return tracks


def mask_overlap(face: Face, mask: np.ndarray) -> float:
  """Intersection over union of a face's box and a mask, bool [H, W]."""
  left, top = np.maximum(np.floor(face.box[:2]), 0).astype(int)
  right, bottom = np.maximum(np.ceil(face.box[:2] + face.box[2:]), 0).astype(int)
  inside = np.count_nonzero(mask[top:bottom, left:right])
  union = np.count_nonzero(mask) + face.area - inside
  return float(inside / union) if union > 0 else 0.0


def _at(faces: dict[int, Face], t: int) -> Choice | None:
  nearest = min(faces, key=lambda frame: (abs(frame - t), frame))
  return Choice(faces[nearest], nearest == t) if abs(nearest - t) <= MAX_GAP else None


def _overlap(a: Face, b: Face) -> float:
  """Intersection over union of two boxes, both grown about their centres."""
  (low_a, high_a), (low_b, high_b) = (_grown(face.box) for face in (a, b))
  sides = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
  inside = float(sides.prod())
  union = _GROWTH**2 * (a.area + b.area) - inside
  return inside / union if union > 0 else 0.0


def _grown(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  centre, half = box[:2] + box[2:] / 2, box[2:] / 2 * _GROWTH
  return centre - half, centre + half
