"""A perturbed copy of a folder of raw videos, which `python -m masm_jax.preprocess` then takes.

python -m masm_jax.perturb_videos --input RAW --output RAW_VC3 --key VC --level 3

Every video (as MP4) and every image (as PNG) below RAW is perturbed whole, before any crop is
taken, and every other file (lists, metadata) is copied, so that the copy has the original's layout.
Name what must stay as it is, such as forgery masks, with --keep. Stopped at any moment, the same
command goes on where it was. The copy's `perturbation.json` says how it was made, and what failed.

Exit status: 0 when all is done, 1 when a file could not be read, 2 for input that cannot be used.
"""

import argparse
import fnmatch
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from masm_jax.errors import UserError, exit_status
from masm_jax.preprocess.files import PERTURBATION

_NOTES = '.perturbation'  # Folder in the copy: a text for each file whose source was damaged.


def main(argv: Sequence[str] | None = None) -> int:
  """Makes the copy and returns the exit status."""
  args = _parser().parse_args(argv)
  kept = 'interrupted; what is done stays, and the same command goes on'
  return exit_status(lambda: _copy(args), interrupted=kept)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m masm_jax.perturb_videos',
    description=__doc__,
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
  from masm_jax import telemetry
  from masm_jax.perturbations import clips
  from masm_jax.preprocess import pool

  record = {
    'key': args.key,
    'level': args.level,
    'parameter': clips.parameter(args.key, args.level),
    'seed': args.seed,
    'keep': list(args.keep),
  }
  _begin(args.output, record)
  tasks = _tasks(args.input, args.keep)
  left = [task for task in tasks if not (args.output / task[1]).exists()]
  failed: dict[str, str] = {}
  work = (args.input, args.output, args.key, args.level, args.seed)
  with telemetry.Progress(
    len(tasks), start=len(tasks) - len(left), label='perturb', unit='files'
  ) as progress:
    done = len(tasks) - len(left)
    for task, result in pool.run(left, _make_worker, work, num_processes=args.processes):
      done += 1
      progress.update(done)
      if isinstance(result, pool.Died):
        failed[task[0]] = f'the process died of it: {result}'
      elif result:
        failed[task[0]] = result
  # From the notes: an earlier start may have done the file.
  notes = {name: _note(args.output, target) for name, target, _ in tasks}
  troubled = {
    name: note.read_text() for name, note in notes.items() if note.is_file() and name not in failed
  }
  counts = {kind: sum(task[2] == kind for task in tasks) for kind in ('video', 'image', 'other')}
  outcome = {'files': counts, 'failed': failed, 'problems': troubled}
  telemetry.write_json(args.output / PERTURBATION, record | outcome)
  print(
    f'{counts["video"]} videos, {counts["image"]} images and {counts["other"]} other files in'
    f' {args.output}'
  )
  for path, reason in sorted(failed.items()):
    print(f'failed: {path}: {reason}', file=sys.stderr)
  for path, reason in sorted(troubled.items()):
    print(f'damaged: {path}: {reason}', file=sys.stderr)
  return 1 if failed else 0


def _begin(output: pathlib.Path, record: dict) -> None:
  """Refuses to go on with a copy that was begun in another way."""
  from masm_jax import telemetry

  path = output / PERTURBATION
  if path.exists():
    earlier = telemetry.read_json(path)
    if any(earlier.get(name) != value for name, value in record.items()):
      raise UserError(f'{output} holds a copy made in another way ({path}): take a new folder')
    return  # As it is: it tells what failed until this start has ended.
  if output.exists() and any(output.iterdir()):
    raise UserError(f'--output {output} is not empty, and no copy of this program')
  try:
    output.mkdir(parents=True, exist_ok=True)
    telemetry.write_json(path, record)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror}') from error


def _tasks(folder: pathlib.Path, keep: Sequence[str]) -> list[tuple[str, str, str]]:
  """(source, target, kind) of every file, relative to the folders; kind: video, image, other.

  Raises:
    UserError: two files would become one, or there is nothing to perturb.
  """
  from masm_jax.data.importers import names
  from masm_jax.preprocess.layouts.base import VIDEO_SUFFIXES

  tasks, targets = [], {}
  for root, folders, files in os.walk(folder, followlinks=True):
    folders.sort()
    for name in sorted(files):
      path = (pathlib.Path(root) / name).relative_to(folder)
      kept = any(fnmatch.fnmatch(path.as_posix(), pattern) for pattern in keep)
      kind, target = 'other', path
      if not kept and name.lower().endswith(VIDEO_SUFFIXES):
        kind, target = 'video', path.with_suffix('.mp4')
      elif not kept and names.is_image(name):
        kind, target = 'image', path.with_suffix('.png')
      if target in targets:
        raise UserError(f'{path} and {targets[target]} would both become {target}: rename one')
      targets[target] = path
      tasks.append((path.as_posix(), target.as_posix(), kind))
  if not any(kind != 'other' for _, _, kind in tasks):
    raise UserError(f'no video and no image below {folder}')
  return tasks


def _make_worker(
  source: pathlib.Path, target: pathlib.Path, key: str, level: int, seed: int
) -> Callable[[tuple[str, str, str]], str]:
  """The function that does one file in a process: -> why it failed, or ''."""
  from masm_jax.perturbations import clips
  from masm_jax.preprocess import video

  def do(task: tuple[str, str, str]) -> str:
    name, output, kind = task
    start, end = source / name, target / output
    try:
      if kind == 'video':
        fresh = end.with_name(end.name + '.new')
        outcome = clips.perturb_video(start, fresh, key, level, seed=seed, video_id=name)
        # The note first: a file that is there is not done again, and would never be spoken of.
        _write_note(_note(target, output), outcome.problems)
        os.replace(fresh, end)
      elif kind == 'image':
        _perturb_image(start, end, key, level, seed, name)
      else:
        end.parent.mkdir(parents=True, exist_ok=True)
        partial = end.with_name(end.name + '.partial')
        shutil.copyfile(start, partial)
        os.replace(partial, end)
    except (video.UnreadableError, UserError) as error:
      return str(error)
    except OSError as error:
      return error.strerror or str(error)
    return ''

  return do


def _note(copy: pathlib.Path, target: str) -> pathlib.Path:
  return copy / _NOTES / f'{target}.txt'


def _write_note(note: pathlib.Path, problems: Sequence[str]) -> None:
  if problems:
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text('; '.join(problems))
  else:
    note.unlink(missing_ok=True)


def _perturb_image(
  source: pathlib.Path, target: pathlib.Path, key: str, level: int, seed: int, name: str
) -> None:
  """One frame of a folder of frames; the folder is its video, the number in its name its frame."""
  import cv2

  from masm_jax.data import transforms
  from masm_jax.data.importers import names
  from masm_jax.perturbations import catalogue as robustness
  from masm_jax.preprocess import video

  if key == 'VC':
    raise video.UnreadableError('an image: VC compresses videos; name it with --keep to copy it')
  path = pathlib.PurePosixPath(name)
  rng = robustness.make_rng(seed, path.parent.as_posix(), names.frame_number(path.stem), key, level)
  image = robustness.perturb(transforms.decode(source), key, level, rng)
  _, code = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(target.name + '.partial')
  partial.write_bytes(code.tobytes())
  os.replace(partial, target)


if __name__ == '__main__':
  sys.exit(main())
