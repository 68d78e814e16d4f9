"""Commands around manifests: `python -m masm_jax.data import|check|stats|synthetic`.

Exit status: 0 when all is well, 1 when `check` finds problems, 2 for input that cannot be used.
"""

import argparse
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import pandas as pd

from masm_jax.data.check import find_problems, stats
from masm_jax.data.columns import FAKE, REAL, SPLITS
from masm_jax.data.importers.folder import import_folder
from masm_jax.data.importers.gend_lists import import_gend_lists, split_of_list
from masm_jax.data.manifest import Manifest, load_manifest, write_manifest
from masm_jax.errors import UserError

_REPORT_SECONDS = 5


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit status."""
  logging.basicConfig(format='%(levelname)s: %(message)s')
  args = _parser().parse_args(argv)
  try:
    return args.command(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m masm_jax.data', description=__doc__)
  commands = parser.add_subparsers(required=True, metavar='command')

  command = commands.add_parser('import', help='make a manifest from a folder or from GenD lists')
  command.set_defaults(command=_import)
  command.add_argument('--format', required=True, choices=('folder', 'gend'))
  command.add_argument(
    '--input', required=True, nargs='+', metavar='PATH', help='one folder, or one or more lists'
  )
  command.add_argument('--output', required=True, metavar='FILE', help='.parquet or .csv')
  command.add_argument(
    '--root',
    help='where the paths in the manifest start; default: the folder of the output if the images '
    "lie below it, else the input folder or the first list's folder",
  )
  command.add_argument(
    '--split', choices=SPLITS, help='split of all images, where names and folders do not say'
  )
  command.add_argument('--dataset', help='folder format: name of the data set')

  command = commands.add_parser('check', help='read all files, compare splits')
  command.set_defaults(command=_check)
  _add_manifest(command)
  command.add_argument('--threads', type=int, default=os.cpu_count() or 1)

  command = commands.add_parser('stats', help='count images and videos')
  command.set_defaults(command=_stats)
  _add_manifest(command)

  command = commands.add_parser('synthetic', help='render the built-in data set')
  command.set_defaults(command=_synthetic)
  command.add_argument('--output', required=True, metavar='FOLDER')
  command.add_argument('--seed', type=int, default=0)
  command.add_argument('--size', type=int, default=64, help='side of the images in pixels')
  command.add_argument('--identities', type=int, help='over all splits')
  command.add_argument('--videos', type=int, help='real videos of each identity')
  command.add_argument('--frames', type=int, help='frames of each video')
  command.add_argument('--processes', type=int, default=os.cpu_count() or 1)
  return parser


def _add_manifest(command: argparse.ArgumentParser) -> None:
  command.add_argument('manifest', help='.parquet or .csv')
  command.add_argument('--root', help="where its paths start; default: the manifest's folder")


def _import(args: argparse.Namespace) -> int:
  output = pathlib.Path(args.output)
  if output.suffix not in ('.csv', '.parquet'):
    raise UserError(f'{output}: a manifest is a .csv or .parquet file')
  if args.format == 'folder':
    if len(args.input) != 1:
      raise UserError('the folder format takes one --input folder')
    folder = pathlib.Path(args.input[0])
    is_below = pathlib.Path(os.path.abspath(folder)).is_relative_to(_folder_of(output))
    root = pathlib.Path(args.root or (output.parent if is_below else folder))
    manifest = import_folder(folder, root=root, split=args.split, dataset=args.dataset)
  else:
    if args.dataset:
      raise UserError('GenD lists name their data sets in the paths; leave --dataset out')
    root = pathlib.Path(args.root or pathlib.Path(args.input[0]).parent)
    lists: dict[str, list[str]] = {}
    for path in args.input:
      lists.setdefault(args.split or split_of_list(path), []).append(path)
    manifest = import_gend_lists(lists, root)
  write_manifest(manifest, output)
  print(f'wrote {output}: {_summary(manifest)}')
  if pathlib.Path(os.path.abspath(root)) != _folder_of(output):
    print(f'its paths start at {os.path.abspath(root)}: name that as the root when you use it')
  return 0


def _folder_of(path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(os.path.abspath(path)).parent


def _summary(manifest: Manifest) -> str:
  labels = manifest.labels
  videos = len(set(manifest.video_ids))
  return (
    f'{len(manifest)} images of {videos} videos, {(labels == REAL).sum()} real,'
    f' {(labels == FAKE).sum()} fake, sha256 {manifest.sha256[:12]}'
  )


def _check(args: argparse.Namespace) -> int:
  if args.threads < 1:
    raise UserError(f'--threads {args.threads}: needs at least 1')
  if not pathlib.Path(args.manifest).is_file():
    raise UserError(f'no manifest at {args.manifest}')
  try:
    manifest = load_manifest(args.manifest, args.root)
  except UserError as error:  # What `load_manifest` refuses is just what this command looks for.
    print(f'problem: {error}')
    return 1
  print(f'{args.manifest}: {_summary(manifest)}')
  print(_table(stats(manifest)))
  progress = _progress_lines(len(manifest))
  problems = find_problems(manifest, num_threads=args.threads, on_progress=progress)
  for problem in problems:
    print(f'problem: {problem}')
  if not problems:
    print('no problems found')
  return 1 if problems else 0


def _progress_lines(total: int) -> Callable[[int], None]:
  """Reports on stderr every few seconds, so that a short check stays quiet."""
  last = time.monotonic()

  def report(done: int) -> None:
    nonlocal last
    if time.monotonic() - last > _REPORT_SECONDS:
      last = time.monotonic()
      print(f'{done} of {total} files read', file=sys.stderr)

  return report


def _stats(args: argparse.Namespace) -> int:
  manifest = load_manifest(args.manifest, args.root)
  print(f'{args.manifest}: {_summary(manifest)}')
  print(_table(stats(manifest)))
  return 0


def _table(table: pd.DataFrame) -> str:
  return table.to_string(index=False)


def _synthetic(args: argparse.Namespace) -> int:
  from masm_jax.data.synthetic import materialize  # Only this command needs the renderer.

  sizes = {
    'num_identities': args.identities,
    'videos_per_identity': args.videos,
    'frames_per_video': args.frames,
  }
  path = materialize(
    args.output,
    seed=args.seed,
    size_px=args.size,
    num_processes=args.processes,
    **{name: value for name, value in sizes.items() if value is not None},
  )
  print(f'wrote {path}: {_summary(load_manifest(path))}')
  print('drawn stand-in data: its figures say nothing about real deepfakes')
  return 0


if __name__ == '__main__':
  sys.exit(main())
