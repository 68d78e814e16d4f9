"""The face unrolled: albedo, relief and hair of an identity on a square chart of the head.

The chart is Lambert's azimuthal projection of the unit sphere around the nose: a surface point
(x, y, z), y down and z towards the viewer, lies at
(u, v) = (x, y) * sqrt(2 / (1 + z)), |u|, |v| < EXTENT.
"""

import dataclasses
import functools

import cv2
import numpy as np

from masm_jax.data.synthetic.people import Frame, Identity

EXTENT = 1.6
_SUBPIXEL_BITS = 4


@dataclasses.dataclass(frozen=True)
class Chart:
  """Layers of one identity that no expression changes, `T` pixels square."""

  albedo: np.ndarray  # uint8 [T, T, 3] sRGB, without eyes, brows and mouth
  relief: np.ndarray  # float32 [T, T, 4]: du and dv of the height, the height, gloss
  height: np.ndarray  # float32 [T, T], the same height on its own
  hair: np.ndarray  # float32 [T, T, 2]: cover 0..1, strand brightness around 1
  inner: np.ndarray  # float32 [T, T]: 1 inside the part of the face that a forgery replaces


class _Brush:
  """Draws smooth-edged polygons on a canvas that shows all of a chart or a window of it."""

  def __init__(self, canvas: np.ndarray, chart_px: int, corner: tuple[int, int] = (0, 0)):
    self.canvas = canvas  # uint8 [h, w] or [h, w, 3]
    self._scale = 0.5 * chart_px / EXTENT * 2**_SUBPIXEL_BITS
    self._shift = (0.5 * chart_px - 0.5 - np.array(corner, np.float64)) * 2**_SUBPIXEL_BITS + 0.5

  def polygon(self, points: np.ndarray, colour) -> None:
    """Fills the polygon through `points` [N, 2] (u, v)."""
    pixels = np.floor(points * self._scale + self._shift).astype(np.int32)
    cv2.fillPoly(self.canvas, [pixels], _scalar(colour), cv2.LINE_AA, _SUBPIXEL_BITS)

  def line(self, points: np.ndarray, colour, width: float) -> None:
    """A stroke `width` chart units wide that thins out at its ends; thin ones stay smooth."""
    normal = np.empty_like(points)
    normal[1:-1] = points[2:] - points[:-2]
    normal[0], normal[-1] = points[1] - points[0], points[-1] - points[-2]
    normal *= (0.5 * width * _taper_of(len(points)) / np.hypot(*normal.T))[:, None]
    side = normal[:, ::-1] * (1, -1)
    self.polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)


@functools.lru_cache
def _taper_of(num_points: int) -> np.ndarray:
  return np.sqrt(np.clip(1 - np.linspace(-1, 1, num_points) ** 4, 0.05, 1))


@functools.lru_cache
def _disc(num_points: int) -> np.ndarray:
  """Points [N, 2] on the unit circle."""
  angle = np.linspace(0, 2 * np.pi, num_points)
  return np.stack([np.cos(angle), np.sin(angle)], -1)


def _scalar(colour) -> tuple[float, ...]:
  return tuple(min(max(float(c), 0.0), 255.0) for c in colour)


def _noise(rng: np.random.Generator, size: int, cell_px: float) -> np.ndarray:
  """Smooth unit-variance noise [size, size] float32 whose blobs are about `cell_px` wide."""
  cells = max(round(size / cell_px), 2)
  coarse = rng.standard_normal((cells, cells), dtype=np.float32)
  return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _stretched(rng: np.random.Generator, size: int, rows: int, columns: int) -> np.ndarray:
  """Noise [size, size] with blobs the size of the cells of a `rows` x `columns` grid."""
  coarse = rng.standard_normal((rows, columns), dtype=np.float32)
  return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _field(axis: np.ndarray, bumps) -> np.ndarray:
  """Sum of separable Gaussians [T, T]; each bump is (weight, u, v, width, height)."""
  weight, u, v, width, height = np.array(bumps, np.float32).T[..., None]
  across = weight * np.exp(-(((axis - u) / width) ** 2))
  down = np.exp(-(((axis - v) / height) ** 2))
  return down.T @ across


def _mirrored(weight: float, u: float, v: float, width: float, height: float) -> list[tuple]:
  return [(weight, -u, v, width, height), (weight, u, v, width, height)]


