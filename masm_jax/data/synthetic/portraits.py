"""Draws one stylised portrait: a lit ellipsoid head with a chart of the face wrapped around it.

The head is an ellipsoid whose lower half narrows; every pixel's ray is met with it in closed form,
so pose, light and texture are continuous. Shading is Lambert's law on the relief's normals, in
linear light (gamma 2). Drawn at twice the size and averaged down. Stand-in data: it resembles no
person.
"""

import dataclasses
import functools

import cv2
import numpy as np

from masm_jax.data.synthetic import camera
from masm_jax.data.synthetic.people import (
  Frame,
  Identity,
  Scene,
  Stream,
  draw_frames,
  draw_identity,
  draw_scene,
  stream_rng,
)
from masm_jax.data.synthetic.skin import EXTENT, chart_of, paint_expression
from masm_jax.errors import UserError

_SUPERSAMPLE = 2
_LOWERED = 0.04  # the head's centre lies this far below the image's, to leave room for hair


@dataclasses.dataclass(frozen=True)
class Portrait:
  """What the renderer knows about an image before any camera has touched it."""

  image: np.ndarray  # float32 [H, W, 3] sRGB 0..255
  inner: np.ndarray  # float32 [H, W], 1 inside the inner face, soft at its edge
  landmarks: np.ndarray  # float32 [5, 2] x, y in pixels: eyes, nose tip, mouth corners (left first)


def portrait_sample(
  seed: int, index: int, size_px: int, num_identities: int
) -> tuple[np.ndarray, dict[str, float | int]]:
  """Real portrait number `index` of an endless stream: a pure function of its arguments.

  Args:
    seed: Seed of the population and of the stream.
    index: Position in the stream, from 0; samples are independent of each other.
    size_px: Height and width of the image.
    num_identities: Size of the population that identities are drawn from.

  Returns:
    `(image uint8 [size_px, size_px, 3] RGB, attributes)`: `identity` (int), `yaw`, `pitch`, `roll`,
    `light_azimuth`, `light_elevation` (degrees), `light_strength`, `smile`, `mouth_open`,
    `brow_raise`, `eyes_open`, `gaze`.

  Raises:
    UserError: an argument is out of range.
  """
  at_least('portrait_sample', seed=(seed, 0), index=(index, 0), size_px=(size_px, 16))
  at_least('portrait_sample', num_identities=(num_identities, 1))
  rng = stream_rng(Stream.PORTRAIT, seed, index)
  identity = draw_identity(seed, int(rng.integers(num_identities)))
  scene = draw_scene(rng)
  frame = draw_frames(rng, 1)[0]
  image = camera.capture(render(identity, scene, frame, size_px).image, scene, rng)
  return camera.deliver(image, scene, rng), attributes(identity, scene, frame)


def at_least(where: str, **bounds: tuple[int, int]) -> None:
  """Raises `UserError` for the first `name=(value, lowest)` whose value is no integer >= lowest."""
  for name, (value, lowest) in bounds.items():
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < lowest:
      raise UserError(f'{where}: {name} is {value!r}; give a whole number of at least {lowest}')


def attributes(identity: Identity, scene: Scene, frame: Frame) -> dict[str, float | int]:
  """The semantics of a portrait as plain numbers (keys as in `portrait_sample`)."""
  return {
    'identity': identity.index,
    **dataclasses.asdict(frame),
    'light_azimuth': scene.light_azimuth,
    'light_elevation': scene.light_elevation,
    'light_strength': scene.light_strength,
  }


