"""Processes that end with the one that started them, however that ended, and not by Ctrl-C."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def deaf_to_ctrl_c(*, tracked: bool = True) -> Iterator[None]:
  """Within it, processes that are started never hear Ctrl-C, not even while they import.

  A terminal sends it to all of them; the one that started them decides, and ends them. Within it,
  no Ctrl-C reaches the calling thread either: it comes at the end.

  Args:
    tracked: whether multiprocessing starts them. The first of them starts its tracker, which lets
      the signal through again: that comes before, here.
  """
  if tracked:
    resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
  """Ends this process, which multiprocessing has started, as soon as its parent is gone.

  To be called before anything that takes long: a parent that is killed takes nobody along.
  """
  threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def end_at_once_with(pid: int) -> None:
  """Lets the kernel end this process as soon as its parent is gone, whatever it is doing.

  Linux alone can do that; elsewhere nothing happens.

  Args:
    pid: the parent. If it is gone already, this process ends now.
  """
  if not sys.platform.startswith('linux'):
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != pid:  # It went before the kernel was asked.
    os._exit(1)
