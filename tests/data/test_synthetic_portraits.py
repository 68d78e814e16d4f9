"""Portraits are pure functions of their arguments, and show what they are labelled with."""

import dataclasses
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from masm_jax.data.synthetic import people, portrait_sample, portraits, skin
from masm_jax.errors import UserError

_KEYS = {
  'identity',
  'yaw',
  'pitch',
  'roll',
  'light_azimuth',
  'light_elevation',
  'light_strength',
  'smile',
  'mouth_open',
  'brow_raise',
  'eyes_open',
  'gaze',
}


def _frame(**changes) -> people.Frame:
  frame = people.Frame(
    yaw=0, pitch=0, roll=0, smile=0.2, mouth_open=0, brow_raise=0, eyes_open=1, gaze=0
  )
  return dataclasses.replace(frame, **changes)


def _scene(**changes) -> people.Scene:
  scene = people.draw_scene(np.random.default_rng(4))
  scene = dataclasses.replace(scene, light_azimuth=0.0, light_elevation=20.0, light_strength=0.9)
  return dataclasses.replace(scene, **changes)


def _person(**changes) -> people.Identity:
  plain = {'glasses': False, 'fringe': 0.0, 'beard': 0.0, 'moustache': 0.0}
  return dataclasses.replace(people.draw_identity(0, 3), **plain | changes)


def test_sample_has_the_promised_form():
  image, attributes = portrait_sample(0, 7, 48, 20)
  assert image.shape == (48, 48, 3)
  assert image.dtype == np.uint8
  assert image.flags.c_contiguous
  assert set(attributes) == _KEYS
  assert isinstance(attributes['identity'], int)
  assert all(isinstance(v, float) for k, v in attributes.items() if k != 'identity')
  assert image.std() > 20  # a picture, not a plain area


def test_sample_depends_on_its_arguments_alone():
  first, attributes = portrait_sample(0, 5, 32, 10)
  for index in range(8):  # another order, and other identities in the cache
    portrait_sample(0, index, 32, 10)
  skin._cached_chart.cache_clear()
  again, attributes_again = portrait_sample(0, 5, 32, 10)
  np.testing.assert_array_equal(first, again)
  assert attributes == attributes_again
  assert np.abs(first.astype(int) - portrait_sample(0, 6, 32, 10)[0]).mean() > 5
  assert np.abs(first.astype(int) - portrait_sample(1, 5, 32, 10)[0]).mean() > 5


@pytest.mark.parametrize('change', [{'beard': 0.8}, {'skin': np.array([90.0, 60, 40])}])
def test_a_portrait_does_not_depend_on_what_was_drawn_before(change):
  """Charts are kept: those of a changed identity are not taken for the identity's own."""
  draw = lambda who: portraits.render(who, _scene(), _frame(), 32).image
  skin._cached_chart.cache_clear()
  alone = draw(_person())
  skin._cached_chart.cache_clear()
  assert np.abs(draw(_person(**change)) - alone).max() > 5
  np.testing.assert_array_equal(draw(_person()), alone)


def test_sample_draws_every_identity_of_the_population():
  drawn = [portrait_sample(0, index, 16, 4)[1]['identity'] for index in range(60)]
  assert set(drawn) == {0, 1, 2, 3}
  assert portrait_sample(0, 9, 16, 1)[1]['identity'] == 0


def test_attributes_vary_over_their_ranges():
  table = [portrait_sample(0, index, 16, 50)[1] for index in range(80)]
  for name, low, high in (('yaw', -38, 38), ('light_azimuth', -75, 75), ('smile', -0.4, 1)):
    values = np.array([row[name] for row in table])
    assert low <= values.min() < low + 0.35 * (high - low)
    assert high >= values.max() > high - 0.35 * (high - low)


@pytest.mark.parametrize(
  ('name', 'arguments'),
  [
    ('seed', (-1, 0, 64, 5)),
    ('index', (0, -1, 64, 5)),
    ('size_px', (0, 0, 8, 5)),
    ('num_identities', (0, 0, 64, 0)),
    ('size_px', (0, 0, 64.5, 5)),
  ],
)
def test_sample_refuses_arguments_out_of_range(name, arguments):
  with pytest.raises(UserError, match=name):
    portrait_sample(*arguments)