def _height(who: Identity, axis: np.ndarray) -> np.ndarray:
  """Relief [T, T] over the ellipsoid, as a share of the head's radius."""
  tip = who.eye_y + who.nose_length
  bumps = [
    (
      w * who.nose_height,
      0,
      who.eye_y + t * who.nose_length,
      who.nose_width * (0.4 + 0.35 * t),
      0.13,
    )
    for t, w in ((0.1, 0.22), (0.4, 0.38), (0.7, 0.5), (1.0, 0.55))
  ]
  bumps += _mirrored(0.35 * who.nose_height, who.nose_width * 0.72, tip + 0.04, 0.075, 0.07)
  bumps += _mirrored(-0.055, who.eye_x * 0.95, who.eye_y, 0.2, 0.13)
  bumps += _mirrored(0.03, who.eye_x, who.eye_y - who.brow_y, 0.24, 0.07)
  bumps += _mirrored(who.cheekbone, 0.56, who.eye_y + 0.3, 0.2, 0.16)
  bumps += [
    (0.035, 0, who.mouth_y, who.mouth_width * 0.9, 0.12),
    (-0.03, 0, who.mouth_y + 0.17, 0.22, 0.05),
    (who.chin, 0, who.mouth_y + 0.3, 0.22, 0.12),
    (-0.012, 0, 0.5 * (tip + who.mouth_y), 0.03, 0.08),
  ]
  return _field(axis, bumps)


def _hair_cover(who: Identity, axis: np.ndarray, radius, rng: np.random.Generator) -> np.ndarray:
  """Hair on the chart [T, T]: outside a hairline whose radius depends on the direction."""
  down = axis[:, None] / (radius + np.float32(1e-6))  # -1 straight up, 1 straight down
  side = np.clip((down + np.float32(0.95)) * np.float32(1 / 0.85), 0, 1)
  side = side * side * (3 - 2 * side)
  # What depends on u alone only shapes the hair above the eyes.
  if who.fringe:
    front = -who.fringe * np.exp(-(((axis - 0.3 * who.parting) / 0.55) ** 2))
  else:
    front = 0.1 * np.exp(-(((axis - 0.5 * who.parting) / 0.16) ** 2))
  line = np.float32(who.hairline) + np.float32(who.hair_side - who.hairline) * side
  line += (axis < 0)[:, None] * front.astype(np.float32)
  lowest = 0.62 if who.hair_length else 0.12
  line += np.clip((down - np.float32(lowest)) * np.float32(2 / 0.22), 0, 2)
  line += np.float32(0.035) * _stretched(rng, axis.size, 3, 40)
  return np.clip((radius - line) * np.float32(1 / 0.07) + np.float32(0.5), 0, 1)


def _beard(who: Identity, axis: np.ndarray, radius: np.ndarray) -> np.ndarray:
  u, v = np.abs(axis)[None, :], axis[:, None]
  shape = np.clip((v - np.float32(0.42) - np.float32(0.1) * u) * 5, 0, 1)
  shape *= np.clip((radius - np.float32(0.56)) * 5, 0, 1)
  shape *= np.clip(1 - _field(axis, [(1.2, 0, who.mouth_y, who.mouth_width, 0.09)]), 0, 1)
  above = _field(axis, [(who.moustache, 0, who.mouth_y - 0.12, who.mouth_width * 0.9, 0.05)])
  return np.maximum(np.float32(who.beard) * shape, above)


