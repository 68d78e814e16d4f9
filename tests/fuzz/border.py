"""What a border is: where bytes from elsewhere become values of this program."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from masm_jax.errors import UnfitFileError, UserError, storage_text
from masm_jax.terminal import terminal_line

Case = Mapping[str, bytes]  # Files by their paths below a folder.
PIPE = b'\0a pipe in the place of a file\0'  # The content of what becomes a named pipe.

# What one case may add to the memory of the process, see `SECURITY.md`.
MAX_MEMORY_BYTES = 2**31
MAX_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Border:
  """A border and how it is attacked.

  Attributes:
    name: of the border.
    prepare: called once in a process with an empty folder: what `cases` and `check` need.
    cases: the strategy of a case.
    check: reads a case, whose files lie in a folder; returns the outcome. A `UserError` is the
      outcome `refused`; any other exception is a fault of the program.
    examples: how many cases CI tries.
  """

  name: str
  prepare: Callable[[pathlib.Path], Any]
  cases: Callable[[Any], st.SearchStrategy[Case]]
  check: Callable[[Any, pathlib.Path], str]
  examples: int = 60


def run_case(border: Border, state: Any, case: Case, folder: pathlib.Path) -> str:
  """The outcome of a case; whatever should not be is raised.

  Args:
    border: of the case.
    state: of `border.prepare`.
    case: its files.
    folder: empty; the files are written to it.
  """
  for name, content in case.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == PIPE:
      os.mkfifo(path)
    else:
      path.write_bytes(content)
  try:
    return border.check(state, folder)
  except (UserError, UnfitFileError) as error:
    line = storage_text(error) or terminal_line(str(error))
    assert line and line.isprintable() and len(line) <= 4000, line
    return 'refused'


@st.composite
def with_pipes(draw: st.DrawFn, cases: st.SearchStrategy[Case]) -> Case:
  """Cases, in one of 20 of which a file is a pipe."""
  case = draw(cases)
  if case and not draw(st.integers(0, 19)):
    return {**case, draw(st.sampled_from(sorted(case))): PIPE}
  return case
