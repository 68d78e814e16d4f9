"""The start of jax, where a variable of the environment that it refuses is the user's error."""

import contextlib
import os
import re
from collections.abc import Iterator

from masm_jax import places
from masm_jax.errors import UserError, first_line
from masm_jax.parallel import interrupts

# As jax calls a setting of its own in an error, and as the environment does.
_SETTING = re.compile(r'\bjax_\w+', re.IGNORECASE)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
  """Around the first import of jax, which reads the environment.

  Raises:
    UserError: a variable that jax refuses, for what it raises of it.
  """
  try:
    with interrupts.ending_at_once():
      yield
  except ImportError:
    raise
  except Exception as error:
    if not (name := _blamed(str(error))):
      raise
    raise UserError(
      f'{name}={os.environ[name]}: jax refuses that ({first_line(error)}); unset {name}, or give'
      ' what jax takes'
    ) from error


def start() -> None:
  """Starts the devices, which jax otherwise does when it first needs one.

  Raises:
    UserError: JAX_PLATFORMS names what does not start here.
  """
  import jax

  wanted = os.environ.get('JAX_PLATFORMS', '')
  try:
    with interrupts.ending_at_once():  # Interrupted, jax leaves a timer that the end waits for.
      jax.devices()
  except (RuntimeError, AssertionError) as error:
    if not wanted:
      raise
    # What jax lacks a plugin for fails an assertion.
    why = 'there is none' if isinstance(error, AssertionError) else first_line(error)
    raise UserError(
      f'JAX_PLATFORMS={wanted}: jax starts no such device here ({why}); unset JAX_PLATFORMS, or set'
      ' JAX_PLATFORMS=cpu'
    ) from error


def keep_programs(folder: str | None) -> None:
  """Keeps what is compiled from now on in a folder, for later runs.

  Args:
    folder: None for the program's own; '' for nowhere.
  """
  import jax

  if folder == '':
    return
  cache = places.cache_folder() / 'xla' if folder is None else places.expanded(folder)
  jax.config.update('jax_compilation_cache_dir', str(cache))
  # By default only what took a second is kept, but a start compiles hundreds of small programs.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _blamed(text: str) -> str:
  """The variable that an error of jax is about, by its name, then by its value; '' for none."""
  names = [name.upper() for name in _SETTING.findall(text)]
  for name in os.environ:
    if name.startswith('JAX_') and (os.environ[name] and repr(os.environ[name]) in text):
      names.append(name)
  return next((name for name in names if name in os.environ), '')
