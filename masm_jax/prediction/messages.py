"""What a child process may say: closed, typed and bounded, since a file may have taken it over."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from masm_jax.prediction.answers import Reason
from masm_jax.prediction.media import VIEW_PX

CHUNK = 16  # Faces in one message.

_Text = Annotated[str, Field(max_length=2000)]
_Word = Annotated[str, Field(max_length=64)]
_Seconds = Annotated[float, Field(ge=0, le=1e7)]
_Pixel = Annotated[float, Field(ge=-1e6, le=1e6)]
_Size = Annotated[int, Field(ge=1, le=2**31)]


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class Quality(_Strict):
  """See `answers.Quality`."""

  face_px: Annotated[float, Field(ge=0, le=1e5)]
  blur: Annotated[float, Field(ge=0, le=1)]
  yaw_deg: Annotated[float, Field(ge=-90, le=90)]


class Face(_Strict):
  """One face of one person in one frame, see `reading.CutFace`; its pixels follow the message."""

  person: Annotated[int, Field(ge=0, le=10_000)]
  scored: bool
  flag: Literal['', 'no_face', 'too_small', 'upside_down', 'padding']  # Of `data.crop_flags`.
  index: Annotated[int, Field(ge=0, le=10**9)]
  time_s: _Seconds
  box: tuple[_Pixel, _Pixel, _Pixel, _Pixel]
  landmarks: Annotated[tuple[tuple[_Pixel, _Pixel], ...], Field(max_length=5)]
  quality: Quality


class Input(_Strict):
  """What is known of a file, see `answers.InputFacts`."""

  kind: Literal['image', 'video', 'array', 'unknown'] = 'unknown'
  width: _Size | None = None
  height: _Size | None = None
  duration_s: _Seconds | None = None
  frames: Annotated[int, Field(ge=0, le=10**9)] | None = None
  fps: Annotated[float, Field(ge=0, le=1e6)] | None = None
  codec: _Word | None = None


class Ready(_Strict):
  """The process has given up its rights; `in_force` says which."""

  what: Literal['ready']
  in_force: dict[_Word, _Text]


class Progress(_Strict):
  """How much of a stage is done."""

  what: Literal['progress']
  stage: Literal['decode', 'faces', 'score']
  share: Annotated[float, Field(ge=0, le=1)]


class Faces(_Strict):
  """A chunk of faces, of a single picture or not."""

  what: Literal['faces']
  is_single: bool
  faces: Annotated[tuple[Face, ...], Field(min_length=1, max_length=CHUNK)]


class View(_Strict):
  """A frame made smaller, see `media.View`; its pixels follow the message."""

  what: Literal['view']
  index: Annotated[int, Field(ge=0, le=10**9)]
  time_s: _Seconds
  width: Annotated[int, Field(ge=1, le=VIEW_PX)]
  height: Annotated[int, Field(ge=1, le=VIEW_PX)]
  scale: Annotated[float, Field(gt=0, le=1)]


class Reading(_Strict):
  """All else that is known of a file, see `decoding.Reading`; the last message about it."""

  input: Input = Input()
  warnings: Annotated[tuple[_Text, ...], Field(max_length=100)] = ()
  upside_down: Annotated[tuple[int, ...], Field(max_length=10_000)] = ()
  num_people: Annotated[int, Field(ge=0, le=10_000)] = 0
  timing_s: dict[_Word, _Seconds] = Field(default_factory=dict)


class Done(Reading):
  """The file was read."""

  what: Literal['done'] = 'done'


class Refused(Reading):
  """It gets no answer."""

  what: Literal['refused'] = 'refused'
  reason: Reason
  text: _Text


Message = Ready | Progress | Faces | View | Done | Refused
_ADAPTER: pydantic.TypeAdapter[Message] = pydantic.TypeAdapter(
  Annotated[Message, Field(discriminator='what')]
)


def parse(content: bytes) -> Message:
  """Reads a message.

  Raises:
    ValueError: it is none.
  """
  return _ADAPTER.validate_json(content)
