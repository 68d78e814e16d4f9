"""Says which learned change fired, and where: `python -m masm_jax.explain --help`.

python -m masm_jax.explain --model=runs/ffpp --source=crops/ --out=explained
python -m masm_jax.explain --model=runs/ffpp --benchmark --suite=cross_eval:protocol=run --out=proof

The first explains face crops, made as the training crops were: Shapley values of the K learned
changes, and a signed map for each. The second measures whether such maps are true: on fakes with
their real frames, against masks and against baselines, and which subspace matters for which
forgery. docs/explanations.md describes both.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.terminal import say

_MODEL = flags.DEFINE_string('model', None, 'The --workdir of a training run, or a detector file.')
_STEP = flags.DEFINE_string('step', 'best', 'best (by validation), last, or the number of a step.')
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'File of the base weights, if it is no longer where the run found it.'
)
_SOURCE = flags.DEFINE_multi_string('source', [], 'A face crop, or a folder of them; repeatable.')
_OUT = flags.DEFINE_string('out', None, 'Folder of the results.')
_POINTS = flags.DEFINE_integer(
  'points', 8, 'Points of the path integral; more miss less of the logit.', lower_bound=1,
  upper_bound=128,
)  # fmt: skip
_BENCHMARK = flags.DEFINE_bool(
  'benchmark', False, 'Measure the explanations on the sets of --suite.'
)
_SUITE = cli.define_config('suite', 'Of --benchmark: the data sets, as for evaluate.', sets='sets')
_LIMIT = flags.DEFINE_integer(
  'limit', 200, 'Of --benchmark: fakes of each set whose maps are measured.', lower_bound=2
)
cli.define_cache_flag()


def main(argv: Sequence[str]) -> int:
  """Explains or measures; returns the exit status."""
  cli.refuse_arguments(argv)
  if not _MODEL.value or not _OUT.value:
    raise UserError('give --model (the workdir of a run) and --out (a folder for the results)')
  if _BENCHMARK.value == bool(_SOURCE.value) or _BENCHMARK.value != (_SUITE.value is not None):
    raise UserError('give either --source (face crops), or --benchmark with --suite (data sets)')
  out = pathlib.Path(_OUT.value)
  cli.start_jax(deterministic=True)
  with locks.held_beside(out):  # Two would mix their files.
    return _explain(out)


def _explain(out: pathlib.Path) -> int:
  from masm_jax.explain import run as explain_run

  paths = [] if _BENCHMARK.value else explain_run.list_pictures(_SOURCE.value, out=out)
  model = explain_run.load(pathlib.Path(_MODEL.value), step=_STEP.value, weights=_WEIGHTS.value)
  if _BENCHMARK.value:
    sets = explain_run.load_sets(model, _SUITE.value)
    document = explain_run.measure(
      model, sets, out, points=_POINTS.value, limit=_LIMIT.value,
      num_draws=_SUITE.value.bootstrap.draws, seed=_SUITE.value.bootstrap.seed,
    )  # fmt: skip
    say(explain_run.format_benchmark(document))
    say(f'\nNumbers and pictures: {out}')
    return 0
  say(explain_run.describe(explain_run.explain_files(model, paths, out, points=_POINTS.value)))
  say(f'\nMaps: {out}')
  return 0


if __name__ == '__main__':
  cli.run(main)
