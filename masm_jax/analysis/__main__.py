"""What fine-tuning did: how far subspaces turned, spectra, overlaps, and what features still know.

python -m masm_jax.analysis --workdir=runs/demo/masm
python -m masm_jax.analysis --workdir=runs/demo/masm,runs/demo/full

Writes `analysis.json` and `analysis.png` into each run's directory, and prints a table of all. The
probes read identity and pose off the features of real faces of the built-in synthetic set: what
they say, they say of drawn portraits. Another set that has such labels: --manifest.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from masm_jax import main as main_lib
from masm_jax.errors import UserError

_STEP = flags.DEFINE_string('step', 'best', 'best (by validation), last, or the number of a step.')
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'File of the base weights, if it is no longer where the run found it.'
)
_MANIFEST = flags.DEFINE_string(
  'manifest', '', 'Real faces to probe, with their identity, yaw and pitch; see analysis/probe.py.'
)


def main(argv: Sequence[str]) -> int:
  """Analyses each run; returns the exit status."""
  if len(argv) > 1:
    raise UserError(f'unknown argument {argv[1]!r}: options begin with --, see --help')
  workdirs = [pathlib.Path(part) for part in (flags.FLAGS.workdir or '').split(',') if part]
  if not workdirs:
    raise UserError('give --workdir, the directory of a run, or of several with commas between')
  main_lib.start_jax(deterministic=True)
  from masm_jax import telemetry
  from masm_jax.analysis import report
  from masm_jax.plots import analysis as analysis_plots

  documents = {}
  for workdir in workdirs:
    document = report.analyse(
      workdir, step=_STEP.value, weights=_WEIGHTS.value, manifest=_MANIFEST.value
    )
    try:
      telemetry.write_json(workdir / report.FILE, document)
    except OSError as error:
      raise UserError(f'cannot write to {workdir}: {error.strerror}') from error
    analysis_plots.analysis_figure(document, workdir / report.PICTURE)
    documents[str(workdir)] = document
  print(report.format_comparison(documents))
  return 0


if __name__ == '__main__':
  main_lib.run(main)
