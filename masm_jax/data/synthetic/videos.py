"""Renders one real video of the built-in set and every forgery made from it.

Imports neither pandas nor JAX: worker processes start with this module.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from masm_jax.data.synthetic import camera
from masm_jax.data.synthetic.forgeries import METHODS, Shot, forge
from masm_jax.data.synthetic.people import (
  Frame,
  Scene,
  Stream,
  draw_frames,
  draw_identity,
  draw_scene,
  stream_rng,
)
from masm_jax.data.synthetic.portraits import attributes, render


@dataclasses.dataclass(frozen=True)
class VideoPlan:
  """One real video and the forgeries to make of it."""

  split: str
  identity: int
  number: int  # of the identity's videos
  forgeries: tuple[tuple[str, int], ...]  # (method, donor identity, or -1 where there is none)

  def video_id(self, method: str, donor: int = -1) -> str:
    """`synthetic/<method>/<people>_<video>`: unique over the set."""
    people = person(self.identity) + ('' if donor < 0 else f'_{person(donor)}')
    return f'synthetic/{method}/{people}_v{self.number}'


def person(identity: int) -> str:
  """An identity's name in manifests and files."""
  return f'id{identity:03d}'


def render_video(
  plan: VideoPlan, seed: int, size_px: int, num_frames: int, strength: float = 1.0
) -> Iterator[tuple[np.ndarray, dict[str, object]]]:
  """All delivered frames of a real video, then of each forgery of it.

  Yields:
    `(image uint8 [size_px, size_px, 3] RGB, row)`; `row` has the manifest's columns that do not
    depend on the file, and the portrait's attributes.
  """
  key = (seed, plan.identity, plan.number)
  rng = stream_rng(Stream.VIDEO, *key)
  scene = draw_scene(rng)
  frames = draw_frames(rng, num_frames)
  shots = [
    shoot(plan.identity, scene, frame, size_px, key, index) for index, frame in enumerate(frames)
  ]
  for method, donor in (('real', -1), *plan.forgeries):
    word = METHODS.index(method) + 1 if method in METHODS else 0
    for index, (frame, shot) in enumerate(zip(frames, shots, strict=True)):
      image = shot.image
      if word:
        image = _forged(method, donor, shot, scene, frame, (*key, word), index, strength)
      image = camera.deliver(image, scene, stream_rng(Stream.DELIVERY, *key, word, index))
      yield image, _row(plan, method, donor, index, scene, frame, seed)


def forged_areas(
  plan: VideoPlan,
  forgeries: Sequence[tuple[str, int]],
  seed: int,
  size_px: int,
  num_frames: int,
  strength: float,
) -> Iterator[tuple[str, np.ndarray]]:
  """Where some of a plan's forgeries differ from what the camera had captured.

  Yields:
    `(path as in the manifest, bool [size_px, size_px])` for each frame of each forgery.
  """
  key = (seed, plan.identity, plan.number)
  rng = stream_rng(Stream.VIDEO, *key)
  scene = draw_scene(rng)
  for index, frame in enumerate(draw_frames(rng, num_frames)):
    shot = shoot(plan.identity, scene, frame, size_px, key, index)
    for method, donor in forgeries:
      word = METHODS.index(method) + 1
      forged = _forged(method, donor, shot, scene, frame, (*key, word), index, strength)
      row = _row(plan, method, donor, index, scene, frame, seed)
      yield str(row['path']), (forged != shot.image).any(axis=-1)


def shoot(
  identity: int, scene: Scene, frame: Frame, size_px: int, key: tuple[int, ...], index: int
) -> Shot:
  """What the camera captures of an identity: noise depends on `key` (seed first) and `index`."""
  portrait = render(draw_identity(key[0], identity), scene, frame, size_px)
  rng = stream_rng(Stream.CAPTURE, *key, index)
  image = camera.capture(portrait.image, scene, rng)
  return Shot(image, portrait.inner, portrait.landmarks)


def _forged(
  method: str,
  donor: int,
  shot: Shot,
  scene: Scene,
  frame: Frame,
  key: tuple,
  index: int,
  strength: float,
) -> np.ndarray:
  video_rng = stream_rng(Stream.FORGERY, *key)
  source = None
  if donor >= 0:
    # The donor was filmed elsewhere: another camera, and a light that only resembles this one.
    other = draw_scene(video_rng)
    source_scene = dataclasses.replace(
      other,
      light_azimuth=scene.light_azimuth + float(video_rng.normal(0, 15)),
      light_elevation=scene.light_elevation + float(video_rng.normal(0, 10)),
      light_strength=float(np.clip(scene.light_strength + video_rng.normal(0, 0.08), 0.4, 1)),
      scale=scene.scale * float(video_rng.uniform(0.95, 1.05)),
    )
    source = shoot(donor, source_scene, frame, len(shot.image), (*key, donor), index)
  frame_rng = stream_rng(Stream.FORGERY, *key, index + 1)
  return forge(method, shot, source, video_rng, frame_rng, strength)


def _row(
  plan: VideoPlan, method: str, donor: int, index: int, scene: Scene, frame: Frame, seed: int
) -> dict[str, object]:
  video_id = plan.video_id(method, donor)
  people = [person(plan.identity)] + ([person(donor)] if donor >= 0 else [])
  return {
    'path': f'{video_id}/{index:03d}.png',
    'label': int(method != 'real'),
    'dataset': 'synthetic',
    'split': plan.split,
    'method': method,
    'compression': '',
    'video_id': video_id,
    'frame': index,
    'source_video_id': plan.video_id('real'),
    'identities': ';'.join(people),
    'donor': donor,
    **attributes(draw_identity(seed, plan.identity), scene, frame),
  }