def render(identity: Identity, scene: Scene, frame: Frame, size_px: int) -> Portrait:
  """Draws a portrait; see `Portrait` for shapes. No noise, no compression.

  Colour is kept in planes [3, H, W] of linear light in here: three times as fast as interleaved.
  """
  big = size_px * _SUPERSAMPLE
  chart_px = 5 * size_px // 2
  chart = chart_of(identity, chart_px)
  rotation = _rotation(frame)
  light = _light_direction(scene)
  light_head = rotation.T @ light
  axes = np.array([identity.head_width, identity.head_height, identity.head_depth]) * scene.scale
  x, y = _grid(big)
  x, y = x - np.float32(scene.offset[0]), y - np.float32(scene.offset[1] + _LOWERED)
  tint = (scene.light_tint * scene.light_strength).astype(np.float32)
  ambient = np.float32(0.9 - 0.55 * scene.light_strength)

  head = _Surface(x, y, axes, rotation, identity.jaw)
  map_x, map_y = head.chart_pixels(chart_px)
  # Relief stands out towards the viewer: two steps to where each ray meets the raised surface.
  lean_x, lean_y = (
    np.float32(0.5 * chart_px / EXTENT * c / rotation[2, 2]) for c in rotation[2, :2]
  )
  risen_x, risen_y = map_x, map_y
  for _ in range(2):
    height = _look_up(chart.height, risen_x, risen_y)
    risen_x, risen_y = map_x + height * lean_x, map_y + height * lean_y
  map_x, map_y = risen_x, risen_y
  painted = paint_expression(chart, identity, frame, np.sin(np.radians(scene.light_azimuth)))
  skin = cv2.split(_look_up(painted, map_x, map_y))
  slope_u, slope_v, height, gloss = cv2.split(_look_up(chart.relief, map_x, map_y))
  # One more look-up, a step towards the light: higher ground there casts a shadow here.
  step_x, step_y = (np.float32(0.11 * chart_px / (2 * EXTENT) * along) for along in light_head[:2])
  towards = _look_up(chart.height, map_x + step_x, map_y + step_y)
  lambert, glint = head.shade(axes, light_head, rotation[2], slope_u, slope_v)
  open_sky = 1 - np.clip((towards - height - np.float32(0.035)) * 14, 0, 1) * np.float32(0.55)
  lambert *= open_sky * np.float32(1.05)
  glint *= open_sky * gloss * np.float32(5200)

  shell = _Surface(x, y + np.float32(0.015), axes * identity.hair_volume, rotation, 0.0)
  hair, strands = cv2.split(_look_up(chart.hair, *shell.chart_pixels(chart_px)))
  hair *= shell.cover
  hair_lambert, hair_glint = shell.shade(axes, light_head, rotation[2])
  hair_glint *= strands

  planes = _backdrop(identity, scene, axes, rotation, light, big)
  for channel, plane in enumerate(planes):
    albedo = skin[channel].astype(np.float32)
    albedo *= albedo
    lit = albedo * (lambert * tint[channel] + ambient) + glint * tint[channel]
    plane += head.cover * (lit - plane)
    base = np.float32(identity.hair[channel] ** 2)
    lit = strands * strands * base * (hair_lambert * tint[channel] + ambient)
    lit += hair_glint * ((base * np.float32(0.35) + 2200) * tint[channel])
    plane += hair * (lit - plane)

  inner = _look_up(chart.inner, map_x, map_y) * head.cover * (1 - hair)
  linear = cv2.resize(cv2.merge(planes), (size_px, size_px), interpolation=cv2.INTER_AREA)
  return Portrait(
    image=np.sqrt(np.clip(linear, 0, 255**2)),
    inner=cv2.resize(inner, (size_px, size_px), interpolation=cv2.INTER_AREA),
    landmarks=_landmarks(identity, scene, frame, axes, rotation, size_px),
  )


