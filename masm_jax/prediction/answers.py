"""What is answered about one picture or video: frozen dataclasses, and their JSON.

`answer_schema.json` beside this file describes `Answer.to_dict()`. Every probability is P(fake)
after the temperature that validation fixed; `threshold` and `abstain` are on the same scale.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

SCHEMA = 'masm_jax/prediction/1'

Verdict = Literal['fake', 'real', 'undecided', 'no_answer']
VERDICTS: tuple[Verdict, ...] = ('fake', 'real', 'undecided', 'no_answer')

Reason = Literal[
  'no_face',
  'face_too_small',
  'face_too_blurred',
  'extreme_pose',
  'too_few_frames',
  'unreadable',
  'no_video_stream',
  'limit_exceeded',
  'near_threshold',
  'inconsistent_tracks',
  'out_of_domain',
  'uncalibrated',
]
# In the order in which they are told. With `fake` and `real` they are caveats; with `undecided` and
# `no_answer` they say why.
REASONS: tuple[Reason, ...] = (
  'unreadable',
  'no_video_stream',
  'limit_exceeded',
  'no_face',
  'face_too_small',
  'face_too_blurred',
  'extreme_pose',
  'too_few_frames',
  'near_threshold',
  'inconsistent_tracks',
  'out_of_domain',
  'uncalibrated',
)

Interval = tuple[float, float]
_PROBABILITY_DIGITS, _TIME_DIGITS, _PIXEL_DIGITS = 6, 3, 1


@dataclasses.dataclass(frozen=True)
class Quality:
  """What a face in a frame is like.

  Attributes:
    face_px: square root of the area of its box, in pixels of the frame.
    blur: 0 for a face without any blur, 1 for one without any edge; see `quality`.
    yaw_deg: how far the head is turned to a side, degrees; 0 is frontal.
  """

  face_px: float
  blur: float
  yaw_deg: float


@dataclasses.dataclass(frozen=True)
class Frame:
  """One face in one frame.

  Attributes:
    index: number of the frame in its video, from 0.
    time_s: from the start of the video, seconds.
    box: left, top, width, height, in pixels of the frame.
    landmarks: five (x, y): eyes, nose, corners of the mouth, the left one of the picture first.
    quality: see there.
    score_raw: log-odds of fake as the model gives it; None where the face was found unfit.
    probability: P(fake), calibrated; None where the face was found unfit.
  """

  index: int
  time_s: float
  box: tuple[float, float, float, float]
  landmarks: tuple[tuple[float, float], ...]
  quality: Quality
  score_raw: float | None
  probability: float | None


@dataclasses.dataclass(frozen=True)
class Segment:
  """Neighbouring frames of a track that are all above the threshold.

  Attributes:
    start_s: time of its first frame, seconds.
    end_s: time of its last frame.
    probability: P(fake) of its frames together.
  """

  start_s: float
  end_s: float
  probability: float


@dataclasses.dataclass(frozen=True)
class Track:
  """One person.

  Attributes:
    id: from 0, the person whom the video shows most first.
    verdict: of this person.
    probability: P(fake); None with `no_answer`.
    interval: of 95 %, of the mean over frames; None for a picture and for few frames.
    start_s: time of the first frame with the person, seconds.
    end_s: of the last one.
    frames_used: frames that were scored.
    reasons: why, or caveats.
    segments: see `Segment`.
    frames: in order.
  """

  id: int
  verdict: Verdict
  probability: float | None
  interval: Interval | None
  start_s: float
  end_s: float
  frames_used: int
  reasons: tuple[Reason, ...]
  segments: tuple[Segment, ...]
  frames: tuple[Frame, ...]


@dataclasses.dataclass(frozen=True)
class InputFacts:
  """The file. What nobody could find out of it is None.

  Attributes:
    name: what the user calls it; never a path that is opened.
    kind: what it turned out to be.
    sha256: of its bytes.
    width: pixels, as displayed.
    height: pixels, as displayed.
    duration_s: of a video, seconds.
    frames: of a video, as far as it was decoded or declared.
    fps: frames per second.
    codec: of a video (`h264`), or the format of a picture (`jpeg`).
  """

  name: str
  kind: Literal['image', 'video', 'array', 'unknown']
  sha256: str
  width: int | None = None
  height: int | None = None
  duration_s: float | None = None
  frames: int | None = None
  fps: float | None = None
  codec: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelFacts:
  """The detector that answered.

  Attributes:
    name: what its folder is called.
    method: how it was adapted.
    backbone: name of the base network.
    sha256: of the trained leaves.
    base_sha256: of the base weights.
    code: version of this program, with the commit where it is known.
    training_sets: names of the sets that it was trained on; () where nothing tells.
    training_videos: `real`, `fake` -> counts of `videos` and of `identities` (None where not each
      video names one); None where nothing tells.
  """

  name: str
  method: str
  backbone: str
  sha256: str
  base_sha256: str
  code: str
  training_sets: tuple[str, ...] = ()
  training_videos: Mapping[str, Mapping[str, int | None]] | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationFacts:
  """How scores became probabilities.

  Attributes:
    kind: the only one there is.
    T: `sigmoid(log-odds / T)` is the probability.
    set: where T was fitted.
    ece: expected calibration error there, after the temperature; None where it is not known.
  """

  kind: Literal['temperature']
  T: float
  set: str
  ece: float | None


@dataclasses.dataclass(frozen=True)
class PolicyFacts:
  """By which rules an answer was made; of the level (frame or video) that it was made at.

  Attributes:
    threshold: a probability at or above it is called fake.
    threshold_source: where it comes from.
    abstain: at or above the first and below the second: `undecided`; None for no such band.
    frames: how a track's score comes from its frames'.
    tracks: how the file's comes from its tracks'.
    calibration: None for scores as the model gives them.
  """

  threshold: float
  threshold_source: str
  abstain: Interval | None
  frames: Literal['mean', 'median', 'max']
  tracks: Literal['max', 'mean']
  calibration: CalibrationFacts | None


@dataclasses.dataclass(frozen=True)
class Answer:
  """What is answered about one input.

  Attributes:
    id: `sha256:` and the hash of the input's bytes.
    input: the file.
    model: the detector.
    policy: the rules.
    verdict: see `VERDICTS`.
    probability: P(fake); None with `no_answer`, never 0.
    interval: of 95 %, of the track that decided; None where there is none.
    score_raw: log-odds of the score before the temperature; None with `no_answer`.
    reasons: why, or caveats; in the order of `REASONS`.
    tracks: the people; () where none was found.
    explanation: of `--explain`; None without it.
    warnings: plain sentences about this input.
    timing_s: seconds by stage; None in files that repeat byte for byte.
    status: the only one that an answer has.
  """

  id: str
  input: InputFacts
  model: ModelFacts
  policy: PolicyFacts
  verdict: Verdict
  probability: float | None
  interval: Interval | None
  score_raw: float | None
  reasons: tuple[Reason, ...]
  tracks: tuple[Track, ...] = ()
  explanation: Mapping[str, Any] | None = None
  warnings: tuple[str, ...] = ()
  timing_s: Mapping[str, float] | None = None
  status: Literal['done'] = 'done'

  def to_dict(self) -> dict[str, Any]:
    """The answer as JSON holds it, valid by `answer_schema.json`; numbers rounded."""
    fields = {
      'schema': SCHEMA,
      'id': self.id,
      'status': self.status,
      'input': dataclasses.asdict(self.input),
      'model': dataclasses.asdict(self.model),
      'policy': dataclasses.asdict(self.policy),
      'verdict': self.verdict,
      'probability': self.probability,
      'interval': self.interval,
      'score_raw': self.score_raw,
      'reasons': self.reasons,
      'tracks': [dataclasses.asdict(track) for track in self.tracks],
      'explanation': self.explanation,
      'warnings': self.warnings,
      'timing_s': self.timing_s,
    }
    return _plain(fields)


def without_timing(answer: Answer) -> Answer:
  """The answer as two runs give it alike."""
  return dataclasses.replace(answer, timing_s=None)


def from_dict(value: Mapping[str, Any]) -> Answer:
  """The answer that `Answer.to_dict` wrote.

  Raises:
    KeyError, TypeError: it is another kind of object.
  """
  fields = {key: item for key, item in value.items() if key != 'schema'}
  fields['input'] = InputFacts(**value['input'])
  fields['model'] = ModelFacts(**_tuples(value['model']))
  policy = _tuples(value['policy'])
  if policy['calibration'] is not None:
    policy['calibration'] = CalibrationFacts(**policy['calibration'])
  fields['policy'] = PolicyFacts(**policy)
  fields['tracks'] = tuple(_track(track) for track in value['tracks'])
  for key in ('interval', 'reasons', 'warnings'):
    fields[key] = None if value[key] is None else tuple(value[key])
  return Answer(**fields)


@functools.cache
def schema() -> dict[str, Any]:
  """The JSON Schema (2020-12) of an answer."""
  return json.loads(pathlib.Path(__file__).with_name('answer_schema.json').read_text('utf-8'))


def _track(value: Mapping[str, Any]) -> Track:
  frames = [
    Frame(**(_tuples(frame) | {'quality': Quality(**frame['quality'])}))
    for frame in value['frames']
  ]
  segments = tuple(Segment(**segment) for segment in value['segments'])
  return Track(**(_tuples(value) | {'frames': tuple(frames), 'segments': segments}))


def _tuples(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


_DIGITS = {
  **dict.fromkeys(('start_s', 'end_s', 'time_s', 'duration_s', 'fps'), _TIME_DIGITS),
  **dict.fromkeys(('box', 'landmarks', 'face_px', 'yaw_deg'), _PIXEL_DIGITS),
  **dict.fromkeys(('blur', 'timing_s'), _TIME_DIGITS),
}


def _plain(value: Any, digits: int = _PROBABILITY_DIGITS) -> Any:
  """JSON types; floats rounded by the name of their field, so that equal answers are equal text."""
  if isinstance(value, Mapping):
    return {key: _plain(item, _DIGITS.get(key, digits)) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item, digits) for item in value]
  if isinstance(value, float):
    if not math.isfinite(value):
      raise ValueError(f'{value} has no place in an answer')
    return round(value, digits) + 0.0  # No -0.0.
  return value
