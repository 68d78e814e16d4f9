"""Appearance of faces and frames in a few numbers, to tell people apart within a video.

A face's look is taken from its aligned crop: gradients (HOG; Dalal, Triggs 2005) tell features and
hair, colours tell skin, clothes and light. It is no face recognition: over other light or another
day the same person looks like somebody else. Thresholds are [ours], from 11 videos of
FaceForensics++ and DFDC, 16 frames of each: the best pair of two stretches of 4 frames has
gradients of at least 0.67 in 95 % of the cases and colours of at least 0.91 in 99 % for one person,
and at most 0.62 and 0.71 in 95 % for two people of different videos.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from masm_jax.preprocess.faces import Face, Look
from masm_jax.preprocess.templates import align

_CROP_PX, _HOG_PX, _BORDER_PX = 128, 64, 16
_MARGIN = 1.5  # Hair and collar belong to a look.
_COLOUR_BINS, _COLOUR_RANGES = [6, 8, 8], [0, 256, 96, 160, 96, 160]  # Lab; skin is never vivid.
_FRAME_PX, _LAYOUT_PX, _FRAME_BINS = 64, 32, 8

# Two stretches of one video show one person: (gradients, colours) of their best pair of faces.
_ALIKE = (0.64, 0.70)
# The same where the box stays in its place and the picture changes a little: most are one person.
_ALIKE_IN_PLACE = (0.50, 0.80)
# Two successive faces in one place are so unlike that only a cut explains it.
_UNLIKE = (0.50, 0.75)
# Frames of one shot are at least so similar, and those of one scene: (layout, colours).
_SAME_SHOT, _SAME_SCENE = (0.80, 0.94), (0.40, 0.85)


@dataclasses.dataclass(frozen=True)
class View:
  """What a whole frame looks like.

  Attributes:
    layout: float [3072], a thumbnail of length 1.
    colours: float [512], of length 1.
  """

  layout: np.ndarray
  colours: np.ndarray


def look_of(image: np.ndarray, face: Face) -> Look:
  """The look of a face in an image, uint8 RGB [H, W, 3]."""
  crop = align(image, face.landmarks, template='deepfakebench', size_px=_CROP_PX, margin=_MARGIN)
  inner = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
  inner = cv2.resize(inner, (_HOG_PX, _HOG_PX), interpolation=cv2.INTER_AREA)
  hog = cv2.HOGDescriptor((_HOG_PX, _HOG_PX), (16, 16), (8, 8), (8, 8), 9)
  gradients = np.asarray(hog.compute(inner), float).ravel()
  lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)
  colours = cv2.calcHist([lab], [0, 1, 2], None, _COLOUR_BINS, _COLOUR_RANGES).ravel()
  return Look(_unit(gradients - gradients.mean()), _unit(np.sqrt(colours)))


def view_of(image: np.ndarray) -> View:
  """The view of a frame, uint8 RGB [H, W, 3]."""
  small = cv2.resize(image, (_FRAME_PX, _FRAME_PX), interpolation=cv2.INTER_AREA)
  layout = cv2.resize(small, (_LAYOUT_PX, _LAYOUT_PX), interpolation=cv2.INTER_AREA).astype(float)
  bins, ranges = [_FRAME_BINS] * 3, [0, 256] * 3
  colours = cv2.calcHist([small], [0, 1, 2], None, bins, ranges).ravel()
  return View(_unit((layout - layout.mean()).ravel()), _unit(np.sqrt(colours)))


def same_shot(a: View, b: View) -> bool:
  """Whether two frames surely belong to one shot; False where a cut may lie between them."""
  return _reaches(_views(a, b), _SAME_SHOT)


def same_scene(a: View, b: View) -> bool:
  """Whether two frames differ so little that a cut between them is unlikely."""
  return _reaches(_views(a, b), _SAME_SCENE)


def alike(a: Sequence[Look], b: Sequence[Look], *, in_place: bool = False) -> bool:
  """Whether two stretches of a video show the same person; one pair of looks decides.

  Args:
    a: looks of the faces of one stretch.
    b: looks of the faces of the other.
    in_place: the face stays where it was, in a picture that changes a little.
  """
  return _reaches(_best(a, b), _ALIKE_IN_PLACE if in_place else _ALIKE)


def unlike(a: Look, b: Look) -> bool:
  """Whether two faces in one place are surely not the same person's."""
  return not any(x >= least for x, least in zip(_best([a], [b]), _UNLIKE, strict=True))


def _views(a: View, b: View) -> tuple[float, float]:
  return float(a.layout @ b.layout), float(a.colours @ b.colours)


def _best(a: Sequence[Look], b: Sequence[Look]) -> tuple[float, float]:
  gradients = np.stack([x.gradients for x in a]) @ np.stack([y.gradients for y in b]).T
  colours = np.stack([x.colours for x in a]) @ np.stack([y.colours for y in b]).T
  return float(gradients.max()), float(colours.max())


def _reaches(found: tuple[float, float], least: tuple[float, float]) -> bool:
  return all(x >= limit for x, limit in zip(found, least, strict=True))


def _unit(values: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(values)
  return values / length if length > 0 else values
