"""Compares evaluations on the same sets: a table with paired intervals.

python -m masm_jax.compare runs/demo/eval/masm runs/demo/eval/linear --out runs/demo/comparison
python -m masm_jax.compare masm=eval/masm_s0 masm=eval/masm_s1 effort=eval/effort_s0 --out DIR

Folders are those of `python -m masm_jax.evaluate`; several of one name are its seeds. Writes
`comparison.md`, `comparison.tex`, `comparison.csv` and `comparison.json` to --out.
"""

import argparse
import pathlib
import sys

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.terminal import say

_NOTE = 'comparison.json'


def main(argv: list[str] | None = None) -> int:
  """Runs the comparison and prints its table; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog=cli.program('compare'),
    description=cli.in_typed_words(__doc__),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('folders', nargs='+', metavar='[NAME=]DIR', help='of evaluations')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='folder of the tables')
  parser.add_argument('--reference', default='', help='whom to compare with; the first by default')
  parser.add_argument(
    '--metrics', default='auroc,ap,eer', help='in the tables; the CSV holds all (%(default)s)'
  )
  args = parser.parse_args(argv)
  return cli.exit_status(lambda: _compare(args))


def _compare(args: argparse.Namespace) -> int:
  # Not above: --help should not wait for them.
  from masm_jax.metrics import catalogue

  metrics = [name.strip() for name in args.metrics.split(',') if name.strip()]
  known = catalogue.keys(('threshold', '0.5'))
  if unknown := [name for name in metrics if name not in known]:
    raise UserError(f'--metrics: no metric {unknown[0]!r}; there are {", ".join(known)}')
  if not metrics:
    raise UserError(f'--metrics: names none; there are {", ".join(known)}')
  with locks.held_beside(args.out):  # Two would mix their files.
    text = _write(args, metrics)
  say(text)
  say(f'Tables: {args.out / "comparison"}.{{md,tex,csv,json}}')
  return 0


def _write(args: argparse.Namespace, metrics: list[str]) -> str:
  """Writes the tables; returns the one for people."""
  from masm_jax import files, places
  from masm_jax.evaluation import comparison as compare
  from masm_jax.evaluation import tables

  try:
    with places.folder_of(_NOTE, args.out, what='the comparison', form=compare.FORM) as fresh:
      comparison = compare.compare(compare.load_detectors(args.folders), args.reference)
      contents = {
        'comparison.md': tables.markdown(comparison, metrics),
        'comparison.tex': tables.latex(comparison, metrics),
        'comparison.csv': tables.csv_table(comparison),
      }
      for name, content in contents.items():
        files.write_text(fresh / name, content)
      files.write_json(fresh / _NOTE, comparison)
  except OSError as error:
    raise UserError(f'cannot write to --out={args.out}: {error.strerror}') from error
  return contents['comparison.md']


if __name__ == '__main__':
  sys.exit(main())