@functools.lru_cache(maxsize=24)
def _cached_chart(key: '_Key', chart_px: int) -> Chart:
  who = key.identity
  # The finest layers have a cell count that follows the image size: with a generator of their own
  # they leave everything else the same at any size.
  rng = np.random.default_rng(who.texture_seed)
  fine_rng = np.random.default_rng([who.texture_seed, 1])
  axis = ((np.arange(chart_px, dtype=np.float32) + 0.5) * np.float32(2 / chart_px) - 1) * EXTENT
  axis = axis.astype(np.float32)
  radius = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
  unit_px = chart_px / (2 * EXTENT)
  height = _height(who, axis)
  slope_u = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=unit_px / 8)
  slope_v = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=unit_px / 8)
  # Cavities see less of the sky: darken what lies below its surroundings.
  cavity = cv2.blur(height, (int(0.3 * unit_px) | 1,) * 2) - height

  fine = _noise(fine_rng, chart_px, 1.7)
  tone = 1 + np.float32(0.018) * fine
  tone += np.float32(0.02 * who.blotches) * _noise(rng, chart_px, 0.07 * unit_px)
  tone += np.float32(0.018 * who.blotches) * _noise(rng, chart_px, 0.3 * unit_px)
  tone -= np.clip(cavity * np.float32(2.2), -0.06, 0.2)
  tone -= _field(
    axis, _mirrored(0.04 + 0.08 * who.wrinkles, who.eye_x, who.eye_y + 0.11, 0.16, 0.05)
  )
  tip = who.eye_y + who.nose_length
  flush = _field(
    axis, [*_mirrored(1, 0.52, who.eye_y + 0.36, 0.22, 0.18), (0.8, 0, tip, 0.13, 0.1)]
  )
  if who.freckles:
    spots = np.clip(_noise(rng, chart_px, 0.045 * unit_px) - 1.2, 0, 1) * np.clip(flush * 1.6, 0, 1)
    tone *= 1 - np.float32(0.5 * who.freckles) * spots
  planes = [
    np.float32(colour) * tone * (1 + np.float32(gain) * flush)
    for colour, gain in zip(who.skin, (0.03, -0.07, -0.06), strict=True)
  ]
  if who.beard or who.moustache:
    cover = np.clip(
      _beard(who, axis, radius) * (np.float32(0.85) + np.float32(0.12) * fine), 0, 0.95
    )
    for plane, colour in zip(planes, 0.8 * who.hair, strict=True):
      plane += cover * (np.float32(colour) - plane)

  strands = 1 + np.float32(0.11) * _stretched(fine_rng, chart_px, 7, chart_px // 2)
  gloss = _field(axis, [(1.2, 0, tip, 0.1, 0.12), (0.7, 0, -0.45, 0.4, 0.2)]) + np.float32(0.6)
  inner = np.hypot(
    axis[None, :] / np.float32(0.8), (axis[:, None] - np.float32(0.28)) / np.float32(0.72)
  )
  return Chart(
    albedo=cv2.convertScaleAbs(cv2.merge(planes)),
    relief=cv2.merge([slope_u, slope_v, height, gloss]),
    height=height,
    hair=cv2.merge([_hair_cover(who, axis, radius, rng), strands + np.float32(0.05) * fine]),
    inner=np.clip((1 - inner) / np.float32(0.16), 0, 1),
  )


class _Key:
  """Hashes an identity by all that is drawn of it, so that its chart can be kept."""

  def __init__(self, identity: Identity):
    self.identity = identity
    values = vars(identity).values()
    self._words = tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in values)

  def __hash__(self):
    return hash(self._words)

  def __eq__(self, other):
    return self._words == other._words


def chart_of(identity: Identity, chart_px: int) -> Chart:
  """The chart of an identity, kept for the 24 identities drawn last."""
  return _cached_chart(_Key(identity), chart_px)


def paint_expression(chart: Chart, who: Identity, frame: Frame, light: float) -> np.ndarray:
  """Albedo uint8 [T, T, 3] with the eyes, brows, mouth and glasses of one frame.

  `light` (-1 left .. 1 right) places the highlights in the eyes.
  """
  albedo = chart.albedo.copy()
  brush = _Brush(albedo, len(albedo))
  dark_hair = 0.7 * who.hair
  t = np.linspace(-1, 1, 9)
  tip = who.eye_y + who.nose_length
  brow_v = who.eye_y - who.brow_y - 0.05 * frame.brow_raise - who.brow_arch * (1 - t * t)
  brow_v = brow_v + who.brow_slope * 0.5 * t
  fold = np.linspace(0, 1, 7)
  fold_u = who.nose_width + 0.05 + (0.75 * who.mouth_width - 0.06) * fold
  fold_v = tip + 0.02 + (0.24 - 0.05 * frame.smile) * fold**1.3
  depth = (0.05 + 0.13 * who.wrinkles) * (0.5 + 0.5 * max(frame.smile, 0))
  for side in (-1, 1):
    _paint_eye(albedo, who, frame, side, light)
    points = _curve(side * (who.eye_x + 0.02 + t * 1.25 * who.eye_width), brow_v)
    brush.line(points, 0.75 * dark_hair + 0.25 * who.skin, 1.5 * who.brow_thickness)
    brush.line(points, dark_hair, who.brow_thickness)
    nostril = _disc(10) * (0.036, 0.02) + (side * 0.5 * who.nose_width, tip + 0.085)
    brush.polygon(nostril, 0.42 * who.skin)
    brush.line(_curve(side * fold_u, fold_v), (1 - depth) * who.skin, 0.026)
  _paint_mouth(brush, who, frame)
  if who.glasses:
    for side in (-1, 1):
      lens = _disc(25) * (0.25, 0.17) + (side * (who.eye_x + 0.01), who.eye_y + 0.03)
      brush.line(lens, (38, 34, 36), 0.032)
    bridge = _curve(np.linspace(-1, 1, 5) * (who.eye_x - 0.23), np.full(5, who.eye_y))
    brush.line(bridge, (38, 34, 36), 0.03)
  return albedo


