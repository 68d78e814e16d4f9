"""Commands around manifests: `python -m masm_jax.data COMMAND --help`.

Exit status: 0 when all is well, 1 when `check` finds problems, 2 for input that cannot be used.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from masm_jax import cli
from masm_jax.data import commands
from masm_jax.data.columns import SPLITS
from masm_jax.data.importers.deepfakebench import COMPRESSIONS


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit status."""
  logging.basicConfig(format='%(levelname)s: %(message)s')
  args = _parser().parse_args(argv)

  def run() -> int:
    commands.check_numbers(args)
    return args.command(args)

  return cli.exit_status(run)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=cli.program('data'), description=cli.in_typed_words(__doc__)
  )
  add = parser.add_subparsers(required=True, metavar='command').add_parser

  command = add('import', help='make a manifest of crops that lie in a known layout')
  command.set_defaults(command=commands.import_)
  command.add_argument('--format', required=True, choices=commands.FORMATS)
  command.add_argument(
    '--input', required=True, nargs='+', metavar='PATH', help='one folder, or lists, JSON, metadata'
  )
  _add_output(command)
  command.add_argument(
    '--root',
    help='where the paths in the manifest start (deepfakebench, df40: needed; folder: the folder '
    'of the output if the images lie below it, or the input; others: the folder of the input)',
  )
  command.add_argument(
    '--split', choices=SPLITS, help='split of all images, where names and folders do not say'
  )
  command.add_argument('--dataset', help='folder, dfdc: name of the data set')
  json = command.add_argument_group('deepfakebench, df40')
  json.add_argument(
    '--label', action='append', default=[], metavar='NAME=real|fake', help='what a label stands for'
  )
  json.add_argument('--splits', nargs='+', choices=SPLITS, default=list(SPLITS))
  json.add_argument('--compressions', nargs='+', choices=COMPRESSIONS, default=list(COMPRESSIONS))
  json.add_argument('--strip', default='', metavar='PREFIX', help='cut this off the paths')
  json.add_argument('--skip-missing', action='store_true', help='leave out frames without a file')

  command = add('check', help='read all files, compare splits; exits with 1 on problems')
  command.set_defaults(command=commands.check)
  _add_manifest(command)
  command.add_argument('--threads', type=int, default=min(os.cpu_count() or 1, 1024))

  command = add('stats', help='count images and videos')
  command.set_defaults(command=commands.print_stats)
  _add_manifest(command)

  command = add('split', help='divide into splits that share no person, source video or file')
  command.set_defaults(command=commands.split)
  _add_manifest(command)
  _add_output(command)
  command.add_argument(
    '--shares',
    nargs=3,
    type=float,
    default=(0.8, 0.1, 0.1),
    metavar=('TRAIN', 'VAL', 'TEST'),
    help='of the videos; 0 leaves a split out (default: 0.8 0.1 0.1)',
  )
  command.add_argument('--seed', type=int, default=0)

  command = add('sample', help='keep evenly spaced frames of each video')
  command.set_defaults(command=commands.sample)
  _add_manifest(command)
  _add_output(command)
  command.add_argument('--frames', type=int, required=True, metavar='N', help='of each video')

  command = add('remap', help='change where paths start or how they begin')
  command.set_defaults(command=commands.remap)
  command.add_argument('manifest', help='.parquet or .csv; its files need not be there')
  _add_output(command)
  command.add_argument('--from', dest='old', default='', metavar='PREFIX', help='what to replace')
  command.add_argument('--to', dest='new', default='', metavar='PREFIX', help='by what')
  command.add_argument('--root', help="where the new paths start; default: the output's folder")

  command = add('tfds', help='write a manifest and its images as a TFDS set (ArrayRecord shards)')
  command.set_defaults(command=commands.tfds)
  _add_manifest(command)
  command.add_argument('--output', required=True, metavar='FOLDER', help='the TFDS data_dir')
  command.add_argument('--name', required=True, help='of the set: letters, digits, _')

  command = add('synthetic', help='render the built-in data set')
  command.set_defaults(command=commands.synthetic)
  command.add_argument('--output', required=True, metavar='FOLDER')
  command.add_argument('--seed', type=int, default=0)
  command.add_argument('--size', type=int, default=64, help='side of the images in pixels')
  command.add_argument('--identities', type=int, help='over all splits')
  command.add_argument('--videos', type=int, help='real videos of each identity')
  command.add_argument('--frames', type=int, help='frames of each video')
  command.add_argument(
    '--strength', type=float, default=1.0, help="of the forgeries' traces; default: %(default)s"
  )
  command.add_argument('--processes', type=int, default=min(os.cpu_count() or 1, 1024))
  return parser


def _add_manifest(command: argparse.ArgumentParser) -> None:
  command.add_argument('manifest', help='.parquet, .csv or the folder of a TFDS set')
  command.add_argument('--root', help="where its paths start; default: the manifest's folder")


def _add_output(command: argparse.ArgumentParser) -> None:
  command.add_argument('--output', required=True, metavar='FILE', help='.parquet or .csv')


if __name__ == '__main__':
  sys.exit(main())
