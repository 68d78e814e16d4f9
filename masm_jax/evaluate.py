"""Evaluates a trained detector on any number of data sets, with intervals.

python -m masm_jax.evaluate --checkpoint=runs/ffpp --out=runs/eval --suite=configs/cross_eval.py
python -m masm_jax.evaluate --checkpoint=runs/demo/masm --out=runs/demo/eval/masm \
    --suite=configs/cross_eval.py:protocol=run

The folder `--out` then holds `results.json` (every figure), `scores/SET.parquet` (every frame) and,
where the suite names perturbations, `robustness/`. Stopped and started again, it goes on. Several
processes are started as for training: --distributed, or --coordinator and its kin.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from masm_jax import main as main_lib
from masm_jax.errors import UserError

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'The --workdir of a training run.')
_STEP = flags.DEFINE_string('step', 'best', 'best (by validation), last, or the number of a step.')
_SUITE = config_flags.DEFINE_config_file(
  'suite', None, 'The suite file, with its arguments after a colon.', lock_config=True
)
_OUT = flags.DEFINE_string('out', None, 'Directory of the results.')
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'File of the base weights, if it is no longer where the run found it.'
)


def main(argv: Sequence[str]) -> int:
  """Runs the evaluation; returns the exit status."""
  if len(argv) > 1:
    raise UserError(f'unknown argument {argv[1]!r}: options begin with --, see --help')
  with main_lib.flag_errors():
    suite = _SUITE.value
    _ = suite is None or suite.is_locked  # A file that failed to load says so at the first access.
  if suite is None or not _CHECKPOINT.value or not _OUT.value:
    raise UserError(
      'give --checkpoint (the workdir of a run), --suite (such as configs/cross_eval.py) and --out'
      ' (a directory for the results)'
    )
  main_lib.start_jax(deterministic=True)
  from masm_jax.evaluation.run import evaluate

  evaluate(
    pathlib.Path(_CHECKPOINT.value),
    suite,
    pathlib.Path(_OUT.value),
    step=_STEP.value,
    weights=_WEIGHTS.value,
    hang_timeout_s=main_lib.hang_timeout_s(),
  )
  return 0


if __name__ == '__main__':
  main_lib.run(main)
