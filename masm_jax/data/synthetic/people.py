"""Who is drawn and how: identities, scenes and the frames of a video, all drawn from a seed.

Every draw is a pure function of integers, so a portrait is the same in any process and order.
Angles are degrees; colours are sRGB in 0..255; lengths on the head are in units of its half axes.
"""

import dataclasses
import enum

import numpy as np

_SKIN = np.array([[248, 216, 196], [236, 190, 164], [214, 162, 128], [176, 122, 88], [122, 80, 56]])
_HAIR = np.array(
  [[30, 26, 26], [62, 42, 30], [104, 70, 42], [172, 130, 78], [146, 66, 36], [150, 148, 146]]
)
_EYES = np.array([[70, 44, 26], [104, 72, 36], [92, 112, 66], [84, 122, 156], [110, 128, 134]])


class Stream(enum.IntEnum):
  """First word of every random key, so that no two kinds of draw share random numbers."""

  IDENTITY = 1
  PORTRAIT = 2
  VIDEO = 3
  CAPTURE = 4
  FORGERY = 5
  DELIVERY = 6
  PLAN = 7


def stream_rng(stream: Stream, seed: int, *words: int) -> np.random.Generator:
  """A generator that depends on the kind of draw, the seed and the further words alone."""
  return np.random.default_rng([int(stream), seed, *words])


@dataclasses.dataclass(frozen=True)
class Identity:
  """Everything about a face that does not change between videos."""

  index: int
  texture_seed: int
  skin: np.ndarray  # [3]
  hair: np.ndarray  # [3]
  iris: np.ndarray  # [3]
  lips: np.ndarray  # [3]
  head_width: float  # half axes in image units (the image spans -1..1)
  head_height: float
  head_depth: float
  jaw: float  # how much the lower face narrows
  eye_x: float
  eye_y: float
  eye_width: float
  eye_height: float
  eye_tilt: float
  brow_y: float
  brow_thickness: float
  brow_arch: float
  brow_slope: float
  nose_length: float
  nose_width: float
  nose_height: float
  mouth_y: float
  mouth_width: float
  upper_lip: float
  lower_lip: float
  cheekbone: float
  chin: float
  ear: float
  hairline: float
  hair_side: float
  hair_volume: float
  hair_length: float  # 0 short, 1 down to the shoulders
  parting: float
  fringe: float
  beard: float
  moustache: float
  freckles: float
  blotches: float
  wrinkles: float
  glasses: bool


@dataclasses.dataclass(frozen=True)
class Scene:
  """What the frames of one video share: light, background, clothes and camera."""

  light_azimuth: float  # 0 is the camera's side, positive lights the right side of the image
  light_elevation: float
  light_strength: float
  light_tint: np.ndarray  # [3] gains
  background_seed: int
  background: np.ndarray  # [3, 3] sRGB colours of a vertical gradient and of its blobs
  clothes: np.ndarray  # [3]
  offset: np.ndarray  # [2] where the head sits, image units
  scale: float
  blur_px: float  # sigma at 64 px, grows with the image
  noise: float  # sensor noise at mid grey, 0..255
  white_balance: np.ndarray  # [3] gains
  jpeg_quality: int


@dataclasses.dataclass(frozen=True)
class Frame:
  """Pose and expression of one frame."""

  yaw: float
  pitch: float
  roll: float
  smile: float  # -0.4 (down) .. 1
  mouth_open: float  # 0 .. 1
  brow_raise: float  # -1 .. 1
  eyes_open: float  # 0 .. 1.2
  gaze: float  # -1 .. 1


