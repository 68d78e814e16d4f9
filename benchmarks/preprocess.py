"""Where the time of preprocessing goes: CPU seconds of each stage, videos per second and core.

python -m benchmarks.preprocess --json=preprocess.json
python -m benchmarks.preprocess --videos FOLDER --yunet FILE

Without --videos it makes clips like those of FaceForensics++: 300 frames of 640 x 480 pixels in
H.264, a portrait that moves before a grainy background. `before` decodes every frame, converts the
sampled ones twice, runs YuNet by OpenCV and lets zlib look for repetitions, as version 0.1 did; it
and `now` take each video in turn. Processor time is counted, so other load hardly changes it.
"""

import argparse
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import skimage

from benchmarks import measure
from masm_jax.data.columns import UNLABELLED
from masm_jax.preprocess import crops, looks, video, yunet
from masm_jax.preprocess.model_file import yunet_model
from masm_jax.preprocess.raw_video import RawVideo

STAGES = ('decode', 'convert', 'detect', 'look', 'align', 'encode', 'rest')
_SUFFIXES = ('.mp4', '.mov', '.mkv', '.avi', '.webm')
_PNG_BEFORE = (cv2.IMWRITE_PNG_COMPRESSION, 3)


class OpenCVNetwork:
  """YuNet by OpenCV, as `yunet.Network` calls it."""

  def __init__(self, model: str, *, min_score: float):
    self._net = cv2.FaceDetectorYN.create(model, '', (320, 320), min_score, 0.3, 5000)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Faces in an image, float32 [F, 15]."""
    self._net.setInputSize(image.shape[1::-1])
    found = self._net.detect(image)[1]
    return np.zeros((0, 15), np.float32) if found is None else found


def drawn_clip(path: pathlib.Path, seed: int, num_frames: int) -> pathlib.Path:
  """A portrait that sways and nods, 640 x 480, before a background that hardly moves."""
  rng = np.random.default_rng(seed)
  face = cv2.imread(str(pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'))
  face = cv2.resize(face[:320, 60:380], (400, 400), interpolation=cv2.INTER_LINEAR)
  scene = cv2.GaussianBlur(rng.integers(0, 255, (540, 700, 3), np.uint8), (31, 31), 0)
  grain = rng.normal(0, 3, (8, 480, 640, 1))
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=25, options={'crf': '23', 'preset': 'medium'})
    stream.width, stream.height, stream.pix_fmt = 640, 480, 'yuv420p'
    for t in range(num_frames):
      image = scene[20:500, 20 + t % 40 // 20 : 660 + t % 40 // 20].astype(float)
      x, y = 120 + 30 * np.sin(t / 17 + seed), 60 + 12 * np.sin(t / 11)
      turn = cv2.getRotationMatrix2D((200, 200), 5 * np.sin(t / 23), 1)
      turn[:, 2] += x, y
      cv2.warpAffine(face.astype(float), turn, (640, 480), image, cv2.INTER_LINEAR,
                     cv2.BORDER_TRANSPARENT)  # fmt: skip
      noisy = np.clip(image + grain[t % len(grain)], 0, 255).astype(np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, 'bgr24')))
    container.mux(stream.encode())
  return path


class Stages:
  """Processor time by stage, while some functions of the program are timed.

  Attributes:
    seconds: of each of `STAGES`; `rest` is what no stage takes.
  """

  def __init__(self) -> None:
    self.seconds = dict.fromkeys(STAGES, 0.0)
    self.restart()

  def timed(self, stage: str, function: Callable) -> Callable:
    """A function whose time counts for a stage, but for what it calls of other stages."""

    def call(*args: Any, **kwargs: Any) -> Any:
      outer = self.switch(stage)
      try:
        return function(*args, **kwargs)
      finally:
        self.switch(outer)

    return call

  def restart(self) -> None:
    """What was since the last switch counts for nothing."""
    self._stage, self._since = 'rest', time.process_time()

  def switch(self, stage: str) -> str:
    """Begins a stage; returns the one that was running."""
    now, outer = time.process_time(), self._stage
    self.seconds[outer] += now - self._since
    self._stage, self._since = stage, now
    return outer


@contextlib.contextmanager
def watched(stages: Stages, *, before: bool) -> Iterator[None]:
  """Times the stages of the program; with `before`, does the work as it was done before."""
  network = OpenCVNetwork if before else yunet.Network
  with contextlib.ExitStack() as stack:

    def patch(target: Any, name: str, new: Any) -> None:
      stack.enter_context(mock.patch.object(target, name, new))

    if before:
      patch(video, '_times', lambda *_: None)
      patch(video.Clip, 'converted', lambda clip, max_bytes: clip)
      patch(crops, '_PNG', _PNG_BEFORE)
    patch(yunet, 'Network', network)
    for stage, target, name in (
      ('decode', video, 'read_video'),
      ('convert', video.Clip, 'converted'),
      ('convert', video.Frame, 'rgb'),
      ('detect', network, '__call__'),
      ('look', looks, 'look_of'),
      ('look', looks, 'view_of'),
      ('align', crops, 'align'),
      ('encode', crops, '_encode_image'),
    ):
      patch(target, name, stages.timed(stage, getattr(target, name)))
    yield


def measured(paths: list[pathlib.Path], args: argparse.Namespace) -> list[dict[str, Any]]:
  """A row for each program: mean CPU seconds of a video by stage."""
  settings = crops.Settings(num_frames=args.frames, model=yunet_model(args.yunet))
  stages = {'before': Stages(), 'now': Stages()}
  num_crops = dict.fromkeys(stages, 0)
  num_bytes = dict.fromkeys(stages, 0)
  for path in paths:
    for name, found in stages.items():
      with tempfile.TemporaryDirectory() as folder, watched(found, before=name == 'before'):
        output = pathlib.Path(folder)
        cropper = crops.Cropper(path.parent, path.parent, output, settings)
        raw = RawVideo(path.name, 'video', 'benchmark', 'test', UNLABELLED, '', path.stem)
        found.restart()  # Making the detector is not a video's time.
        record = cropper(raw)
        found.switch('rest')
      num_crops[name] += record['num_crops']
      num_bytes[name] += sum(crop['bytes'] for crop in record['crops'])
  rows = []
  for name, found in stages.items():
    seconds = {stage: value / len(paths) for stage, value in found.seconds.items()}
    total = sum(seconds.values())
    rows.append(
      {'program': name, **seconds, 'CPU s': total, 'videos/s/core': 1 / total,
       'crops': num_crops[name], 'kB/crop': num_bytes[name] / max(num_crops[name], 1) / 1e3}
    )  # fmt: skip
  return rows


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--videos', type=pathlib.Path, help='folder of videos; default: drawn clips')
  parser.add_argument('--clips', type=int, default=4, help='how many are drawn')
  parser.add_argument('--clip_frames', type=int, default=300, help='of a drawn clip')
  parser.add_argument('--frames', type=int, default=32, help='kept of each video')
  parser.add_argument('--yunet', help="YuNet's model; default: fetched once and checked")
  parser.add_argument('--json', default='')
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    if args.videos:
      paths = sorted(path for path in args.videos.iterdir() if path.suffix.lower() in _SUFFIXES)
    else:
      made = pathlib.Path(folder)
      paths = [drawn_clip(made / f'{i}.mp4', i, args.clip_frames) for i in range(args.clips)]
    if not paths:
      parser.error(f'{args.videos}: no video in it')
    rows = measured(paths, args)
  print(f'{len(paths)} videos, {args.frames} frames of each; CPU seconds of a video')
  columns = dict.fromkeys((*STAGES, 'CPU s'), '.3f') | {'videos/s/core': '.2f', 'crops': 'd'}
  print(measure.table(rows, {'program': '', **columns, 'kB/crop': '.1f'}))
  measure.write(args.json, {'videos': len(paths), **measure.machine(), 'rows': rows})


if __name__ == '__main__':
  main()
