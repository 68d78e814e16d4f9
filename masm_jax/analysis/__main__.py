"""What fine-tuning did: how far subspaces turned, spectra, overlaps, and what features still know.

python -m masm_jax.analysis --workdir=runs/demo/masm
python -m masm_jax.analysis --workdir=runs/demo/masm,runs/demo/full

Writes `analysis.json` and `analysis.png` into each run's directory, and prints a table of all. The
probes read identity and pose off the features of real faces of the built-in synthetic set: what
they say, they say of drawn portraits. Another set that has such labels: --manifest.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.terminal import say

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'Directory of a run. Several: with commas between, or the flag several times.'
)
_STEP = flags.DEFINE_string('step', 'best', 'best (by validation), last, or the number of a step.')
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'File of the base weights, if it is no longer where the run found it.'
)
_MANIFEST = flags.DEFINE_string(
  'manifest', '', 'Real faces to probe, with their identity, yaw and pitch; see analysis/probe.py.'
)
cli.define_cache_flag()


def main(argv: Sequence[str]) -> int:
  """Analyses each run; returns the exit status."""
  cli.refuse_arguments(argv)
  workdirs = [folder for text in _WORKDIR.value for folder in split_folders(text)]
  if not workdirs:
    raise UserError('give --workdir, the directory of a run, or of several with commas between')
  cli.start_jax(deterministic=True)
  from masm_jax.analysis import report

  documents = {}
  for workdir in workdirs:
    with locks.held(workdir, name='.analysis.lock', enabled=workdir.is_dir()):
      documents[str(workdir)] = _analyse(workdir)
  say(report.format_comparison(documents))
  return 0


def _analyse(workdir: pathlib.Path) -> dict[str, Any]:
  """Analyses one run, and writes what was found into it."""
  from masm_jax import files
  from masm_jax.analysis import report
  from masm_jax.plots import analysis as analysis_plots

  document = report.analyse(
    workdir, step=_STEP.value, weights=_WEIGHTS.value, manifest=_MANIFEST.value
  )
  try:
    files.write_sealed(workdir / report.FILE, document, spare=True)
    analysis_plots.analysis_figure(document, workdir / report.PICTURE)
  except OSError as error:
    raise UserError(f'cannot write to {workdir}: {error.strerror or error}') from error
  return document


def split_folders(text: str) -> list[pathlib.Path]:
  """Folders with commas between; a comma within the name of an existing folder is part of it.

  >>> split_folders('runs/a,runs/b')
  [PosixPath('runs/a'), PosixPath('runs/b')]
  """
  folders, parts = [], text.split(',')
  while parts:
    ends = range(len(parts), 1, -1)
    end = next((end for end in ends if os.path.isdir(','.join(parts[:end]))), 1)
    folders.append(','.join(parts[:end]))
    parts = parts[end:]
  return [pathlib.Path(folder) for folder in folders if folder]


if __name__ == '__main__':
  cli.run(main)
