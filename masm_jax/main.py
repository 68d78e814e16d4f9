"""Trains and evaluates a detector.

python -m masm_jax.main --config=configs/ffpp.py --workdir=runs/ffpp
python -m masm_jax.main --config=configs/ffpp.py:method=linear --config.seed=1 --workdir=runs/linear
"""

import contextlib
import errno
import logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from masm_jax.errors import UserError
from masm_jax.parallel import peers

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config file, with its arguments after a colon.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory of this run: its record, checkpoints and results. An unfinished run in it goes on.',
)
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  '~/.cache/masm_jax/xla',
  "Where compiled programs are kept between runs; '' for nowhere.",
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'host:port of process 0, where jax cannot find the other processes by itself.',
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'One of several processes, found through SLURM, Open MPI, GKE or the TPU runtime.',
)
_HANG_TIMEOUT_S = flags.DEFINE_float(
  'hang_timeout_s',
  600.0,
  'With several processes: seconds without a step, or a batch of an evaluation, until this one '
  'ends, because another stands still; three times as long before the first; 0 waits for ever.',
)

_PROFILE = flags.DEFINE_string(
  'profile', '', 'FIRST:LAST: writes an XLA trace of these steps into WORKDIR/profile.'
)

_SHUTDOWN_TIMEOUT_S = 6 * 3600

# Storage that is full or fails is for the user to mend, like bad input.
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def start(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
  """Reads the flags and starts jax as they say; returns the config and the run's directory.

  Raises:
    UserError: flags that are missing or unknown.
  """
  if len(argv) > 1:
    raise UserError(f'unknown argument {argv[1]!r}: options begin with --, see --help')
  config = _CONFIG.value
  if config is None or not _WORKDIR.value:
    raise UserError('give --config (a file of configs/) and --workdir (a directory for the run)')
  start_jax(deterministic=bool(config.get('deterministic')))
  return config, pathlib.Path(_WORKDIR.value)


def start_jax(*, deterministic: bool) -> None:
  """Starts jax as the flags say, with the other processes if there are any.

  Args:
    deterministic: whether to ask the backend for operations that repeat bit for bit.
  """
  if deterministic:
    # Read when jax is first imported, hence not above.
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  import jax

  if _CACHE.value:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(_CACHE.value))
  _quieten()
  if _has_peers():
    jax.distributed.initialize(
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      heartbeat_timeout_seconds=peers.HEARTBEAT_TIMEOUT_S,
      # Processes that are done wait for the first one, which may have hours of figures to draw;
      # if it is lost meanwhile, jax's heartbeats end them.
      shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
    )
    peers.listen()


def _has_peers() -> bool:
  return _DISTRIBUTED.value or bool(_COORDINATOR.value)


def hang_timeout_s() -> float:
  """For `peers.Watchdog`: what the flag says, 0 for a process alone."""
  return _HANG_TIMEOUT_S.value if _has_peers() else 0.0


def main(argv: Sequence[str]) -> int:
  """Runs the training; returns the exit status."""
  config, workdir = start(argv)
  from masm_jax.training.loop import train

  signal_number = train(config, workdir, hang_timeout_s=hang_timeout_s(), profile=_PROFILE.value)
  return 128 + signal_number if signal_number else 0


def _quieten() -> None:
  """Drops what Orbax and jax tell about their own work, warnings aside."""
  ours = lambda record: record.levelno >= logging.WARNING or 'masm_jax' in record.pathname
  for handler in (*logging.getLogger().handlers, *logging.getLogger('absl').handlers):
    handler.addFilter(ours)


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
    AttributeError,
    KeyError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    cause = error.__cause__ or error
    text = str(cause)
    if isinstance(cause, KeyError | AttributeError):  # Their text is a quoted text, quoted again.
      text = f'no such config field: {text.strip(chr(34) + chr(39))}'
      text = text.replace(r'\'', "'").replace(r'\n', '. ')
    lines = [line.strip().rstrip(':') for line in text.splitlines() if line.strip()]
    raise UserError('; '.join(dict.fromkeys((lines[0], lines[-1])))) from error


def _parse_flags(argv: Sequence[str]) -> list[str]:
  with flag_errors():
    rest = flags.FLAGS(list(argv))
    if _CONFIG.value is not None:
      _ = _CONFIG.value.is_locked  # A file that failed to load says so at the first access.
    return rest


def run(main_fn: Callable[[Sequence[str]], int]) -> None:
  """Entry point: runs `main_fn` and ends with its status.

  A UserError, or storage that is full or broken, is one line and status 2, for the other processes
  too. With several processes, one that is lost is one line and `peers.LOST_STATUS`.
  """
  try:
    app.run(main_fn, flags_parser=_parse_flags)
  except UserError as error:
    _fail(peers.USER_STATUS, f'error: {error}')
  except KeyboardInterrupt:  # Not in the training loop, which notes it and saves.
    _fail(130, 'interrupted; what was saved before stays')
  except Exception as error:
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
      where = f': {error.filename}' if error.filename else ''
      what = f'error: {error.strerror}{where}; mend that, and the same command goes on'
      _fail(peers.USER_STATUS, what)
    if not _has_peers():
      raise
    if peers.is_lost(error):
      peers.await_told()
      _fail(peers.LOST_STATUS, peers.describe(error))
    _fail(1, traceback.format_exc())


def _fail(status: int, message: str) -> NoReturn:
  # Before the flags are parsed there are no others.
  if not flags.FLAGS.is_parsed() or not _has_peers():
    print(message, file=sys.stderr)
    sys.exit(status)
  # Another Ctrl-C would lead into jax's farewell, which waits for the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  peers.end(status, message, tells=status == peers.USER_STATUS)


if __name__ == '__main__':
  run(main)
