"""Processes that end with the one that started them, however that ended."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


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
