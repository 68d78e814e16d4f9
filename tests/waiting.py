"""An end for code that must not wait: for a pipe, say, in C as in Python."""

import contextlib
import faulthandler
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
  """Within it, whatever takes longer ends the process, and shows where it waited."""
  faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()
