"""An input that is being answered, and how it is opened."""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from masm_jax.prediction import messages
from masm_jax.prediction.answers import Answer, Reason
from masm_jax.prediction.media import Limits, Source, View
from masm_jax.prediction.predictor import as_images
from masm_jax.prediction.scorer import Scored

_READ_BYTES = 2**20


class Candidate(NamedTuple):
  """The face of a person that is explained.

  Attributes:
    track: of the answer.
    frame: its index.
    crop: uint8 RGB [S, S, 3], as the detector saw it.
  """

  track: int
  frame: int
  crop: np.ndarray


class Explainer(Protocol):
  """What explains faces: `explaining.FaceExplainer`."""

  def document(self, candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """The field `explanation` of an answer."""
    ...


@dataclasses.dataclass
class Job:
  """An input and what is known of it so far."""

  source: Source
  on_progress: Callable[[str, float], None]
  on_view: Callable[[View], None] | None = None
  future: concurrent.futures.Future[Answer] = dataclasses.field(
    default_factory=concurrent.futures.Future
  )
  sha256: str = ''
  is_cutting: bool = False
  faces: list[messages.Face] = dataclasses.field(default_factory=list)
  tickets: list[concurrent.futures.Future[Scored]] = dataclasses.field(default_factory=list)
  crops: list[np.ndarray] = dataclasses.field(default_factory=list)  # Kept to be explained.
  reading: messages.Reading = dataclasses.field(default_factory=messages.Reading)
  refused: tuple[Reason, str] | None = None

  def refuse(self, reason: Reason, text: str) -> None:
    """There will be no answer, for this reason."""
    self.refused = (reason, text)


def open_source(
  source: Source, limits: Limits
) -> tuple[int | None, str, tuple[Reason, str] | None]:
  """An open descriptor, or None; `file` or `array`, and why it is not to be read, if so."""
  content = source.content
  kind = 'file'
  if isinstance(content, np.ndarray):
    (image,) = as_images(content[None])
    buffer = io.BytesIO()
    np.save(buffer, image)
    content, kind = buffer.getvalue(), 'array'
  try:
    if isinstance(content, bytes):
      descriptor = os.memfd_create('input', os.MFD_CLOEXEC)
      with open(descriptor, 'wb', closefd=False) as file:
        file.write(content)
      os.lseek(descriptor, 0, os.SEEK_SET)
    else:
      # A pipe that nobody writes to would hold up its opening for ever.
      descriptor = os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
  except (OSError, ValueError) as error:
    text = getattr(error, 'strerror', None) or str(error)
    return None, kind, ('unreadable', f'it cannot be opened: {text}')
  status = os.fstat(descriptor)
  if not stat.S_ISREG(status.st_mode):
    os.close(descriptor)
    return None, kind, ('unreadable', 'it is no regular file')
  if status.st_size > limits.bytes:
    text = f'{status.st_size} bytes; the limit is {limits.bytes}'
    return descriptor, kind, ('limit_exceeded', text)
  return descriptor, kind, None


def descriptor_sha256(descriptor: int) -> str:
  """SHA-256 of an open file, as hexadecimal text."""
  found = hashlib.sha256()
  offset = 0
  while block := os.pread(descriptor, _READ_BYTES, offset):
    found.update(block)
    offset += len(block)
  return found.hexdigest()


def is_unchanged(descriptor: int, before: os.stat_result, sha256: str) -> bool:
  """Whether an open file still holds what was hashed.

  Args:
    descriptor: of the file.
    before: its status, from before it was hashed.
    sha256: of what it held.
  """
  now = os.fstat(descriptor)
  if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
    return False
  # A new name changes this time alone, and so does who sets the other one back.
  return now.st_ctime_ns == before.st_ctime_ns or descriptor_sha256(descriptor) == sha256
