"""A scorer that answers what it is told to, and answers of every kind to tell it."""

import concurrent.futures
import hashlib
import threading
import time

import cv2
import numpy as np

from masm_jax.prediction import answers
from masm_jax.serving.jobs import Result

MODEL = {
  'name': 'ffpp_masm', 'method': 'masm', 'backbone': 'clip_l14', 'sha256': 'ab' * 32,
  'base_sha256': 'cd' * 32, 'code': '0.2.0+1a2b3c4', 'training_sets': ['FaceForensics++ c23'],
  'training_videos': {
    'real': {'videos': 720, 'identities': 703}, 'fake': {'videos': 2880, 'identities': None},
  },
}  # fmt: skip
POLICY = {
  'threshold': 0.62, 'threshold_source': 'validation EER', 'abstain': [0.35, 0.62],
  'frames': 'mean', 'tracks': 'max',
  'calibration': {'kind': 'temperature', 'T': 1.7, 'set': 'ffpp val', 'ece': 0.03},
}  # fmt: skip
_VERDICTS = {'fake': 0.91, 'real': 0.08, 'undecided': 0.48}


def frame(i, probability, *, step_s=0.4, x=420.0):
  """One face of a track."""
  box = [x + 4 * np.sin(i / 3), 96.0 + 3 * np.cos(i / 4), 180.0, 220.0]
  eyes = [[box[0] + 55, box[1] + 85], [box[0] + 125, box[1] + 85]]
  rest = [[box[0] + 90, box[1] + 130], [box[0] + 62, box[1] + 170], [box[0] + 118, box[1] + 170]]
  raw = None if probability is None else float(np.log(probability / (1 - probability)) * 1.7)
  quality = {'face_px': 199.0, 'blur': 0.2, 'yaw_deg': 4.0}
  return {
    'index': 10 * i, 'time_s': round(i * step_s, 3), 'box': [float(v) for v in box],
    'landmarks': eyes + rest, 'quality': quality, 'score_raw': raw, 'probability': probability,
  }  # fmt: skip


def track(number, verdict, *, count=30, x=420.0, reasons=()):
  """One person of a video, scored in all frames but a few."""
  center = _VERDICTS.get(verdict)
  rng = np.random.default_rng(number + 1)
  values = [None] * count
  if center is not None:
    noise = np.clip(center + 0.08 * np.cumsum(rng.normal(size=count)) / 2, 0.02, 0.98)
    values = [None if i in (11, 12) else float(v) for i, v in enumerate(noise)]
  frames = [frame(i, value, x=x) for i, value in enumerate(values)]
  used = [f for f in frames if f['probability'] is not None]
  over = [f for f in used if f['probability'] >= 0.62]
  segments = [
    {'start_s': over[0]['time_s'], 'end_s': over[-1]['time_s'], 'probability': 0.93}
  ] if over and verdict == 'fake' else []  # fmt: skip
  interval = [max(0.0, center - 0.07), min(1.0, center + 0.05)] if center is not None else None
  return {
    'id': number, 'verdict': verdict, 'probability': center, 'interval': interval,
    'start_s': frames[0]['time_s'], 'end_s': frames[-1]['time_s'], 'frames_used': len(used),
    'reasons': list(reasons), 'segments': segments, 'frames': frames,
  }  # fmt: skip


def answer(verdict, *, kind='video', data=b'', tracks=None, reasons=(), warnings=(), name='clip'):
  """An answer's document, of a video of 12 s or of a picture."""
  sha256 = hashlib.sha256(data).hexdigest()
  if tracks is None:
    tracks = [] if verdict == 'no_answer' else [track(0, verdict, reasons=reasons)]
  if kind == 'image':
    for one in tracks:
      one |= {'frames': one['frames'][:1], 'interval': None, 'segments': [], 'end_s': 0.0}
      one['frames_used'] = 1
  facts = {
    'name': name, 'kind': kind, 'sha256': sha256, 'width': 1280, 'height': 720,
    'duration_s': 12.0 if kind == 'video' else None, 'frames': 300 if kind == 'video' else None,
    'fps': 25.0 if kind == 'video' else None, 'codec': 'h264' if kind == 'video' else 'jpeg',
  }  # fmt: skip
  probability = _VERDICTS.get(verdict)
  return {
    'schema': answers.SCHEMA, 'id': f'sha256:{sha256}', 'status': 'done', 'input': facts,
    'model': MODEL, 'policy': POLICY, 'verdict': verdict, 'probability': probability,
    'interval': tracks[0]['interval'] if tracks and probability is not None else None,
    'score_raw': None if probability is None else float(np.log(probability / (1 - probability))),
    'reasons': list(reasons), 'tracks': tracks, 'explanation': None, 'warnings': list(warnings),
    'timing_s': {'decode': 1.0, 'faces': 2.0, 'score': 0.4},
  }  # fmt: skip


def picture():
  """A small JPEG file."""
  return cv2.imencode('.jpg', np.full((36, 64, 3), 128, np.uint8))[1].tobytes()


class FakeScorer:
  """Answers by the first word of the file (`fake ...`); `hold` waits for `gate`, `crash` raises.

  Attributes:
    seen: (name, bytes) of each file that was given, in order.
    gate: set it to let files that begin with `hold` end.
    prepared: results by the name of the file, for files that are real pictures and videos.
  """

  def __init__(self):
    self.seen, self.gate, self.prepared = [], threading.Event(), {}
    self._pool = concurrent.futures.ThreadPoolExecutor(4)

  @property
  def num_faces(self):
    """See `serving.jobs.Scorer`."""
    return len(self.seen)

  def submit(self, path, name, on_progress):
    """See `serving.jobs.Scorer`."""
    return self._pool.submit(self._answer, path, name, on_progress)

  def _answer(self, path, name, on_progress):
    data = path.read_bytes()
    self.seen.append((name, data))
    word = data.split(b' ')[0].decode('latin-1')
    if word == 'crash':
      raise RuntimeError('secret of the server')
    for stage, steps in (('decode', 1), ('faces', 3), ('score', 1)):
      for i in range(steps):
        on_progress(stage, (i + 1) / steps)
    if word == 'hold' and not self.gate.wait(20):
      raise TimeoutError
    time.sleep(0.01)
    if name in self.prepared:
      return self.prepared[name]
    verdict = word if word in answers.VERDICTS else 'real'
    reasons = {'no_answer': ['no_face'], 'undecided': ['near_threshold']}.get(verdict, [])
    return Result(answer(verdict, data=data, name=name, reasons=reasons), {'view-0.jpg': picture()})

  def close(self):
    """Ends the threads."""
    self.gate.set()
    self._pool.shutdown()
