"""What the child process reads: the crops of preprocessing, within memory that does not grow."""

import io
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from masm_jax.data import transforms
from masm_jax.prediction import decoding, messages
from masm_jax.prediction.decoding import Reading, Refused
from masm_jax.prediction.media import Limits, Source
from masm_jax.prediction.reading import Settings, read
from masm_jax.preprocess import crops
from masm_jax.preprocess.faces import make_detector
from masm_jax.preprocess.raw_video import RawVideo
from tests.prediction.clips import write_clip

WHOLE = Settings(crops.Settings(num_frames=4), 16, whole=True)


def read_all(path, settings, detector=None):
  reading = Reading()
  with open(path, 'rb') as file:
    found = read(
      file,
      kind='file',
      settings=settings,
      detector=detector,
      reading=reading,
      on_progress=lambda stage, share: None,
    )
    return list(found), reading


@pytest.fixture(scope='module')
def two_people(shared_data, tmp_path_factory):
  """A clip in which two real faces move past each other's height, then one leaves."""
  faces = [
    transforms.resize(transforms.decode(path), 128)
    for path in sorted((shared_data / 'real_crops').rglob('*.png'))[:32:16]
  ]
  frames = np.full((8, 240, 420, 3), 120, np.uint8)
  for t, frame in enumerate(frames):
    frame[20 + 4 * t : 148 + 4 * t, 20:148] = faces[0]
    if t < 6:
      frame[90 - 4 * t : 218 - 4 * t, 260:388] = faces[1]
  return write_clip(tmp_path_factory.mktemp('people') / 'two.mkv', frames)


def test_crops_are_those_of_preprocessing(two_people, shared_data, tmp_path, monkeypatch):
  model = str(shared_data / 'models' / 'face_detection_yunet_2026may.onnx')
  made = crops.Settings(num_frames=8, model=model, people='all', template='gend', margin=1.4)
  raw = RawVideo(two_people.name, 'video', 'd', '', -1, 'unlabelled', 'two')
  cropper = crops.Cropper(two_people.parent, two_people.parent, tmp_path, made)
  rows = cropper(raw)['crops']
  kept = [row for row in rows if not row['crop_flag']]
  detector = make_detector('yunet', model=model, min_score=made.min_score)
  found, reading = read_all(two_people, Settings(made, 256), detector)
  scored = [one for one in found if one.crop is not None]
  assert {one.person for one in scored} == {0, 1} and reading.num_people == 2
  assert sorted((one.person + 1, one.frame['index']) for one in scored) == sorted(
    (row['person'], row['frame']) for row in kept
  )
  for one in scored:
    (row,) = (r for r in kept if (r['person'], r['frame']) == (one.person + 1, one.frame['index']))
    (path,) = tmp_path.rglob(row['file'])
    np.testing.assert_array_equal(one.crop, transforms.decode(path))
    assert one.frame['quality']['face_px'] == row['face_px']
  monkeypatch.setattr(decoding, '_HELD_BYTES', 0)  # Decoded again, where frames are not held.
  again, _ = read_all(two_people, Settings(made, 256), detector)
  assert [one.frame for one in again] == [one.frame for one in found]
  for one, other in zip(found, again, strict=True):
    np.testing.assert_array_equal(one.crop, other.crop)


@pytest.mark.parametrize('held', [decoding._HELD_BYTES, 0])
@pytest.mark.parametrize('suffix', ['mkv', 'avi'])
def test_times_and_frames(tmp_path, held, suffix, monkeypatch):
  monkeypatch.setattr(decoding, '_HELD_BYTES', held)
  images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.full((24, 32, 3), 20, np.uint8)
  found, reading = read_all(write_clip(tmp_path / f'a.{suffix}', images, rate=5), WHOLE)
  assert [one.frame['index'] for one in found] == [0, 3, 6, 9]
  assert [one.frame['time_s'] for one in found] == pytest.approx([0, 0.6, 1.2, 1.8])
  assert [int(one.crop[0, 0, 0]) for one in found] == [0, 60, 120, 180]
  facts = reading.input
  assert (facts['width'], facts['height'], facts['frames'], facts['fps']) == (32, 24, 10, 5)
  messages.Done(input=messages.Input(**facts), timing_s=reading.timing_s)  # It may be told.