@pytest.mark.parametrize('azimuth', [-60.0, 60.0])
def test_the_lit_side_is_brighter(azimuth):
  portrait = portraits.render(_person(), _scene(light_azimuth=azimuth), _frame(), 64)
  middle = int(portrait.landmarks[2, 0])
  inside = portrait.inner > 0.9
  left = portrait.image[:, :middle][inside[:, :middle]].mean()
  right = portrait.image[:, middle:][inside[:, middle:]].mean()
  assert (right - left) * np.sign(azimuth) > 20


def test_yaw_turns_the_nose_and_roll_tilts_the_eyes():
  noses, tilts = [], []
  for yaw in (-25, 0, 25):
    marks = portraits.render(_person(), _scene(), _frame(yaw=yaw), 64).landmarks
    noses.append(marks[2, 0] - marks[:2, 0].mean())
  assert noses[0] < -1.2 < noses[1] < 1.2 < noses[2]
  for roll in (-10, 0, 10):
    marks = portraits.render(_person(), _scene(), _frame(roll=roll), 64).landmarks
    tilts.append(np.degrees(np.arctan2(*(marks[1] - marks[0])[::-1])))
  np.testing.assert_allclose(tilts, [-10, 0, 10], atol=0.01)


def test_landmarks_lie_on_what_they_name():
  """The pupils are the darkest places near the eyes' landmarks."""
  who = _person(iris=np.array([40.0, 30, 20]), eye_height=0.1, skin=np.array([230.0, 190, 170]))
  portrait = portraits.render(who, _scene(), _frame(yaw=15, roll=8), 128)
  for x, y in portrait.landmarks[:2]:
    window = portrait.image.mean(2)[int(y) - 4 : int(y) + 6, int(x) - 8 : int(x) + 10]
    rows, columns = np.nonzero(window < np.percentile(window, 12))
    assert np.hypot(rows.mean() - 4, columns.mean() - 8) < 3


def test_the_mouth_opens_where_the_mouth_is():
  closed = portraits.render(_person(), _scene(), _frame(), 64)
  opened = portraits.render(_person(), _scene(), _frame(mouth_open=1.0), 64)
  change = np.abs(opened.image - closed.image).max(2)
  nose = int(closed.landmarks[2, 1])
  assert change[nose + 3 :].max() > 60
  assert change[: nose - 2].max() == 0


def test_the_same_person_is_drawn_at_every_size():
  who, scene, frame = people.draw_identity(0, 8), _scene(), _frame(yaw=10)
  large = portraits.render(who, scene, frame, 128)
  small = portraits.render(who, scene, frame, 64)
  reduced = cv2.resize(large.image, (64, 64), interpolation=cv2.INTER_AREA)
  # The finest skin grain is another at another size: compare what is coarser than it.
  coarse = lambda image: cv2.GaussianBlur(image, (0, 0), 2.0)
  assert np.abs(coarse(reduced) - coarse(small.image)).mean() < 4
  other = portraits.render(people.draw_identity(0, 9), scene, frame, 64)
  assert np.abs(coarse(other.image) - coarse(small.image)).mean() > 15
  np.testing.assert_allclose((large.landmarks + 0.5) / 2 - 0.5, small.landmarks, atol=1e-4)


def test_a_video_moves_smoothly_and_stays_in_range():
  frames = people.draw_frames(np.random.default_rng(2), 32)
  yaw = np.array([frame.yaw for frame in frames])
  assert np.abs(np.diff(yaw)).max() < 6
  assert np.ptp(yaw) > 1
  assert all(0 <= frame.mouth_open <= 1 and abs(frame.yaw) <= 38 for frame in frames)


def test_importing_draws_in_no_model_library():
  code = (
    'import sys, masm_jax.data.synthetic; '
    'print([m for m in ("jax", "torch", "tensorflow", "pandas") if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=pathlib.Path(portraits.__file__).parents[3],
  )
  assert done.stdout.strip() == '[]'
