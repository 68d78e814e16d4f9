"""How often a device had nothing to do because its next batch was not there yet."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

_MIN_STEPS = 20  # Below, a share says nothing.


class Result(Protocol):
  """What a step that was started will give, such as a `jax.Array`."""

  def is_ready(self) -> bool:
    """Whether the device has made it."""
    ...


class InputWaits:
  """Counts the steps whose batch came too late.

  A step counts if the device was still busy with the one before when its batch was asked for; it
  was late if the device was idle when the batch came. Time in the iterator alone would not tell:
  the program runs ahead of an accelerator, and may wait for batches while there is work to do.
  Steps after an evaluation or a reading of metrics do not count: these wait for the device.
  """

  def __init__(self) -> None:
    self._asked, self._late = 0, 0

  @contextlib.contextmanager
  def watch(self, running: Result) -> Iterator[None]:
    """Around asking for a batch, while the device makes `running`."""
    busy = not running.is_ready()
    yield
    if busy:
      self._asked += 1
      self._late += running.is_ready()

  def take_share(self) -> float | None:
    """The share of late steps since the last call that gave one; None while too few counted."""
    if self._asked < _MIN_STEPS:
      return None
    share = self._late / self._asked
    self._asked, self._late = 0, 0
    return share
