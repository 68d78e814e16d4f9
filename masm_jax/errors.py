"""The one exception that a user is meant to read."""

import re


class UserError(Exception):
  """Bad input: one line that says what is wrong and what to do about it.

  Entry points print it as `error: <message>` and exit with status 2; anything else that is raised
  is a bug and keeps its traceback.
  """


def first_line(error: Exception) -> str:
  """What an error says, short: the reason in one of tensorstore's stands at the end of the line."""
  text = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
  if reason := re.search(r': ([^:\[\]]+) \[os_error_code=', text):
    return reason[1]
  return re.sub(r'\s*\[source locations=.*', '', text)[:300] or type(error).__name__
