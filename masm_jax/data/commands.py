"""What the commands of `python -m masm_jax.data` do; each returns its exit status."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from masm_jax import fields, places
from masm_jax.data import derive, storage
from masm_jax.data.check import find_problems, stats
from masm_jax.data.columns import FAKE, REAL, SPLITS, UNLABELLED
from masm_jax.data.importers.deepfakebench import Options, import_deepfakebench
from masm_jax.data.importers.dfdc import import_dfdc
from masm_jax.data.importers.folder import import_folder, is_undivided
from masm_jax.data.importers.gend_lists import import_gend_lists, split_of_list
from masm_jax.data.linking import linked_groups
from masm_jax.data.manifest import Manifest, load_manifest, no_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.terminal import say, terminal_line

FORMATS = ('deepfakebench', 'df40', 'gend', 'dfdc', 'folder')

_REPORT_SECONDS = 5
_MAX_VIDEOS = 10**6  # Real ones, of a synthetic set.

# What flags that are whole numbers may hold.
_RANGES = {
  'seed': fields.whole_range('data.synthetic.seed'),
  'size': fields.whole_range('data.synthetic.size_px'),
  'identities': fields.whole_range('data.synthetic.identities'),
  'videos': (1, 1000),
  'frames': (1, 10**6),
  'threads': fields.whole_range('data.num_threads'),
  'processes': (1, fields.whole_range('data.num_workers')[1]),
}


def check_numbers(args: argparse.Namespace) -> None:
  """Raises a UserError for a number that no command could use."""
  for name, (low, high) in _RANGES.items():
    value = getattr(args, name, None)
    if value is not None and not low <= value <= high:
      shown = str(value) if abs(value) < 10**30 else 'a number of many digits'
      raise UserError(f'--{name} {shown}: give a whole number from {low} to {high}')


def import_(args: argparse.Namespace) -> int:
  """Makes a manifest."""
  _check_output(args.output, args.input)
  if args.dataset and args.format not in ('folder', 'dfdc'):
    raise UserError(f'--format {args.format} names its data sets itself; leave --dataset out')
  makers = {'folder': _from_folder, 'gend': _from_gend_lists, 'dfdc': _from_dfdc}
  manifest = makers.get(args.format, _from_json)(args)
  _write(manifest, args.output)
  return 0


def _from_folder(args: argparse.Namespace) -> Manifest:
  if len(args.input) != 1:
    raise UserError('the folder format takes one --input folder')
  folder, home = args.input[0], storage.parent(args.output)
  is_below = storage.relative(folder, home).split('/')[0] != '..'
  root = args.root or (home if is_below else folder)
  split = args.split
  if split is None and is_undivided(folder):
    split = 'train'
    say(
      f'{folder} is not divided into splits: all of it is train now; divide it with\n'
      f'  python -m masm_jax.data split {args.output} --output FILE'
    )
  return import_folder(folder, root=root, split=split, dataset=args.dataset)


def _from_gend_lists(args: argparse.Namespace) -> Manifest:
  root = args.root or storage.parent(args.input[0])
  lists: dict[str, list[str]] = {}
  for path in args.input:
    lists.setdefault(args.split or split_of_list(path), []).append(path)
  return import_gend_lists(lists, root)


def _from_dfdc(args: argparse.Namespace) -> Manifest:
  root = args.root or storage.parent(args.input[0])
  return import_dfdc(args.input, root, split=args.split, dataset=args.dataset or 'DFDC')


def _from_json(args: argparse.Namespace) -> Manifest:
  if not args.root:
    raise UserError(
      f'--format {args.format} needs --root: the folder that the images lie below, such as '
      "DeepfakeBench's datasets/rgb"
    )
  if args.split:
    raise UserError(f'--format {args.format} has splits of its own; choose among them by --splits')
  labels = {}
  for text in args.label:
    name, equals, value = text.rpartition('=')
    if not equals or value not in ('real', 'fake'):
      raise UserError(f'--label {text}: write NAME=real or NAME=fake')
    labels[name] = REAL if value == 'real' else FAKE
  options = Options(
    labels=labels,
    compressions=args.compressions,
    splits=args.splits,
    strip=args.strip,
    skip_missing=args.skip_missing,
    is_df40=args.format == 'df40',
  )
  return import_deepfakebench(args.input, args.root, options)


def check(args: argparse.Namespace) -> int:
  """Reads every file and compares the splits; 1 if anything is wrong."""
  if not storage.is_file(args.manifest) and not storage.is_folder(args.manifest):
    raise no_manifest(args.manifest)
  try:
    manifest = load_manifest(args.manifest, args.root)
  except UserError as error:  # What `load_manifest` refuses is just what this command looks for.
    say(f'problem: {terminal_line(str(error))}')
    return 1
  say(f'{args.manifest}: {_summary(manifest)}')
  say(_text(stats(manifest)))
  progress = _progress_lines(len(manifest))
  problems = find_problems(manifest, num_threads=args.threads, on_progress=progress)
  for problem in problems:
    say(f'problem: {terminal_line(problem)}')
  if not problems:
    say('no problems found')
    return 0
  by_group = manifest.table['split'].groupby(linked_groups(manifest.table)).nunique()
  if (across := int((by_group > 1).sum())) and not manifest.shards:
    say(
      f'{across} of {len(by_group)} groups of linked videos stand in more than one split; '
      '`python -m masm_jax.data split` divides them anew'
    )
  return 1


def _progress_lines(total: int) -> Callable[[int], None]:
  """Reports on stderr every few seconds, so that a short check stays quiet."""
  last = time.monotonic()

  def report(done: int) -> None:
    nonlocal last
    if time.monotonic() - last > _REPORT_SECONDS:
      last = time.monotonic()
      say(f'{done} of {total} files read', file=sys.stderr)

  return report


def print_stats(args: argparse.Namespace) -> int:
  """Counts images and videos."""
  manifest = load_manifest(args.manifest, args.root)
  say(f'{args.manifest}: {_summary(manifest)}')
  say(_text(stats(manifest)))
  return 0


def split(args: argparse.Namespace) -> int:
  """Divides a manifest into splits that share no person, source video or file."""
  _check_output(args.output, [args.manifest])
  shares = {name: share for name, share in zip(SPLITS, args.shares, strict=True) if share}
  manifest = load_manifest(args.manifest, args.root)
  divided = derive.split_by_identity(manifest, shares, args.seed)
  _write(divided, args.output)
  groups = linked_groups(divided.table)
  largest = np.bincount(pd.Series(groups).groupby(divided.table['video_id']).first()).max()
  say(f'{groups.max() + 1} groups of linked videos, the largest of {largest} videos')
  say(_text(stats(divided)))
  return 0


def sample(args: argparse.Namespace) -> int:
  """Keeps evenly spaced frames of each video."""
  _check_output(args.output, [args.manifest])
  manifest = load_manifest(args.manifest, args.root)
  _write(derive.sample_frames(manifest, args.frames), args.output)
  return 0


def remap(args: argparse.Namespace) -> int:
  """Changes paths."""
  _check_output(args.output, [args.manifest])
  manifest = load_manifest(args.manifest, check_files=False)
  root = args.root or storage.parent(args.output)
  _write(derive.remap_paths(manifest, args.old, args.new, root), args.output)
  return 0


def tfds(args: argparse.Namespace) -> int:
  """Writes a TFDS set."""
  from masm_jax.data.tfds_builder import build  # Slow to import.

  manifest = load_manifest(args.manifest, args.root)
  folder = build(manifest, args.output, args.name)
  say(f'wrote {folder}: {_summary(load_manifest(folder))}')
  say('name that folder as the manifest when you use it')
  return 0


def synthetic(args: argparse.Namespace) -> int:
  """Renders the built-in set."""
  from masm_jax.data.synthetic import materialize  # Only this command needs the renderer.

  sizes = {
    'num_identities': args.identities,
    'videos_per_identity': args.videos,
    'frames_per_video': args.frames,
  }
  if (args.identities or 1) * (args.videos or 1) > _MAX_VIDEOS:
    raise UserError(
      f'--identities {args.identities} --videos {args.videos}: at most {_MAX_VIDEOS} videos in all'
    )
  path = materialize(
    args.output,
    seed=args.seed,
    size_px=args.size,
    strength=args.strength,
    num_processes=args.processes,
    **{name: value for name, value in sizes.items() if value is not None},
  )
  say(f'wrote {path}: {_summary(load_manifest(path))}')
  say('drawn stand-in data: its metrics say nothing about real deepfakes')
  return 0


def _check_output(path: str, inputs: Sequence[str]) -> None:
  places.refuse_inputs(path, inputs)
  if storage.suffix(path) not in ('.csv', '.parquet'):
    raise UserError(f'{path}: a manifest is a .csv or .parquet file')


def _write(manifest: Manifest, output: str) -> None:
  write_manifest(manifest, output)
  say(f'wrote {output}: {_summary(manifest)}')
  root, folder = manifest.root, storage.parent(output)
  if not storage.is_remote(root):
    root, folder = storage.absolute(root), storage.absolute(folder)
  if root != folder:
    if storage.suffix(output) == '.csv':
      say(f'its paths start at {root}: give --root={root} when you use it, or write a .parquet')
    else:
      say(f'its paths start at {root}, which the file remembers')


def _summary(manifest: Manifest) -> str:
  labels = manifest.labels
  videos = len(set(manifest.video_ids))
  unlabelled = int((labels == UNLABELLED).sum())
  return (
    f'{len(manifest)} images of {videos} videos, {(labels == REAL).sum()} real,'
    f' {(labels == FAKE).sum()} fake,'
    + (f' {unlabelled} unlabelled,' if unlabelled else '')
    + f' sha256 {manifest.sha256[:12]}'
  )


def _text(table: pd.DataFrame) -> str:
  return table.to_string(index=False)
