"""What a run of several processes does when one of them is gone, or stands still.

Nothing here imports jax: entry points read it before they start.

A process that dies closes its connections, and a collective operation of the others then fails at
once. A host that vanishes is missed by jax's heartbeats. A process that lives but does not go on is
found by the `Watchdog` of the others. All three end the process within a bounded time, and a
scheduler starts the job again, which goes on from its last complete checkpoint.
"""

import faulthandler
import os
import re
import sys
import threading
import time
from typing import Self

# EX_TEMPFAIL of sysexits.h: nothing is wrong with the input, and it may work the next time.
# Where heartbeats find it out, jax itself ends the process: by SIGABRT, 134 to a shell.
LOST_STATUS = 75

# Seconds without a sign of life until jax takes a process for dead.
HEARTBEAT_TIMEOUT_S = 60

# What Gloo, NCCL, the coordination service and its transport say of a peer that is gone.
_LOST = re.compile(
  r'Gloo|NCCL|coordination service|heartbeat|Barrier failed|barrier has failed|'
  r'Connection (reset|closed|refused)|Broken pipe|Socket closed|UNAVAILABLE|DEADLINE_EXCEEDED'
)


def is_lost(error: BaseException) -> bool:
  """Whether an error, or what caused it, says that another process is gone."""
  seen: BaseException | None = error
  while seen is not None:
    if _LOST.search(str(seen)):
      return True
    seen = seen.__cause__ or seen.__context__
  return False


def describe(error: BaseException) -> str:
  """One line for people: what happened, why it is thought so, and what to do."""
  found = _LOST.search(str(error))
  reason = str(error)[found.start() :].splitlines()[0][:160] if found else type(error).__name__
  return _message(f'another process of this run is gone ({reason})')


def _message(what: str) -> str:
  return (
    f'error: {what}; this one ends with status {LOST_STATUS}. Look for the first error in the logs '
    'of the others. The same command, for all processes, goes on from the last complete checkpoint'
  )


def leave(status: int) -> None:
  """Ends this process now, without the farewell that jax would wait for from the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


class Watchdog:
  """Ends the process when `beat` was not called for a while: it waits for one that does not come.

  It begins with the first `beat`, so that compiling the first step has all the time it needs.

  Args:
    timeout_s: seconds without a beat; 0 or less never ends anything.
  """

  def __init__(self, timeout_s: float):
    self._timeout_s = timeout_s
    self._last: float | None = None
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)

  def __enter__(self) -> Self:
    if self._timeout_s > 0:
      self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._stopped.set()

  def beat(self, *_: object) -> None:
    """Says that this process goes on; takes what a progress report is called with."""
    self._last = time.monotonic()

  def _watch(self) -> None:
    while not self._stopped.wait(min(self._timeout_s / 4, 5.0)):
      if self._last is None or time.monotonic() - self._last < self._timeout_s:
        continue
      faulthandler.dump_traceback(file=sys.stderr)
      print(_message(f'no step has ended for {self._timeout_s:.0f} s'), file=sys.stderr)
      leave(LOST_STATUS)