def draw_identity(seed: int, index: int) -> Identity:
  """Identity number `index` of the population `seed`."""
  rng = stream_rng(Stream.IDENTITY, seed, index)
  u = rng.uniform
  tone = np.clip(rng.beta(1.1, 1.3), 0, 0.999) * (len(_SKIN) - 1)
  low = int(tone)
  skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
  skin = skin * (1 + rng.normal(0, 0.03) + rng.normal(0, 0.02, 3))
  dark = tone > 2.6
  hair = _HAIR[rng.integers(2 if dark else len(_HAIR))]
  hair = hair * (1 + rng.normal(0, 0.12) + rng.normal(0, 0.03, 3))
  iris = _EYES[rng.integers(2 if dark else len(_EYES))] + rng.normal(0, 8, 3)
  lips = 0.62 * skin + 0.38 * np.array([176, 62, 74]) + rng.normal(0, 8, 3)
  long_hair = u() < 0.45
  bearded = not long_hair and u() < 0.45
  return Identity(
    index=index,
    texture_seed=int(rng.integers(2**31)),
    skin=np.clip(skin, 40, 250),
    hair=np.clip(hair, 12, 235),
    iris=np.clip(iris, 15, 220),
    lips=np.clip(lips, 50, 220),
    head_width=u(0.45, 0.55),
    head_height=u(0.63, 0.71),
    head_depth=u(0.54, 0.62),
    jaw=u(0.12, 0.36),
    eye_x=u(0.34, 0.46),
    eye_y=u(-0.07, 0.04),
    eye_width=u(0.15, 0.21),
    eye_height=u(0.06, 0.105),
    eye_tilt=u(-0.16, 0.14),
    brow_y=u(0.17, 0.27),
    brow_thickness=u(0.022, 0.06),
    brow_arch=u(0.01, 0.09),
    brow_slope=u(-0.12, 0.1),
    nose_length=u(0.36, 0.5),
    nose_width=u(0.11, 0.2),
    nose_height=u(0.11, 0.2),
    mouth_y=u(0.62, 0.7),
    mouth_width=u(0.22, 0.34),
    upper_lip=u(0.03, 0.065),
    lower_lip=u(0.04, 0.09),
    cheekbone=u(0.0, 0.06),
    chin=u(0.02, 0.09),
    ear=u(0.8, 1.2),
    hairline=u(0.66, 0.9),
    hair_side=u(1.02, 1.2) if long_hair else u(1.12, 1.35),
    hair_volume=u(1.08, 1.2) if long_hair else u(1.03, 1.13),
    hair_length=u(0.45, 1.0) if long_hair else 0.0,
    parting=u(-0.6, 0.6),
    fringe=u(0.15, 0.34) if u() < 0.3 else 0.0,
    beard=u(0.25, 0.85) if bearded else 0.0,
    moustache=u(0.2, 0.9) if bearded and u() < 0.8 else 0.0,
    freckles=u(0.3, 1.0) if u() < 0.25 else 0.0,
    blotches=u(0.4, 1.3),
    wrinkles=u(0.0, 1.0),
    glasses=bool(u() < 0.15),
  )


def draw_scene(rng: np.random.Generator) -> Scene:
  """Light, background and camera of one video."""
  base = rng.uniform(40, 215) + rng.normal(0, 13, 3)
  bottom = base + rng.normal(0, 20) + rng.normal(0, 10, 3)
  blobs = base + rng.normal(0, 32) + rng.normal(0, 13, 3)
  warmth = rng.normal(0, 0.035)
  return Scene(
    light_azimuth=float(rng.uniform(-75, 75)),
    light_elevation=float(rng.uniform(-10, 60)),
    light_strength=float(rng.uniform(0.45, 1.0)),
    light_tint=np.array([1 + warmth, 1.0, 1 - warmth]),
    background_seed=int(rng.integers(2**31)),
    background=np.clip([base, bottom, blobs], 10, 245),
    clothes=np.clip(rng.uniform(20, 225, 3) * 0.45 + rng.uniform(15, 215) * 0.55, 12, 235),
    offset=np.clip(rng.normal(0, 0.025, 2), -0.06, 0.06),
    scale=float(rng.uniform(1.7, 1.9)),
    blur_px=float(rng.uniform(0.25, 0.5)),
    noise=float(rng.uniform(1.0, 3.0)),
    white_balance=1 + rng.normal(0, 0.02, 3),
    jpeg_quality=int(rng.integers(72, 97)),
  )


def draw_frames(rng: np.random.Generator, num_frames: int) -> list[Frame]:
  """Pose and expression along a video: a start, a slow drift and a swing for every quantity."""
  centre = np.array([0.0, 2.0, 0.0, 0.25, 0.1, 0.0, 0.95, 0.0])
  spread = np.array([17.0, 6.0, 4.0, 0.4, 0.3, 0.45, 0.12, 0.5])
  start = centre + spread * rng.normal(size=8)
  swing = spread * rng.uniform(0.2, 0.8, 8)
  phase = rng.uniform(0, 2 * np.pi, 8)
  turns = rng.uniform(0.3, 0.8, 8)
  time = np.arange(num_frames)[:, None] / max(num_frames - 1, 1)
  tracks = start + swing * np.sin(phase + 2 * np.pi * turns * time)
  low = np.array([-38, -16, -14, -0.4, 0.0, -1.0, 0.35, -1.0])
  high = np.array([38, 18, 14, 1.0, 1.0, 1.0, 1.2, 1.0])
  return [Frame(*map(float, row)) for row in np.clip(tracks, low, high)]
