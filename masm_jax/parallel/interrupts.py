"""Ctrl-C: raised once in a command's own code, never lost, never in the middle of its clean-up.

Before and after that code it ends the process at once and quietly: see the package's `__init__`.
"""

import contextlib
import queue
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

_GRACE_S = 3.0  # What is pressed again within it, is still the first Ctrl-C.
_IMPORT_S = 1.0  # So long an import is waited for.
_AGAIN_S = 0.05  # The callback that has lost an interrupt is over by then.

has_ended = False  # Whether it has ended the command of this process.


class _Interrupt(KeyboardInterrupt):
  """One that can be referred to weakly, which its base cannot."""


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Within it, Ctrl-C is a KeyboardInterrupt in the main thread.

  While one is on its way, clean-up runs: another Ctrl-C is ignored, and from `_GRACE_S` seconds
  after the first ends the process at once. One that is lost is raised again: callbacks of the
  garbage collector, of which XLA has one, swallow all exceptions. An import is finished first, or
  ends with the process: those of jaxlib and numpy crash or print where they are interrupted.
  Nothing changes where Ctrl-C is ignored, as a shell does for what it runs in the background, or
  where a handler is in place.

  Raises:
    KeyboardInterrupt: also for an exception that some library has made of one.
  """
  global has_ended
  before = signal.getsignal(signal.SIGINT)
  is_main = threading.current_thread() is threading.main_thread()
  if not is_main or before not in (signal.SIG_DFL, signal.default_int_handler):
    yield
    return
  handler = _Handler()
  try:
    handler.begin()
    yield
  except KeyboardInterrupt:
    has_ended = True
    raise
  except Exception as error:
    if handler.was_pressed:
      has_ended = True
      raise KeyboardInterrupt from error
    raise
  finally:
    handler.end()
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
  """Within it, Ctrl-C ends the process as if no command had begun.

  It is for code of others, which nothing of ours depends on yet.
  """
  handler = signal.getsignal(signal.SIGINT)
  if not isinstance(handler, _Handler):
    yield
    return
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, handler)


class _Handler:
  """The handler of SIGINT, and the thread that sees to what is lost."""

  def __init__(self):
    self.was_pressed = False
    self._at = 0.0  # Of the first Ctrl-C.
    self._on_its_way: weakref.ref[_Interrupt] | None = None
    self._is_on = True
    self._is_again = False  # Whether the thread sends the next signal, and nobody has pressed.
    self._lock = threading.Lock()  # Held while the thread sends a signal.
    self._lost: queue.SimpleQueue[bool] = queue.SimpleQueue()  # Its `put` is for callbacks, too.
    self._hook = sys.unraisablehook

  def begin(self) -> None:
    # Not when it is needed: a thread cannot be started by a handler, which may interrupt a start.
    threading.Thread(target=self._watch, name='Ctrl-C', daemon=True).start()
    sys.unraisablehook = self._show
    signal.signal(signal.SIGINT, self)

  def end(self) -> None:
    with self._lock:
      self._is_on = False
    self._lost.put(False)
    if sys.unraisablehook == self._show:
      sys.unraisablehook = self._hook

  def __call__(self, number: int, frame: types.FrameType | None) -> None:
    if not self._is_on:
      return  # The command has ended, in the meantime.
    is_again, self._is_again = self._is_again, False
    if not self.was_pressed:
      self.was_pressed, self._at = True, time.monotonic()
    elif not is_again and time.monotonic() - self._at > _GRACE_S:
      _end_at_once()
    if self._on_its_way is not None:
      return
    if _is_importing(frame):
      if time.monotonic() - self._at > _IMPORT_S:
        _end_at_once()
      self._lost.put(True)
      return
    error = _Interrupt()
    self._on_its_way = weakref.ref(error, self._lose)
    try:
      raise error
    finally:
      del error  # Its traceback holds this frame, which would hold it.

  def _lose(self, interrupt: weakref.ref[_Interrupt]) -> None:
    """Called when an interrupt is gone, though the command has not ended with it."""
    del interrupt
    self._on_its_way = None
    self._lost.put(True)

  def _watch(self) -> None:
    while self._lost.get():
      time.sleep(_AGAIN_S)
      with self._lock:
        if self._is_on and self._on_its_way is None:
          self._is_again = True
          # To the main thread alone, where it also ends what waits.
          signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

  def _show(self, unraised: Any) -> None:
    if not isinstance(unraised.exc_value, _Interrupt):
      self._hook(unraised)


def _end_at_once() -> None:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.raise_signal(signal.SIGINT)


def _is_importing(frame: types.FrameType | None) -> bool:
  while frame is not None:
    if frame.f_code.co_filename.startswith('<frozen importlib'):
      return True
    frame = frame.f_back
  return False
