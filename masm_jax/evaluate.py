"""Evaluates a trained detector on any number of data sets, with intervals.

python -m masm_jax.evaluate --checkpoint=runs/ffpp --out=runs/eval --suite=cross_eval
python -m masm_jax.evaluate --checkpoint=runs/demo/masm --out=runs/demo/eval/masm \
    --suite=cross_eval:protocol=run

The folder `--out` then holds `results.json` (every metric), `scores/SET.parquet` (every frame) and,
where the suite names perturbations, `robustness/`. Stopped and started again, it resumes. Several
processes are started as for training: --distributed, or --coordinator and its kin.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'The --workdir of a training run, or the folder of a detector file.'
)
_STEP = flags.DEFINE_string('step', 'best', 'best (by validation), last, or the number of a step.')
_SUITE = cli.define_config(
  'suite',
  'The suite: a file, or the name of a shipped one, with its arguments after a colon. '
  '--suite.FIELD=VALUE sets a field; --suite.sets.NAME.manifest=FILE adds a set, of split test '
  'unless --suite.sets.NAME.split says otherwise.',
  sets='sets',
)
_OUT = flags.DEFINE_string('out', None, 'Directory of the results.')
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'File of the base weights, if it is no longer where the run found it.'
)
_REMOTE = flags.DEFINE_string(
  'remote',
  '',
  'URL of an object store, such as gs://BUCKET, below which the config of the run may name data '
  'sets; elsewhere it is followed to no other machine.',
)
cli.define_cache_flag()
cli.define_process_flags()


def main(argv: Sequence[str]) -> int:
  """Runs the evaluation; returns the exit status."""
  cli.refuse_arguments(argv)
  suite = _SUITE.value
  if suite is None or not _CHECKPOINT.value or not _OUT.value:
    raise UserError(
      'give --checkpoint (the workdir of a run, or a detector file), --suite (such as'
      ' cross_eval) and --out (a directory for the results)'
    )
  cli.start_jax(deterministic=True)
  from masm_jax.evaluation.run import evaluate

  evaluate(
    pathlib.Path(_CHECKPOINT.value),
    suite,
    pathlib.Path(_OUT.value),
    step=_STEP.value,
    weights=_WEIGHTS.value,
    remote=_REMOTE.value,
    hang_timeout_s=cli.hang_timeout_s(),
  )
  return 0


if __name__ == '__main__':
  cli.run(main)