def _curve(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.stack([u, v], -1)


def _paint_eye(albedo: np.ndarray, who: Identity, frame: Frame, side: int, light: float) -> None:
  chart_px = len(albedo)
  centre = np.array([side * who.eye_x, who.eye_y])
  t = np.linspace(-1, 1, 13)
  shape = (1 - t * t) ** 0.75
  lift = who.eye_tilt * 0.3 * t
  opening = 0.75 * who.eye_height * frame.eyes_open
  upper = _curve(side * t * who.eye_width, lift - opening * shape) + centre
  under = who.eye_height * (0.5 - 0.18 * max(frame.smile, 0))
  lower = _curve(side * t * who.eye_width, lift + under * shape) + centre

  # The eyeball is painted on a window of its own and shows through the opening between the lids.
  unit_px = 0.5 * chart_px / EXTENT
  left, top = ((centre - (0.24, 0.15) + EXTENT) * unit_px).astype(int)
  box = np.s_[top : top + int(0.3 * unit_px) + 2, left : left + int(0.48 * unit_px) + 2]
  window = albedo[box]
  opened = _Brush(np.zeros(window.shape[:2], np.uint8), chart_px, (left, top))
  opened.polygon(np.concatenate([upper, lower[::-1]]), (255,))
  eye = _Brush(np.empty_like(window), chart_px, (left, top))
  eye.canvas[:] = (232, 226, 222)
  iris = centre + np.array([0.35 * who.eye_width * frame.gaze, -0.012])
  radius = 0.082
  eye.polygon(iris + radius * _disc(21), 0.55 * who.iris)
  eye.polygon(iris + 0.8 * radius * _disc(21), who.iris)
  eye.polygon(iris + 0.42 * radius * _disc(13), (16, 13, 13))
  glint = iris + radius * np.array([0.35 * light, -0.35])
  eye.polygon(glint + 0.2 * radius * _disc(10), (250, 250, 250))
  lid_shadow = np.concatenate([upper, upper[::-1] + np.array([0, 0.022])])
  eye.polygon(lid_shadow, 0.5 * who.skin)
  alpha = opened.canvas[..., None] * np.float32(1 / 255)
  window[:] = (window + alpha * (eye.canvas.astype(np.float32) - window) + 0.5).astype(np.uint8)

  brush = _Brush(albedo, chart_px)
  brush.line(upper, 0.25 * who.skin + 0.2 * who.hair, 0.026)
  brush.line(upper - (0, 0.05), 0.8 * who.skin, 0.02)
  brush.line(lower, 0.72 * who.skin, 0.014)


def _paint_mouth(brush: _Brush, who: Identity, frame: Frame) -> None:
  t = np.linspace(-1, 1, 17)
  shape = 1 - t * t
  u = t * who.mouth_width * (1 + 0.22 * frame.smile - 0.12 * frame.mouth_open)
  line = who.mouth_y - 0.11 * frame.smile * (t * t - 0.35)
  opening = frame.mouth_open * shape**0.7
  upper, lower = line - 0.03 * opening, line + 0.17 * opening
  bow = 1 - 0.25 * np.exp(-((t / 0.14) ** 2))
  top = _curve(u, upper - who.upper_lip * bow * shape**0.8)
  bottom = _curve(u, lower + who.lower_lip * shape**0.6)
  middle = _curve(u, line)
  brush.polygon(np.concatenate([top, middle[::-1]]), 0.88 * who.lips)
  brush.polygon(np.concatenate([middle, bottom[::-1]]), who.lips)
  shine = _curve(u, lower + 0.4 * who.lower_lip * shape)
  brush.line(shine[5:12], 1.12 * who.lips + 8, 0.025)
  if frame.mouth_open > 0.03:
    gap = np.concatenate([_curve(u, upper), _curve(u, lower)[::-1]])
    brush.polygon(gap, (62, 22, 24))
    teeth = _curve(u, np.minimum(upper + 0.065 * shape, lower))
    brush.polygon(np.concatenate([_curve(u, upper)[1:-1], teeth[-2:0:-1]]), (226, 220, 208))
  brush.line(_curve(u, upper), 0.45 * who.lips, 0.02)
