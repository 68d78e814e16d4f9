"""Links faces over frames into tracks, and tracks into people; fills gaps.

The largest face of each single frame jumps between two people who stand side by side, and a frame
in which detection fails would be lost or show somebody else. So faces are linked into tracks first,
by their place, and the choice is made once for the whole video. Over a cut a place says nothing:
there, and wherever a track ends, people are known again by their look (`looks`). All of it is
[ours].
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from masm_jax.preprocess import looks
from masm_jax.preprocess.faces import Face, Look
from masm_jax.preprocess.looks import View

# Sampled frames lie up to a second apart: boxes are grown by this factor before they are compared,
# so that a head which moved by its own width is still the same one.
_GROWTH = 2.0
_MIN_OVERLAP = 0.1
# A box is kept for this many frames without a detection; further away it would show anything.
MAX_GAP = 5
# A track of somebody, or one that continues somebody's, has at least this many faces: false alarms
# have one or two.
_MIN_FACES = 3
# A kept box that overlaps somebody else's face so much would show that face.
_MAX_SHARED = 0.3

Track = dict[int, Face]  # Frame -> face.


@dataclasses.dataclass(frozen=True)
class Choice:
  """The face to cut out of one frame.

  Attributes:
    face: where it is.
    detected: False where the detector found nothing, and the face is taken from the nearest frame
      of the track.
  """

  face: Face
  detected: bool


@dataclasses.dataclass(frozen=True)
class Person:
  """Somebody who is seen in a video.

  Attributes:
    faces: frame -> face.
    in_mask: whether a forgery mask lies upon one of them.
  """

  faces: Track
  in_mask: bool


def find_people(
  detections: Sequence[Sequence[Face]],
  views: Sequence[View | None] | None = None,
  masks: Sequence[np.ndarray | None] | None = None,
) -> list[Person]:
  """The people who are seen over the T frames of a video, the one that it is about first.

  That is the one with the largest faces in sum, or the one that overlaps the forgery masks most. A
  track is continued by others that lie wholly before or after it and look like it (where faces have
  no look, by the first that does); whoever is seen beside it, or in a gap of it, is somebody else.
  Tracks of one or two faces are false alarms, unless there are no more frames or no other tracks.

  Args:
    detections: faces of each of T frames.
    views: of each frame, None where it has none; by default no frame follows a cut.
    masks: bool [H, W] for each frame, in pixels of that frame; None where there is none.
  """
  tracks = [
    part for track in link(detections) for part in (_parted(track, views) if views else [track])
  ]
  weights = np.array([sum(face.area for face in track.values()) for track in tracks])
  by_mask = np.zeros(len(tracks))
  if masks is not None:
    for i, track in enumerate(tracks):
      by_mask[i] = sum(
        mask_overlap(face, masks[t]) for t, face in track.items() if masks[t] is not None
      )
  guided = bool(by_mask.any())
  people: list[list[int]] = []  # The tracks of each.
  for i in np.lexsort((np.arange(len(tracks)), -weights, -by_mask)):
    track = tracks[i]
    for person in people:
      same_side = not guided or (by_mask[i] > 0) == (by_mask[person[0]] > 0)
      if len(track) >= _MIN_FACES and same_side and _continues(track, [tracks[j] for j in person]):
        person.append(i)
        break
    else:
      if len(track) >= min(_MIN_FACES, len(detections)) or not people:
        people.append([i])
  people.sort(key=lambda person: (-by_mask[person].sum(), -weights[person].sum()))
  return [
    Person(
      {t: face for i in person for t, face in tracks[i].items()},
      bool(by_mask[person].any()),
    )
    for person in people
  ]


def follow(person: Person, detections: Sequence[Sequence[Face]]) -> list[Choice | None]:
  """Where a person's face is in each of T frames; None where nothing tells.

  Frames without a detection keep the box of the nearest frame that has one, up to `MAX_GAP` frames
  away, unless somebody else's face was found there.

  Args:
    person: see `find_people`.
    detections: faces of each of T frames, the person's among them.
  """
  choices: list[Choice | None] = []
  for t, faces in enumerate(detections):
    nearest = min(person.faces, key=lambda frame: (abs(frame - t), frame))
    face = person.faces[nearest]
    is_kept = nearest != t
    is_lost = abs(nearest - t) > MAX_GAP or (
      is_kept and any(_overlap(face, other, growth=1) > _MAX_SHARED for other in faces)
    )
    choices.append(None if is_lost else Choice(face, not is_kept))
  return choices


def link(detections: Sequence[Sequence[Face]]) -> list[Track]:
  """Links the faces of successive frames into tracks: for each, frame -> face.

  Faces go to the tracks that they overlap, so that the overlaps are the largest in sum (one face to
  a track). A track may pause for any number of frames.
  """
  tracks: list[Track] = []
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


def is_close(a: Face, b: Face) -> bool:
  """Whether two boxes are so close that they may be of one face, in frames of one shot."""
  return _overlap(a, b) >= _MIN_OVERLAP


def _parted(track: Track, views: Sequence[View | None]) -> list[Track]:
  """A track as the tracks of each person in it: over a cut, one face may follow another's place."""
  parts: list[Track] = []
  last = -1  # Frame before.
  current: Track = {}
  for t, face in track.items():
    if last >= 0:
      before, now = views[last], views[t]
      cut = before is None or now is None or not looks.same_shot(before, now)
      if cut or _unlike(track[last], face):
        parts.append(current)
        current = {}
    current[t] = face
    last = t
  parts.append(current)
  people: list[Track] = []
  of_part_before: Track | None = None
  for part in parts:
    found = next((person for person in people if _same(person, part)), None)
    if found is None and of_part_before is not None:
      before, now = views[max(of_part_before)], views[min(part)]
      in_place = before is not None and now is not None and looks.same_scene(before, now)
      if in_place and _same(of_part_before, part, in_place=True):
        found = of_part_before
    if found is None:
      found = {}
      people.append(found)
    found.update(part)
    of_part_before = found
  return people


def _continues(track: Track, others: Sequence[Track]) -> bool:
  """Whether a track lies wholly before or after each of a person's, and shows the same person."""
  is_apart = all(max(other) < min(track) or max(track) < min(other) for other in others)
  return is_apart and _same({t: face for other in others for t, face in other.items()}, track)


def _same(a: Track, b: Track, *, in_place: bool = False) -> bool:
  of_a, of_b = _looks(a), _looks(b)
  return not of_a or not of_b or looks.alike(of_a, of_b, in_place=in_place)


def _unlike(a: Face, b: Face) -> bool:
  return a.look is not None and b.look is not None and looks.unlike(a.look, b.look)


def _looks(track: Track) -> list[Look]:
  return [face.look for face in track.values() if face.look is not None]


def _overlap(a: Face, b: Face, growth: float = _GROWTH) -> float:
  """Intersection over union of two boxes, both grown about their centres."""
  (low_a, high_a), (low_b, high_b) = (_grown(face.box, growth) for face in (a, b))
  sides = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
  inside = float(sides.prod())
  union = growth**2 * (a.area + b.area) - inside
  return inside / union if union > 0 else 0.0


def _grown(box: np.ndarray, growth: float) -> tuple[np.ndarray, np.ndarray]:
  centre, half = box[:2] + box[2:] / 2, box[2:] / 2 * growth
  return centre - half, centre + half
