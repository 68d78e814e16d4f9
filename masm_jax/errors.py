"""The one exception that a user is meant to read."""


class UserError(Exception):
  """Bad input: one line that says what is wrong and what to do about it.

  Entry points print it as `error: <message>` and exit with status 2; anything else that is raised
  is a bug and keeps its traceback.
  """
