"""What commands share: their flags, the start of jax, one line for an error.

Nothing here imports jax when it is imported, so that `--help` and bad flags take no time.
"""

import contextlib
import importlib
import keyword
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections.config_flags import config_flags

from masm_jax import errors, shipped, terminal
from masm_jax.errors import NO_FIELD, UserError, flag_text, unknown_field
from masm_jax.parallel import backend, interrupts, peers, talk
from masm_jax.terminal import say, terminal_line

# Flags belong to the command that asks for them: its --help shows these, and no others.
flags.disclaim_key_flags()

_SHUTDOWN_TIMEOUT_S = 6 * 3600

_TYPED = 'python -m masm_jax.'  # Docstrings and errors name commands so.
_typed = _TYPED  # What the user typed in its place, see `typed_as`.


# --- Flags ----------------------------------------------------------------------------------------


def define_config(
  name: str, help_text: str, *, sets: str = '', flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[ml_collections.ConfigDict | None]:
  """Defines `--name=FILE:ARGUMENTS`, the flag of a config file; `--name.FIELD=VALUE` sets a field.

  Args:
    name: of the flag.
    help_text: of the flag.
    sets: dotted name of a group of data sets in the config. `--name.sets.NAME.manifest=FILE` adds
      to it a set that the file does not name.
    flag_values: where the flag is defined.
  """
  words: list[str] = []  # Filled before it is read, see `_parse`.
  holder = config_flags.DEFINE_config_file(name, None, help_text, flag_values, sys_argv=words)
  flag_values[name].parser = _ConfigParser(name, sets, words)
  return holder


class _ConfigParser(config_flags.ConfigFileFlagParser):
  """Finds shipped configs by their names, and adds data sets that only the command line names."""

  def __init__(self, name: str, sets: str, words: list[str]):
    super().__init__(name)
    self.words = words  # The command line, as ml_collections reads it.
    self.typed: list[str] = []  # The same as the user typed it.
    self.config: Any = None  # As the file gives it.
    self._sets = sets
    self._field = re.compile(
      rf'(--?{re.escape(name)}\.{re.escape(sets)})\.([^=]+)\.(\w+)(=.*)?', re.DOTALL
    )

  def parse(self, path: str) -> ml_collections.ConfigDict:
    """The config of `FILE:ARGUMENTS`, locked; read errors come with the first access to it."""
    with shipped.opened(path) as file:
      config = super().parse(file)
    self.config = config
    if self._sets and isinstance(config, ml_collections.ConfigDict):
      self._add_sets(config)
    return config

  def quoted(self, word: str) -> str:
    """A flag with the name of its set as ml_collections reads it, where that is no identifier."""
    match = self._field.fullmatch(word) if self._sets else None
    if not match or (match[2].isidentifier() and not keyword.iskeyword(match[2])):
      return word
    return f'{match[1]}[{match[2]!r}].{match[3]}{match[4] or ""}'

  def _add_sets(self, config: ml_collections.ConfigDict) -> None:
    """Adds a data set of split test for each new name in `--NAME.SETS.NAME.manifest=FILE`."""
    group: Any = config
    for part in self._sets.split('.'):
      group = group.get(part) if isinstance(group, ml_collections.ConfigDict) else None
    if group is None:
      return
    matches = [match for word in self.typed if (match := self._field.fullmatch(word))]
    has_manifest = {match[2] for match in matches if match[3] == 'manifest' and match[4] != '='}
    for name in dict.fromkeys(match[2] for match in matches if match[2] not in group):
      flag = f'--{self.name}.{self._sets}.{name}'
      if name not in has_manifest or '.' in name:
        known = f'there are {", ".join(group)}' if len(group) else 'there is none'
        raise UserError(
          f'{flag}: no such set, {known}; a new one needs its {flag}.manifest=FILE, and a name'
          ' without dots'
        )
      with config.unlocked():
        group[name] = importlib.import_module('configs.common').dataset(split='test')


def read_config(name: str, argv: Sequence[str], *, sets: str = '') -> ml_collections.ConfigDict:
  """The config that a command makes of its flags, read apart from the flags of this process.

  Args:
    name: of the config's flag.
    argv: the flags, all of that config.
    sets: as for `define_config`.

  Raises:
    UserError: a file, an argument or a field that is not there.
  """
  values = flags.FlagValues()
  holder = define_config(name, '', sets=sets, flag_values=values)
  _parse(['command', *argv], values)
  return holder.value


def _parse_or_help(argv: Sequence[str]) -> list[str]:
  if {'-h', '--help'} & set(argv):
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)  # absl's own flag ends with 1.
  return _parse(argv, flags.FLAGS)


