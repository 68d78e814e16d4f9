"""Ends a run between two steps when it is asked to."""

import signal
import types
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
  """Notes SIGTERM and Ctrl-C, so that a run can save before it ends; a second Ctrl-C kills it.

  With several processes, jax's preemption service makes all of them agree on the step to stop at.
  """

  def __init__(self):
    self.signal_number: int | None = None
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> Self:
    for number in _SIGNALS:
      # With several processes SIGTERM belongs to jax's preemption service, and a Ctrl-C that only
      # one of them notes would leave the others waiting: it ends them all instead.
      if jax.process_count() == 1:
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    if self.signal_number == number == signal.SIGINT:
      if callable(before := self._previous[number]):
        before(number, frame)  # See `interrupts`: what it raises is not lost.
        return
      raise KeyboardInterrupt
    self.signal_number = number

  def requested(self, step: int) -> bool:
    """Whether to stop after this step; every process gets the same answer."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.signal_number = signal.SIGTERM
    return self.signal_number is not None
