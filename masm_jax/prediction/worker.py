"""The parent's side of a process that reads files: gives it one at a time, and outlives it."""

import contextlib
import json
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator
from multiprocessing import reduction
from typing import Any

import numpy as np

from masm_jax.errors import UserError
from masm_jax.prediction import messages, sandbox, start
from masm_jax.prediction.reading import Settings

_START_SECONDS = 120.0  # For its imports, on a machine that is busy.
_MAX_MESSAGE_BYTES = 2**22  # JSON of one chunk of faces, or of a reading.
_GRACE_SECONDS = 5.0
_NONE = np.zeros((0, 0, 0, 3), np.uint8)


Told = tuple[messages.Message, np.ndarray]  # With pixels: uint8 RGB [N, H, W, 3].


class Worker:
  """One child process; another one takes its place after it died.

  Args:
    settings: of the child.
  """

  def __init__(self, settings: Settings):
    self._settings = settings
    self._process: start.Process | None = None
    self._pipe: Any = None
    self._at_exit: Any = None
    self.in_force: dict[str, str] = {}

  def start(self) -> None:
    """Starts the process, if none is there.

    Raises:
      UserError: it did not start; its own error is on stderr.
    """
    if self._process is not None and self._process.poll() is None:
      return
    self.stop()
    model = self._settings.crops.model
    try:
      self._process, self._pipe = start.launch(self._settings, [model] if model else [])
    except OSError as error:
      raise UserError(f'the process that reads files did not start: {error}') from error
    self._at_exit = weakref.finalize(self, self._process.kill)
    try:
      message = self._receive(time.monotonic() + _START_SECONDS)
      if not isinstance(message, messages.Ready):
        raise ValueError('it says other things')
      self.in_force = sandbox.measured(message.in_force, self._process.pid)
    except (EOFError, OSError, TimeoutError, ValueError) as error:
      death = self.stop()
      raise UserError(f'the process that reads files did not start: {death}') from error

  def read(
    self, descriptor: int, *, kind: str, num_frames: int, num_views: int = 0
  ) -> Iterator[Told]:
    """What the child says of one file; last `Done` or `Refused`, whatever happens to the child.

    Args:
      descriptor: of the open file.
      kind: `file` or `array`.
      num_frames: of a video.
      num_views: frames that it sends to be shown.

    Raises:
      UserError: no process can be started.
    """
    self.start()
    assert self._process is not None
    deadline = time.monotonic() + self._settings.limits.wall_seconds
    try:
      job = {'kind': kind, 'num_frames': num_frames, 'num_views': num_views}
      self._pipe.send_bytes(json.dumps(job).encode())
      reduction.send_handle(self._pipe, descriptor, self._process.pid)
      while True:
        message = self._receive(deadline)
        pixels = self._pixels(message, deadline)
        paused = time.monotonic()
        yield message, pixels
        deadline += time.monotonic() - paused  # What the caller takes is not the file's fault.
        if isinstance(message, messages.Done | messages.Refused):
          return
    except TimeoutError:
      seconds = self._settings.limits.wall_seconds
      self.stop()
      text = f'it took longer than {seconds:g} seconds'
      yield messages.Refused(reason='limit_exceeded', text=text), _NONE
    except (EOFError, OSError, ValueError):  # It died, or sent nonsense.
      yield self._obituary(self.stop()), _NONE

  def kill(self) -> None:
    """Ends the process from another thread; whoever reads from it hears that it died."""
    process = self._process
    if process is not None:
      process.kill()

  def stop(self) -> str:
    """Ends the process; returns how it ended."""
    if self._process is None:
      return 'it never ran'
    self._at_exit.detach()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(0.2)
    ended_itself = self._process.returncode is not None
    if not ended_itself:
      self._process.kill()
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_GRACE_SECONDS)
    code = self._process.returncode or 0
    self._pipe.close()
    self._process = self._pipe = None
    if not ended_itself:
      return 'stopped'
    return signal.Signals(-code).name if code < 0 else f'exit status {code}'

  def _obituary(self, death: str) -> messages.Refused:
    limits = self._settings.limits
    if death == 'SIGXCPU':
      text = f'it took more than {limits.cpu_seconds} seconds of computing time'
      return messages.Refused(reason='limit_exceeded', text=text)
    if death == 'SIGKILL':
      text = 'the system ended the process that read it (memory)'
      return messages.Refused(reason='limit_exceeded', text=text)
    return messages.Refused(reason='unreadable', text=f'the process that read it ended ({death})')

  def _pixels(self, message: messages.Message, deadline: float) -> np.ndarray:
    """Pixels that were announced; their size is known before they are read."""
    side = self._settings.image_size
    if isinstance(message, messages.View):
      shape = (1, message.height, message.width, 3)
    elif isinstance(message, messages.Faces):
      shape = (sum(face.scored for face in message.faces), side, side, 3)
    else:
      return _NONE
    if not shape[0]:
      return _NONE
    self._wait(deadline)
    content = self._pipe.recv_bytes(int(np.prod(shape)))
    return np.frombuffer(content, np.uint8).reshape(shape)

  def _receive(self, deadline: float) -> messages.Message:
    self._wait(deadline)
    return messages.parse(self._pipe.recv_bytes(_MAX_MESSAGE_BYTES))

  def _wait(self, deadline: float) -> None:
    if not self._pipe.poll(max(deadline - time.monotonic(), 0)):
      raise TimeoutError
