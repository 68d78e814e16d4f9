"""What is read of a stranger's file: which limits hold, and what comes out of it."""

import dataclasses
import os
from typing import Literal

import numpy as np

from masm_jax.errors import UserError

Faces = Literal['yunet', 'haar', 'whole']  # How faces are found; whole: pictures are crops.

VIEW_PX = 720  # Longest side of a view.


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a single file may take; whatever strikes ends in `no_answer` with `limit_exceeded`.

  Attributes:
    bytes: size of the file.
    seconds: duration of a video, as declared and as decoded.
    pixels: of a frame or a picture.
    frames: of a video, decoded in one pass.
    streams: in a container, of all kinds.
    people: tracks that are scored, the largest first; the others are told in a warning.
    memory_bytes: address space of the process that reads it.
    cpu_seconds: of that process, for one file.
    wall_seconds: after which that process is killed.
  """

  bytes: int = 4 * 2**30
  seconds: float = 4 * 3600.0
  pixels: int = 2**26
  frames: int = 1_000_000
  streams: int = 64
  people: int = 20
  memory_bytes: int = 4 * 2**30
  cpu_seconds: int = 1800
  wall_seconds: float = 1800.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise UserError(f'limit {field.name} = {getattr(self, field.name)}: give more than 0')


@dataclasses.dataclass(frozen=True)
class View:
  """A frame as people look at it, made smaller.

  Attributes:
    index: number of the frame.
    time_s: from the start, seconds.
    image: uint8 RGB [H, W, 3], no side longer than `VIEW_PX`.
    scale: its size over the frame's own: boxes times this lie upon it.
  """

  index: int
  time_s: float
  image: np.ndarray
  scale: float


@dataclasses.dataclass(frozen=True)
class Source:
  """One input.

  Attributes:
    content: path of a file, the bytes of one, or a picture: uint8 RGB [H, W, 3].
    name: what the answer calls it; shown, and never opened.
    sha256: of its bytes, where it is known already; of a file that is read, the answer has its own.
  """

  content: str | os.PathLike | bytes | np.ndarray
  name: str = ''
  sha256: str = ''

  @property
  def shown_name(self) -> str:
    """Text of one line, at most 1,024 characters, whatever the name holds."""
    name = self.name
    if not name and isinstance(self.content, str | os.PathLike):
      name = os.path.basename(os.fspath(self.content))
    safe = ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in name)
    return safe[:1024] or 'unnamed'