def _parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Sets the flags; returns what is left."""
  parsers = [values[name].parser for name in values]
  configs = [parser for parser in parsers if isinstance(parser, _ConfigParser)]
  words = list(argv)
  for parser in configs:
    words = [parser.quoted(word) for word in words]
  try:
    with flag_errors():
      for parser in configs:
        parser.words[:], parser.typed = words, list(argv)
      rest = values(words)
      for parser in configs:
        if (config := values[parser.name].value) is not None:
          _ = config.is_locked  # A file that failed to load says so at the first access.
  except UserError as error:
    if not str(error).startswith(NO_FIELD) or 'Did you mean' in str(error):
      raise
    fields = [unknown_field(parser.config, parser.name, words) for parser in configs]
    if not any(fields):
      raise
    raise UserError(NO_FIELD + next(filter(None, fields))) from error
  return rest


def define_process_flags() -> None:
  """Defines the flags of a command that may be one of several processes."""
  flags.DEFINE_string(
    'coordinator',
    None,
    'host:port of process 0, where jax cannot find the other processes by itself.',
  )
  flags.DEFINE_integer('num_processes', None, 'With --coordinator.')
  flags.DEFINE_integer('process_id', None, 'With --coordinator.')
  flags.DEFINE_bool(
    'distributed',
    False,
    'One of several processes, found through SLURM, Open MPI, GKE or the TPU runtime.',
  )
  flags.DEFINE_float(
    'hang_timeout_s',
    600.0,
    'With several processes: seconds without a step, or a batch of an evaluation, until this one '
    'ends, because another stands still; three times as long before the first; 0 waits for ever.',
  )


def define_cache_flag() -> None:
  """Defines the flag of a command that compiles."""
  flags.DEFINE_string(
    'compilation_cache',
    None,
    "Where compiled programs are kept between runs (~/.cache/masm_jax/xla); '' for nowhere.",
  )


def refuse_arguments(argv: Sequence[str]) -> None:
  """Raises a UserError for what is no flag: `argv`, the command's name first, holds more."""
  if len(argv) > 1:
    raise UserError(f'unknown argument {argv[1]!r}: options begin with --, see --help')


def _value(name: str) -> Any:
  """A flag's value; None for a command without it."""
  return flags.FLAGS[name].value if name in flags.FLAGS else None


def _has_peers() -> bool:
  return bool(_value('distributed') or _value('coordinator'))


def hang_timeout_s() -> float:
  """For `peers.Watchdog`: what the flag says, in seconds; 0 for a process alone."""
  return float(_value('hang_timeout_s')) if _has_peers() else 0.0


# --- Start ----------------------------------------------------------------------------------------


