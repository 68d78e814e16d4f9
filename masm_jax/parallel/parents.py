"""Processes that end with the one that started them, however that ended."""

import multiprocessing
import os
import threading


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