@pytest.mark.parametrize(
  ('limits', 'text'),
  [
    (Limits(frames=9), 'frames; the limit is 9|more than 9 frames'),
    (Limits(seconds=1.5), '2 seconds; the limit is 1.5'),
    (Limits(pixels=700), '32 x 24 pixels; the limit is 700'),
  ],
)
def test_limits_of_a_video(tmp_path, limits, text):
  clip = write_clip(tmp_path / 'a.mkv', np.zeros((10, 24, 32, 3), np.uint8), rate=5)
  strict = Settings(crops.Settings(num_frames=4), 16, whole=True, limits=limits)
  with pytest.raises(Refused, match=text) as caught:
    read_all(clip, strict)
  assert caught.value.reason == 'limit_exceeded'


def test_a_stream_of_another_codec_is_not_decoded(tmp_path, monkeypatch):
  clip = write_clip(tmp_path / 'a.mkv', np.zeros((2, 24, 32, 3), np.uint8))
  monkeypatch.setattr(decoding, '_CODECS', frozenset({'h264'}))
  with pytest.raises(Refused, match='the codec ffv1 is not read'):
    read_all(clip, WHOLE)


def test_what_a_child_says_is_checked():
  face = {
    'person': 0, 'scored': True, 'flag': '', 'index': 0, 'time_s': 0.0, 'box': [0, 0, 1, 1],
    'landmarks': [], 'quality': {'face_px': 1.0, 'blur': 0.5, 'yaw_deg': 0.0},
  }  # fmt: skip
  good = {'what': 'faces', 'is_single': True, 'faces': [face]}
  messages.parse(json.dumps(good).encode())
  for change in (
    {'what': 'run'},
    {'faces': [face] * (messages.CHUNK + 1)},
    {'faces': [face | {'time_s': float('nan')}]},
    {'faces': [face | {'flag': '<b>'}]},
    {'faces': [face | {'box': [0, 0, 1]}]},
    {'more': 1},
  ):
    with pytest.raises(ValueError, match='validation error'):
      messages.parse(json.dumps(good | change).encode())
  with pytest.raises(ValueError, match='validation error'):
    messages.parse(b'\x80\x04.')


def _peak_mib(pid):
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  return int(status.partition('VmHWM:')[2].split()[0]) / 1024


def test_memory_does_not_grow_with_the_length_of_a_video(whole_engine, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 360, 640, 3), dtype=np.uint8)
  how = {'codec': 'mpeg4', 'pix_fmt': 'yuv420p', 'rate': 25}
  clips = {
    'short': write_clip(tmp_path / 'short.mp4', pixels, **how),
    'long': write_clip(tmp_path / 'long.mp4', np.concatenate([pixels] * 20), **how),
  }
  (worker,) = whole_engine._workers
  peaks = {}
  for name in ('short', 'long'):
    whole_engine.submit(Source(clips['short'])).result()  # Starts the process, if need be.
    pid = worker._process.pid
    if not os.access(f'/proc/{pid}/clear_refs', os.W_OK):
      pytest.skip('the peak of memory cannot be reset here')
    pathlib.Path(f'/proc/{pid}/clear_refs').write_text('5')
    answer = whole_engine.submit(Source(clips[name])).result()
    assert answer.tracks[0].frames_used == 32
    assert worker._process.pid == pid
    peaks[name] = _peak_mib(pid)
  assert peaks['long'] <= 1.1 * peaks['short'], peaks


def test_a_picture_is_read_once_as_it_stands():
  stream = io.BytesIO()
  Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(stream, 'PNG')
  reading = Reading()
  (one,) = read(
    stream, kind='file', settings=WHOLE, detector=None, reading=reading,
    on_progress=lambda stage, share: None,
  )  # fmt: skip
  assert one.crop.shape == (16, 16, 3) and (one.crop == 77).all()
  assert reading.input == {'kind': 'image', 'codec': 'png', 'height': 20, 'width': 30}
