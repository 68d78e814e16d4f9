"""Ends a run of several processes when one of them is lost, hangs, or gives up.

Nothing here imports jax when it is imported: entry points read it before they start.

A process that dies closes its connections, and a collective operation of the others then fails at
once. A host that vanishes is missed by jax's heartbeats. A process that lives but makes no
progress is found by the `Watchdog` of the others. All three end the process within a bounded time,
and a scheduler starts the job again, which resumes from its last complete checkpoint.

A process that gives up, for something that the user has to mend, tells the others, which end as it
does: starting the job again would not help. Its words lie in the key-value store of jax's
coordination service, which lives as long as the processes of one start.
"""

import atexit
import contextlib
import faulthandler
import os
import re
import sys
import threading
import time
from typing import Any, NoReturn, Self

from masm_jax.terminal import say

# EX_TEMPFAIL of sysexits.h: nothing is wrong with the input, and it may work the next time.
# Where heartbeats find it out, jax itself ends the process: by SIGABRT, 134 to a shell.
LOST_STATUS = 75

# Something that the user has to mend: the input, a full disk.
USER_STATUS = 2

# Seconds without a sign of life until jax takes a process for dead.
HEARTBEAT_TIMEOUT_S = 60

_TOLD = 'masm_jax/told/'  # Before the number of a process: the key of its last words.
_POLL_S = 0.5
_last_words = threading.Lock()
_listener: threading.Thread | None = None
_stopped_listening = threading.Event()

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
    'of the others. The same command, for all processes, resumes from the last complete checkpoint'
  )


def leave(status: int) -> None:
  """Ends this process now, without the farewell that jax would wait for from the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def end(status: int, message: str, *, tells: bool = False) -> NoReturn:
  """Ends this process with its last words; whoever calls it first in a process has them.

  Args:
    status: of the process.
    message: printed, with `error: ` before it.
    tells: whether the other processes are to end likewise, see `listen`.
  """
  _last_words.acquire()  # Never released: a second caller waits until the first has ended us.
  try:
    say(message, file=sys.stderr)
    if tells:
      _tell(message.removeprefix('error: '))
    if _hosts_service():
      # Process 0 goes last: the others' connection to jax's service, which it runs, breaks with
      # it, and what they have to say, or were told, would be lost.
      time.sleep(3)
  finally:
    leave(status)


def listen() -> None:
  """From here on, this process ends with status 2 when another one says that it does."""
  global _listener
  _listener = threading.Thread(target=_listen, name='listener', daemon=True)
  _listener.start()


def await_told() -> None:
  """Gives a process that has lost another one the time to hear why: it ends then, see `listen`."""
  if _listener is not None and _listener.is_alive():
    time.sleep(1.5)


def _listen() -> None:
  while not _stopped_listening.wait(_POLL_S):
    if told := _told():
      break
  else:
    return
  # Where all fail alike, let this one find out for itself what is wrong.
  time.sleep(0.5)
  if not _last_words.locked():
    end(USER_STATUS, told)


@atexit.register
def _stop_listening() -> None:
  # After jax's farewell, in which a process that is done waits for the others: jax is imported
  # later than this, and what is registered first is called last.
  _stopped_listening.set()
  if _listener is not None and _listener is not threading.current_thread():
    _listener.join(2)


def _tell(message: str) -> None:
  readable = message.encode(errors='replace').decode()  # A file's name may be no text at all.

  def work() -> None:
    with contextlib.suppress(Exception):
      state = _service()
      state.client.key_value_set(f'{_TOLD}{state.process_id}', readable)

  # In a thread: a service that stands still does not answer, and this process has to end.
  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  thread.join(1)


def _told() -> str:
  """What another process has told, '' for nothing."""
  with contextlib.suppress(Exception):  # A service that is gone is noticed by jax.
    state = _service()
    for key, message in sorted(state.client.key_value_dir_get(_TOLD)):
      if (index := int(key.removeprefix(_TOLD))) != state.process_id:
        return f'error: process {index} of this run ended: {message}'
  return ''


def _hosts_service() -> bool:
  state = _service()
  return getattr(state, 'client', None) is not None and getattr(state, 'process_id', 0) == 0


def _service() -> Any:
  """jax's record of its coordination service: `client` (None without one) and `process_id`.

  It is private, and all of it that is used here. Without it nobody is told anything: the others
  find a process gone. (`jax.process_index` would start the backend, and wait for the others.)
  """
  if 'jax' not in sys.modules:
    return None
  with contextlib.suppress(ImportError, AttributeError):
    from jax._src import distributed

    return distributed.global_state
  return None


class Watchdog:
  """Ends the process when no step has finished within `timeout_s`.

  It watches from where it is entered until `stop`, or its end.

  Args:
    timeout_s: seconds that a step may take; three times as long may pass from the start, or a
      `stage`, until the first `beat`. 0 or less never ends anything.
  """

  def __init__(self, timeout_s: float):
    self._timeout_s = timeout_s
    self._deadline, self._allowed_s = 0.0, 0.0
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)

  def __enter__(self) -> Self:
    self.stage()
    if self._timeout_s > 0:
      self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self.stop()

  def beat(self, *_: object) -> None:
    """Says that this process makes progress; takes what a progress report is called with."""
    self._allow(self._timeout_s)

  def stage(self, *_: object) -> None:
    """Says that the preparation makes progress: what comes next, compiling say, may take longer."""
    self._allow(3 * self._timeout_s)

  def stop(self) -> None:
    """Ends the watch: from here on the processes do not wait for each other's steps."""
    self._stopped.set()

  def _allow(self, seconds: float) -> None:
    self._allowed_s, self._deadline = seconds, time.monotonic() + seconds

  def _watch(self) -> None:
    while not self._stopped.wait(min(self._timeout_s / 4, 5.0)):
      if time.monotonic() < self._deadline:
        continue
      faulthandler.dump_traceback(file=sys.stderr)
      end(LOST_STATUS, _message(f'no step has ended for {self._allowed_s:.0f} s'))
