"""Clips with a real face, made here: scikit-image's astronaut, moved about, in H.264."""

import json
import pathlib
import shutil

import av
import cv2
import numpy as np
import pytest
import skimage

from masm_jax.preprocess.__main__ import main
from masm_jax.preprocess.crops import Settings


@pytest.fixture(scope='session')
def astronaut() -> np.ndarray:
  """NASA's portrait of Eileen Collins (public domain): uint8 RGB [512, 512, 3]."""
  path = pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'
  return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope='session')
def portrait(astronaut) -> np.ndarray:
  """Her head and shoulders: uint8 RGB [192, 192, 3], face about 90 px."""
  return np.ascontiguousarray(astronaut[16:208, 128:320])


@pytest.fixture(scope='session')
def yunet(request) -> str:
  """YuNet's model file, from the check data."""
  folder = request.getfixturevalue('shared_data')
  return str(folder / 'models' / 'face_detection_yunet_2026may.onnx')


@pytest.fixture(scope='session')
def settings(request) -> Settings:
  """Four frames of 64 px; by YuNet where the check data are, by Haar elsewhere."""
  small = {'num_frames': 4, 'size_px': 64}
  try:
    return Settings(model=request.getfixturevalue('yunet'), **small)
  except pytest.skip.Exception:
    return Settings(detector='haar', **small)


@pytest.fixture(scope='session')
def write_clip():
  """Writes uint8 RGB frames [T, H, W, 3] as an H.264 video; returns its path."""
  return _write_clip


def _write_clip(path, frames) -> pathlib.Path:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(f'file:{path}', 'w') as container:
    stream = container.add_stream('libx264', rate=25, options={'crf': '12', 'preset': 'ultrafast'})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.thread_count = 1
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), 'rgb24')))
    container.mux(stream.encode())
  return path


def _moving(image, num_frames) -> list[np.ndarray]:
  return [np.roll(image, 2 * t, axis=1) for t in range(num_frames)]


@pytest.fixture(scope='session')
def clips(portrait, tmp_path_factory) -> dict[str, pathlib.Path]:
  """One clip of each outcome: `ok` (6 frames), `too_short` (2), `no_face`, `unreadable`."""
  folder = tmp_path_factory.mktemp('clips')
  noise = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3), np.uint8)
  empty = folder / 'unreadable.mp4'
  empty.write_bytes(b'')
  return {
    'ok': _write_clip(folder / 'ok.mp4', _moving(portrait, 6)),
    'too_short': _write_clip(folder / 'too_short.mp4', _moving(portrait, 2)),
    'no_face': _write_clip(folder / 'no_face.mp4', noise),
    'unreadable': empty,
  }


@pytest.fixture
def raw(tmp_path, clips, portrait):
  """A folder data set with every outcome in it."""
  root = tmp_path / 'raw'
  for name, kind in (
    ('real/a.mp4', 'ok'), ('fake/DF/two words.mp4', 'ok'), ('fake/DF/Größe 日本.mp4', 'too_short'),
    ('real/noise.mp4', 'no_face'), ('fake/DF/zero.mp4', 'unreadable'),
  ):  # fmt: skip
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips[kind], root / name)
  content = clips['ok'].read_bytes()
  (root / 'fake' / 'cut.mp4').write_bytes(content[: len(content) // 2])
  cv2.imwrite(str(root / 'real' / 'face.png'), portrait[..., ::-1])
  (root / 'real' / 'broken.png').write_bytes(b'\x89PNG')
  frames = root / 'fake' / 'NT' / 'frames_of_one'
  frames.mkdir(parents=True)
  for number in range(4):
    cv2.imwrite(str(frames / f'{number}.png'), portrait[..., ::-1])
  (frames / '2.png').write_bytes(b'')
  return root


@pytest.fixture
def run(raw, tmp_path, settings):
  """Runs the command on `raw`; returns its exit status."""
  detector = ('--yunet', settings.model) if settings.model else ('--detector', 'haar')

  def run(*options, output='out', processes=0):
    command = ['--input', raw, '--layout', 'folder', '--split', 'train', '--frames', 4, *detector]
    command += ['--size', 64, '--output', tmp_path / output, '--processes', processes, *options]
    return main([str(word) for word in command])

  return run


def lines(output):
  """The outcomes that a run has written."""
  return [json.loads(line) for line in (output / 'outcomes.jsonl').read_text().splitlines()]