def _look_up(layer: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
  return cv2.remap(layer, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@functools.lru_cache(maxsize=8)
def _grid(big: int) -> tuple[np.ndarray, np.ndarray]:
  axis = (np.arange(big, dtype=np.float32) + 0.5) * np.float32(2 / big) - 1
  x, y = np.meshgrid(axis, axis)
  x.setflags(write=False)
  y.setflags(write=False)
  return x, y


def _rotation(frame: Frame) -> np.ndarray:
  """Head to camera, [3, 3]: x right, y down, z towards the viewer."""
  yaw, pitch, roll = np.radians([frame.yaw, frame.pitch, frame.roll])
  cy, sy, cp, sp, cr, sr = (*_cs(yaw), *_cs(pitch), *_cs(roll))
  about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
  about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
  about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
  return about_z @ about_x @ about_y


def _cs(angle: float) -> tuple[float, float]:
  return float(np.cos(angle)), float(np.sin(angle))


def _light_direction(scene: Scene) -> np.ndarray:
  azimuth, elevation = np.radians([scene.light_azimuth, scene.light_elevation])
  return np.array(
    [np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
  )


def _taper(ny: np.ndarray, jaw: float) -> np.ndarray:
  """Relative width of the head at height `ny` (-1 top, 1 chin)."""
  low = np.clip((ny + np.float32(0.1)) / np.float32(1.1), 0, 1)
  return 1 - np.float32(jaw) * low * low


class _Surface:
  """Where every pixel's ray meets the head: points on the unit sphere and how much is covered."""

  def __init__(self, x, y, axes: np.ndarray, rotation: np.ndarray, jaw: float):
    to_sphere = (rotation.T / axes[:, None]).astype(np.float32)
    start = [row[0] * x + row[1] * y for row in to_sphere]
    step = list(to_sphere[:, 2])
    if jaw:
      ny = self._meet(start, step)[1]
      inverse = 1 / _taper(ny, jaw)
      start[0], step[0] = start[0] * inverse, step[0] * inverse
    self.nx, self.ny, self.nz = self._meet(start, step)
    # The discriminant falls to zero at the outline; its slope there turns it into a pixel share.
    edge = self.room * np.float32(0.25 * len(x) * float(axes.min()))
    self.cover = np.clip(edge + np.float32(0.5), 0, 1)

  def _meet(self, start, step):
    square = sum(d * d for d in step)
    half = sum(p * d for p, d in zip(start, step, strict=True)) / square
    away = sum(p * p for p in start) - 1
    self.room = half * half * square - away
    depth = np.sqrt(np.maximum(self.room, 0) / square) - half
    return [p + depth * d for p, d in zip(start, step, strict=True)]

  def chart_pixels(self, chart_px: int) -> tuple[np.ndarray, np.ndarray]:
    stretch = np.sqrt(2 / np.maximum(1 + self.nz, np.float32(0.05)))
    stretch *= np.float32(0.5 * chart_px / EXTENT)
    middle = np.float32(0.5 * chart_px - 0.5)
    return self.nx * stretch + middle, self.ny * stretch + middle

  def shade(self, axes, light, viewer, slope_u=None, slope_v=None):
    """Lambert term (softened at the terminator) and a broad highlight, both [H, W]."""
    narrow = (axes.mean() / axes).astype(np.float32)
    nx, ny, nz = self.nx, self.ny, self.nz
    if slope_u is not None:
      slope_u, slope_v = slope_u * np.float32(1.5), slope_v * np.float32(1.5)
      along = 1 + slope_u * nx + slope_v * ny
      nx, ny, nz = nx * along - slope_u, ny * along - slope_v, nz * along
    nx, ny, nz = nx * narrow[0], ny * narrow[1], nz * narrow[2]
    length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-6))
    l0, l1, l2 = (np.float32(v) for v in light)
    lambert = (nx * l0 + ny * l1 + nz * l2) * length
    half = light + viewer
    h0, h1, h2 = (np.float32(v) for v in half / (np.linalg.norm(half) + 1e-6))
    glint = np.maximum((nx * h0 + ny * h1 + nz * h2) * length, 0)
    for _ in range(4):
      glint *= glint
    return np.maximum((lambert + np.float32(0.25)) * np.float32(0.8), 0), glint


def _backdrop(identity, scene, axes, rotation, light, big) -> list[np.ndarray]:
  """Background, long hair, neck, clothes and ears: three planes [H, W] of linear light."""
  rng = np.random.default_rng(scene.background_seed)
  ramp = np.linspace(0, 1, 7)[:, None, None] * np.ones((1, 7, 1))
  small = scene.background[0] + ramp * (scene.background[1] - scene.background[0])
  blobs = np.clip(rng.normal(0, 0.6, (7, 7, 1)), 0, 1)
  small = (small + blobs * (scene.background[2] - small)).astype(np.float32)
  canvas = cv2.resize(small, (big, big), interpolation=cv2.INTER_CUBIC)
  canvas = np.clip(canvas, 0, 255).astype(np.uint8)
  origin = scene.offset + np.array([0, _LOWERED]) + 1

  def fill(points, colour) -> None:
    pixels = np.round((np.asarray(points) + origin) * (big * 8)).astype(np.int32)
    cv2.fillPoly(canvas, [pixels], tuple(map(float, colour)), cv2.LINE_AA, 4)

  width, height, _ = axes
  angle = np.linspace(0, 2 * np.pi, 33)
  disc = np.stack([np.cos(angle), np.sin(angle)], -1)
  if identity.hair_length:
    # As high as the hair on the head, or the background would show through its parting.
    curtain = disc * [width * (identity.hair_volume + 0.06), height * identity.hair_volume]
    curtain[disc[:, 1] > 0] += [0, height * (0.2 + 0.75 * identity.hair_length)]
    at = rotation[:2, :2] @ np.array([0.0, 0.15]) - [0, 0.15]
    fill(curtain + at, 0.55 * identity.hair)
    fill(curtain * [0.9, 0.97] + at, 0.68 * identity.hair)
  neck = width * (0.52 + 0.1 * (1 - identity.jaw))
  for left in np.linspace(-1, 0.8, 10):
    shade = 0.72 + 0.14 * light[0] * (left + 0.1)
    top, bottom = neck * np.array([left, left + 0.24]), neck * np.array([left, left + 0.24]) * 1.08
    fill([[top[0], 0.3], [top[1], 0.3], [bottom[1], 1.2], [bottom[0], 1.2]], shade * identity.skin)
  left_side = [[-1.4, 1.4], [-1.2, 0.98], [-neck * 1.2, 0.86]]
  right_side = [[-u, v] for u, v in left_side[::-1]]
  fill([*left_side, [0, 1.06], *right_side], scene.clothes)
  for side in (-1, 1):
    at = (rotation @ (axes * [side * 0.97, 0.06, -0.12]))[:2]
    facing = (rotation @ np.array([side, 0, 0.25]))[2]
    if facing > -0.35:
      bright = 0.81 + 0.11 * side * light[0]
      ear = disc * [0.07 + 0.05 * max(facing, 0), 0.13] * identity.ear @ rotation[:2, :2].T
      fill(ear + at, bright * identity.skin)
      fill(0.55 * ear + at + [side * 0.008, 0], 0.8 * bright * identity.skin)
  # The head keeps light from the neck; the whole picture darkens away from the lamp.
  x, y = _grid(big)
  cx, cy = (np.float32(v) for v in origin - 1 + [0, 0.86 * height])
  below = np.exp(-(((y[:, :1] - cy) * np.float32(4.5)) ** 2))
  shadow = below * np.exp(-(((x[:1] - cx) * np.float32(2.2)) ** 2))
  room = np.float32(0.95) + np.float32(0.12 * light[0]) * x
  room *= 1 - np.float32(0.55) * shadow
  planes = [plane.astype(np.float32) for plane in cv2.split(canvas)]
  return [plane * plane * room for plane in planes]


def _landmarks(identity, scene, frame, axes, rotation, size_px) -> np.ndarray:
  corner = identity.mouth_width * (1 + 0.22 * frame.smile - 0.12 * frame.mouth_open)
  tip = identity.eye_y + identity.nose_length
  mouth = identity.mouth_y - 0.07 * frame.smile
  chart = np.array(
    [
      [-identity.eye_x, identity.eye_y],
      [identity.eye_x, identity.eye_y],
      [0, tip],
      [-corner, mouth],
      [corner, mouth],
    ]
  )
  square = np.sum(chart**2, 1, keepdims=True)
  point = np.concatenate([chart * np.sqrt(1 - square / 4), 1 - square / 2], 1)
  point[:, 0] *= _taper(point[:, 1], identity.jaw)
  point[2, 2] += 0.75 * identity.nose_height
  flat = (rotation @ (point * axes).T).T[:, :2] + scene.offset + [0, _LOWERED]
  return ((flat + 1) * (size_px / 2) - 0.5).astype(np.float32)
