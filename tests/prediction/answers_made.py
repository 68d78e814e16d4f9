"""Answers to test words and schemas on: made by hand, one for each branch."""

import dataclasses

import jsonschema

from masm_jax.prediction import answers
from masm_jax.prediction.answers import (
  Answer,
  CalibrationFacts,
  Frame,
  InputFacts,
  ModelFacts,
  PolicyFacts,
  Quality,
  Segment,
  Track,
)

HASH = 'ab' * 32
_VALIDATOR = jsonschema.Draft202012Validator(answers.schema())

FRAME = Frame(
  index=3,
  time_s=0.12,
  box=(10.0, 20.0, 110.0, 120.0),
  landmarks=((30.0, 50.0), (80.0, 50.0), (55.0, 80.0), (35.0, 105.0), (75.0, 105.0)),
  quality=Quality(115.0, 0.2, -4.0),
  score_raw=2.1,
  probability=0.891,
)
TRACK = Track(
  id=0,
  verdict='fake',
  probability=0.91,
  interval=(0.84, 0.95),
  start_s=0.0,
  end_s=61.9,
  frames_used=32,
  reasons=(),
  segments=(Segment(2.0, 6.5, 0.97),),
  frames=(FRAME,),
)
POLICY = PolicyFacts(
  threshold=0.62,
  threshold_source='validation EER',
  abstain=(0.35, 0.62),
  frames='mean',
  tracks='max',
  calibration=CalibrationFacts('temperature', 1.7, 'validation', 0.03),
)
ANSWER = Answer(
  id=f'sha256:{HASH}',
  input=InputFacts('clip.mp4', 'video', HASH, 1280, 720, 12.0, 300, 25.0, 'h264'),
  model=ModelFacts('ffpp', 'masm', 'clip_l14', HASH, HASH, '0.2.0', ('ffpp c23',)),
  policy=POLICY,
  verdict='fake',
  probability=0.91,
  interval=(0.84, 0.95),
  score_raw=2.31,
  reasons=(),
  tracks=(TRACK,),
  warnings=(),
  timing_s={'decode': 1.0, 'faces': 2.0, 'score': 0.4},
)


def made(verdict='fake', reasons=(), **fields):
  """An answer of that verdict, its one track alike."""
  own = {'probability': None, 'interval': None} if verdict == 'no_answer' else {}
  track = dataclasses.replace(TRACK, verdict=verdict, reasons=tuple(reasons), **own)
  if verdict == 'no_answer':
    own |= {'score_raw': None}
  return dataclasses.replace(
    ANSWER, **{'verdict': verdict, 'reasons': tuple(reasons), 'tracks': (track,), **own, **fields}
  )


def check(answer):
  """Fails unless the answer's JSON is valid and gives the answer back; returns that JSON."""
  value = answer.to_dict() if isinstance(answer, Answer) else answer
  _VALIDATOR.validate(value)
  assert answers.from_dict(value).to_dict() == value
  return value
