"""The one exception that a user is meant to read, and how commands end with it."""

import re
import sys
from collections.abc import Callable


class UserError(Exception):
  """Bad input: one line that says what is wrong and what to do about it.

  Entry points print it as `error: <message>` and exit with status 2; anything else that is raised
  is a bug and keeps its traceback.
  """


def exit_status(command: Callable[[], int], *, interrupted: str = 'interrupted') -> int:
  """Runs a command that reads its own arguments (those with flags: `main.run`).

  Args:
    command: returns its exit status.
    interrupted: what Ctrl-C says.

  Returns:
    The command's status; 2 for a `UserError` and 130 for Ctrl-C, each told in one line.
  """
  try:
    return command()
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(interrupted, file=sys.stderr)
    return 130


def first_line(error: Exception) -> str:
  """What an error says, short: the reason in one of tensorstore's stands at the end of the line."""
  text = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
  if reason := re.search(r': ([^:\[\]]+) \[os_error_code=', text):
    return reason[1]
  return re.sub(r'\s*\[source locations=.*', '', text)[:300] or type(error).__name__
