"""Copies a folder of raw videos with a perturbation, for `python -m masm_jax.preprocess`.

python -m masm_jax.perturb_videos --input RAW --output RAW_VC3 --key VC --level 3

Every video (as MP4) and every image (as PNG) below RAW is perturbed whole, before any crop is
taken, and every other file (lists, metadata) is copied, so that the copy has the original's layout.
Name what must stay as it is, such as forgery masks, with --keep. Stopped at any moment, the same
command resumes where it stopped. The copy's `perturbation.json` says how it was made, and what
failed.

Exit status: 0 when all is done, 1 when a file could not be read, 2 for input that cannot be used.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.terminal import say, terminal_line


def main(argv: Sequence[str] | None = None) -> int:
  """Makes the copy and returns the exit status."""
  args = _parser().parse_args(argv)
  kept = 'interrupted; what is done stays, and the same command resumes'
  return cli.exit_status(lambda: _copy(args), interrupted=kept)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=cli.program('perturb_videos'),
    description=cli.in_typed_words(__doc__),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--input', required=True, type=pathlib.Path, metavar='RAW', help='folder of videos')
  add('--output', required=True, type=pathlib.Path, metavar='DIR', help='new, or of an earlier run')
  add('--key', required=True, help='CS, CC, BW, GNC, GB, PX, or VC (video compression)')
  add('--level', required=True, type=int, help='1 (mild) to 5 (severe)')
  add('--seed', type=int, default=0, help='of what is random (default: %(default)s)')
  add('--keep', nargs='+', default=(), metavar='GLOB', help="copied unchanged: '*/masks/*' ...")
  cores = os.cpu_count() or 1
  add('--processes', type=int, default=cores, help='0: all in this one (default: the cores)')
  return parser


def _copy(args: argparse.Namespace) -> int:
  if args.seed < 0:
    raise UserError(f'--seed {args.seed}: is negative')
  if args.processes < 0:
    raise UserError(f'--processes {args.processes}: is negative')
  if not args.input.is_dir():
    raise UserError(f'--input {args.input}: no such folder')
  if args.output.resolve().is_relative_to(args.input.resolve()):
    raise UserError(f'--output {args.output} lies within --input: the copy would hold itself')
  # OpenCV and PyAV are loaded when there is something to do.
  from masm_jax.perturbations import copies

  copied = copies.copy_folder(
    args.input,
    args.output,
    key=args.key,
    level=args.level,
    seed=args.seed,
    keep=args.keep,
    num_processes=args.processes,
  )
  counts = copied.counts
  say(
    f'{counts["video"]} videos, {counts["image"]} images and {counts["other"]} other files in'
    f' {args.output}'
  )
  for path in copied.skipped:
    say(terminal_line(f'skipped: {path}: not a regular file'), file=sys.stderr)
  for path, reason in sorted(copied.failed.items()):
    say(terminal_line(f'failed: {path}: {reason}'), file=sys.stderr)
  for path, reason in sorted(copied.problems.items()):
    say(terminal_line(f'damaged: {path}: {reason}'), file=sys.stderr)
  return 1 if copied.failed else 0


if __name__ == '__main__':
  sys.exit(main())
