"""Trains and evaluates a detector.

python -m masm_jax.main --config=configs/ffpp.py --workdir=runs/ffpp
python -m masm_jax.main --config=ffpp:method=linear --config.seed=1 --workdir=runs/linear
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError

_CONFIG = cli.define_config(
  'config',
  'The config: a file, or the name of a shipped one, with its arguments after a colon. '
  '--config.FIELD=VALUE sets a field; --config.data.tests.NAME.manifest=FILE adds a test set.',
  sets='data.tests',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory of this run: its record, checkpoints and results. An unfinished run in it is resumed.',
)
_PROFILE = flags.DEFINE_string(
  'profile', '', 'FIRST:LAST: writes an XLA trace of these steps into WORKDIR/profile.'
)
cli.define_cache_flag()
cli.define_process_flags()


def main(argv: Sequence[str]) -> int:
  """Runs the training; returns the exit status."""
  cli.refuse_arguments(argv)
  config = _CONFIG.value
  if config is None or not _WORKDIR.value:
    missing = {
      '--config=NAME (a file of configs/, or the name of a shipped one)': config is None,
      '--workdir=DIR (a folder for the run)': not _WORKDIR.value,
    }
    raise UserError(
      f'give {" and ".join(flag for flag, is_missing in missing.items() if is_missing)}'
    )
  cli.start_jax(deterministic=bool(config.get('deterministic')))
  from masm_jax.training.loop import train

  workdir = pathlib.Path(_WORKDIR.value)
  signal_number = train(
    config, workdir, hang_timeout_s=cli.hang_timeout_s(), profile=_PROFILE.value
  )
  return 128 + signal_number if signal_number else 0


if __name__ == '__main__':
  cli.run(main)
