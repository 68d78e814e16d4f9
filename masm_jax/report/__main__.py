"""Turns finished evaluations into one HTML file: `python -m masm_jax.report DIR --out report.html`.

Exit status: 0 when the file is written, 2 for input that cannot be used.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from masm_jax import cli, files
from masm_jax.errors import UserError
from masm_jax.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
  """Reads evaluations, writes the page, and returns the exit status."""
  args = _parser().parse_args(argv)
  return cli.exit_status(lambda: _report(args))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=cli.program('report'),
    description='Makes one self-contained HTML file of one or more finished evaluations.',
  )
  parser.add_argument(
    'folders',
    nargs='+',
    metavar='[NAME=]DIR',
    help='folder of an evaluation; NAME is what the report calls it',
  )
  parser.add_argument('--out', required=True, metavar='FILE', help='the page, an .html file')
  parser.add_argument('--title', default='Deepfake detection: evaluation', help='of the page')
  parser.add_argument(
    '--tsne-points',
    type=int,
    default=600,
    metavar='N',
    help='features drawn for each data set (default 600, some seconds each); 0 for none',
  )
  return parser


def _report(args: argparse.Namespace) -> int:
  out = pathlib.Path(args.out)
  if out.suffix not in ('.html', '.htm'):
    raise UserError(f'--out {out}: the report is an .html file')
  if args.tsne_points < 0:
    raise UserError(f'--tsne-points {args.tsne_points}: needs at least 0')
  from masm_jax.metrics import text_tables
  from masm_jax.report import content, page, runs  # Matplotlib and pandas take a second to import.

  loaded = runs.read_runs(args.folders)
  text = page.render(content.build(loaded, title=args.title, tsne_points=args.tsne_points))
  try:
    files.write_text(out, text)
  except OSError as error:
    raise UserError(f'cannot write {out}: {error.strerror}') from error
  say(f'wrote {out}: {len(text.encode()) / 1e6:.1f} MB')
  for warning in (warning for run in loaded for warning in run.results.warnings):
    say(f'warning: {text_tables.one_line(warning.text)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