def start_jax(*, deterministic: bool) -> None:
  """Starts jax as the flags say, with the other processes if there are any.

  Args:
    deterministic: whether to ask the backend for operations that repeat bit for bit.

  Raises:
    UserError: the environment asks for what jax does not take.
  """
  if deterministic:
    # Read when jax is first imported, hence not above.
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  with backend.refusals():
    import jax

  if 'compilation_cache' in flags.FLAGS:
    backend.keep_programs(_value('compilation_cache'))
  talk.drop_of_others()
  if _has_peers():
    jax.distributed.initialize(
      _value('coordinator'),
      _value('num_processes'),
      _value('process_id'),
      heartbeat_timeout_seconds=peers.HEARTBEAT_TIMEOUT_S,
      # Processes that are done wait for the first one, which may have hours of intervals to draw;
      # if it is lost meanwhile, jax's heartbeats end them.
      shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
    )
    peers.listen()
  backend.start()


# --- The user's words -----------------------------------------------------------------------------


def typed_as(prefix: str) -> None:
  """Sets what the user typed before the command's name: `masm-jax `, for one."""
  global _typed
  _typed = prefix


def program(command: str) -> str:
  """The command as the user typed it, for usage lines."""
  return _typed + command


def in_typed_words(text: str) -> str:
  """A help text or an error with its commands as the user types them."""
  return re.sub(rf'{re.escape(_TYPED)}(?=\w)', _typed, text)


# --- Ends -----------------------------------------------------------------------------------------


def exit_status(command: Callable[[], int], *, interrupted: str = 'interrupted') -> int:
  """Runs a command that reads its own arguments (those with absl's flags: `run`).

  Args:
    command: returns its exit status.
    interrupted: what Ctrl-C says.

  Returns:
    The command's status; 2 for a `UserError`, for storage that is full or fails, and for memory
    that does not suffice, 130 for Ctrl-C, each told in one line.
  """
  try:
    with terminal.usable_output(), interrupts.raised():
      errors.refuse_other_names()
      return command()
  except KeyboardInterrupt:
    say(interrupted, file=sys.stderr)
    return 130
  except (UserError, OSError, MemoryError) as error:
    if not (line := _line(error)):
      raise
    say(line, file=sys.stderr)
    return peers.USER_STATUS


def run(main_fn: Callable[[Sequence[str]], int]) -> None:
  """Entry point: parses the flags, runs `main_fn` and ends with its status.

  A UserError, or storage that is full or broken, is one line and status 2, for the other processes
  too. With several processes, one that is lost is one line and `peers.LOST_STATUS`.
  """
  if help_text := sys.modules['__main__'].__doc__:
    sys.modules['__main__'].__doc__ = in_typed_words(help_text)
  try:
    with terminal.usable_output(), interrupts.raised():
      errors.refuse_other_names()
      app.run(main_fn, flags_parser=_parse_or_help)
  except KeyboardInterrupt:  # Not in the training loop, which notes it and saves.
    _fail(130, 'interrupted; what was saved before stays')
  except Exception as error:
    if line := _line(error):
      _fail(peers.USER_STATUS, line)
    if not _has_peers():
      raise
    if peers.is_lost(error):
      peers.await_told()
      _fail(peers.LOST_STATUS, peers.describe(error))
    _fail(1, traceback.format_exc())


def _line(error: Exception) -> str:
  """One line for what the user is to mend, whatever the names in it hold; '' for a bug."""
  text = str(error) if isinstance(error, UserError) else ''
  text = text or errors.storage_text(error) or errors.memory_text(error)
  return text and f'error: {terminal_line(in_typed_words(text))}'


@contextlib.contextmanager
def flag_errors() -> Iterator[None]:
  """Within it, a config that cannot be read or set is the user's error, not a crash.

  Raises:
    UserError: in place of what absl and ml_collections raise.
  """
  try:
    yield
  except (
    flags.Error,
    ImportError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(flag_text(error)) from error


def _fail(status: int, message: str) -> NoReturn:
  # Before the flags are parsed there are no others.
  if not flags.FLAGS.is_parsed() or not _has_peers():
    say(message, file=sys.stderr)
    sys.exit(status)
  # Another Ctrl-C would lead into jax's farewell, which waits for the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  peers.end(status, message, tells=status == peers.USER_STATUS)
