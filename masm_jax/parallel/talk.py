"""What Orbax, jax and asyncio tell about their own work, which is not the user's."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(__file__))


def drop_of_others() -> None:
  """From now on, logs what this program says, and warnings of others.

  Where storage fails, asyncio and Orbax tell of each array that could not be read or written, with
  a traceback each; the one error that counts is raised, and told in one line.
  """
  for handler in (*logging.getLogger().handlers, *logging.getLogger('absl').handlers):
    handler.addFilter(is_ours)
  sys.unraisablehook = _without_orbax(sys.unraisablehook)
  threading.excepthook = _without_orbax(threading.excepthook)


def is_ours(record: logging.LogRecord) -> bool:
  """Whether a record is this program's, or a warning that may matter to the user."""
  # The folder, with its end: a checkout of that name holds jax too, in its `.venv`.
  if record.pathname.startswith(os.path.join(_PACKAGE, '')):
    return True
  is_orbax = f'{os.sep}orbax{os.sep}' in record.pathname or record.name == 'asyncio'
  return record.levelno >= logging.WARNING and not is_orbax


def _without_orbax(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
  def show(unraised: Any) -> Any:
    error, traceback, files = unraised.exc_value, unraised.exc_traceback, []
    while traceback:
      files.append(traceback.tb_frame.f_code.co_filename)
      traceback = traceback.tb_next
    is_closed_loop = isinstance(error, RuntimeError) and 'Event loop is closed' in str(error)
    if not is_closed_loop and not any(f'{os.sep}orbax{os.sep}' in file for file in files):
      hook(unraised)

  return show
