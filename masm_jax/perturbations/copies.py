"""A perturbed copy of a folder of raw videos: every file once, resumable, with what failed."""

import fnmatch
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2

from masm_jax import files, places, plain_files, telemetry
from masm_jax.data import crop_settings, storage, transforms
from masm_jax.data.importers import names
from masm_jax.errors import UserError, storage_text
from masm_jax.parallel import locks
from masm_jax.perturbations import catalogue, clips
from masm_jax.preprocess import pool, video
from masm_jax.preprocess.layouts.base import VIDEO_SUFFIXES

_NOTES = '.perturbation'  # Folder in the copy: a text for each file whose source was damaged.


class Copied(NamedTuple):
  """What became of a copy.

  Attributes:
    counts: files by kind: video, image, other.
    failed: why a file has no copy, by its path below the input.
    problems: what was damaged in the source of a file that was copied, by its path.
    skipped: paths that are neither a file nor a folder.
  """

  counts: Mapping[str, int]
  failed: Mapping[str, str]
  problems: Mapping[str, str]
  skipped: Sequence[str]


def copy_folder(
  source: pathlib.Path,
  output: pathlib.Path,
  *,
  key: str,
  level: int,
  seed: int = 0,
  keep: Sequence[str] = (),
  num_processes: int = 0,
) -> Copied:
  """Perturbs every video and image below a folder, and copies every other file.

  `output/perturbation.json` says how the copy was made, and what failed. A copy that was stopped
  resumes: files that are there are not made again.

  Args:
    source: folder of raw videos.
    output: new, or of an earlier start of the same copy.
    key: perturbation, see `catalogue.VIDEO_KEYS`.
    level: 1 (mild) to 5 (severe).
    seed: of what is random.
    keep: patterns of paths below `source` that are copied unchanged.
    num_processes: worker processes; 0 for none.

  Raises:
    UserError: bad arguments, nothing to perturb, or an output that is something else.
  """
  places.refuse_inputs(output, [source])
  record = {
    'key': key,
    'level': level,
    'parameter': clips.parameter(key, level),
    'seed': seed,
    'keep': list(keep),
  }
  with locks.held(output):
    return _copy(source, output, record, num_processes)


def _copy(
  source: pathlib.Path, output: pathlib.Path, record: Mapping[str, Any], num_processes: int
) -> Copied:
  keep, key, level, seed = (record[name] for name in ('keep', 'key', 'level', 'seed'))
  _begin(output, record)
  tasks, skipped = _tasks(source, keep)
  left = [task for task in tasks if not (output / task[1]).exists()]
  failed: dict[str, str] = {}
  done = len(tasks) - len(left)
  with telemetry.Progress(len(tasks), start=done, label='perturb', unit='files') as progress:
    work = (source, output, key, level, seed)
    for task, result in pool.run(left, _make_worker, work, num_processes=num_processes):
      done += 1
      progress.update(done)
      if isinstance(result, pool.Died):
        failed[task[0]] = f'the process died of it: {result}'
      elif result:
        failed[task[0]] = result
  # From the notes: an earlier start may have done the file.
  notes = {name: _note(output, target) for name, target, _ in tasks}
  problems = {
    name: plain_files.read_text(note)
    for name, note in notes.items()
    if note.is_file() and name not in failed
  }
  counts = {kind: sum(task[2] == kind for task in tasks) for kind in ('video', 'image', 'other')}
  outcome = {'files': counts, 'failed': failed, 'problems': problems, 'skipped': skipped}
  files.write_json(output / crop_settings.PERTURBATION, record | outcome)
  return Copied(counts, failed, problems, skipped)


def _begin(output: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Refuses to resume a copy that was begun in another way."""
  files.remove_unfinished(output, deep=True)  # Of a start that was killed.
  path = output / crop_settings.PERTURBATION
  if path.exists():
    earlier = files.read_json(path)
    if any(earlier.get(name) != value for name, value in record.items()):
      raise UserError(f'{output} holds a copy made in another way ({path}): take a new folder')
    return  # As it is: it tells what failed until this start has ended.
  if any(not entry.name.startswith('.') for entry in output.iterdir()):
    raise UserError(f'--output {output} is not empty, and no copy of this program')
  try:
    files.write_json(path, record)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror}') from error


def _tasks(
  folder: pathlib.Path, keep: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
  """(source, target, kind) of every file, relative to the folders, and what is skipped.

  Raises:
    UserError: two files would become one, or there is nothing to perturb.
  """
  skipped: list[str] = []
  tasks, targets = [], {}
  for path in _files_below(folder, skipped):
    kept = any(fnmatch.fnmatch(path.as_posix(), pattern) for pattern in keep)
    kind, target = 'other', path
    if not kept and path.name.lower().endswith(VIDEO_SUFFIXES):
      kind, target = 'video', path.with_suffix('.mp4')
    elif not kept and names.is_image(path.name):
      kind, target = 'image', path.with_suffix('.png')
    if target in targets:
      raise UserError(f'{path} and {targets[target]} would both become {target}: rename one')
    targets[target] = path
    tasks.append((path.as_posix(), target.as_posix(), kind))
  if not any(kind != 'other' for _, _, kind in tasks):
    raise UserError(f'no video and no image below {folder}')
  return tasks, skipped


def _files_below(folder: pathlib.Path, skipped: list[str]) -> Iterator[pathlib.Path]:
  """Regular files below a folder, relative to it."""
  for below, found in storage.walk(folder):
    for name in found:
      path = pathlib.Path(below, name)
      if (folder / path).is_file():
        yield path
      else:  # A pipe, a device, a link to nothing: reading it might never end.
        skipped.append(path.as_posix())


def _make_worker(
  source: pathlib.Path, target: pathlib.Path, key: str, level: int, seed: int
) -> Callable[[tuple[str, str, str]], str]:
  """The function that does one file in a process: -> why it failed, or ''."""

  def do(task: tuple[str, str, str]) -> str:
    name, output, kind = task
    start, end = source / name, target / output
    try:
      if kind == 'video':
        with files.replacing(end) as fresh:
          outcome = clips.perturb_video(start, fresh, key, level, seed=seed, video_id=name)
          # The note first: a file that is there is not done again, and would never be spoken of.
          _write_note(_note(target, output), outcome.problems)
      elif kind == 'image':
        _perturb_image(start, end, key, level, seed, name)
      else:
        with files.replacing(end) as fresh:
          shutil.copyfile(start, fresh)
    except Exception as error:
      cause = error
      while cause:  # The file is sound, and the disk is not.
        if text := storage_text(cause):
          raise UserError(f'cannot write {end}: {text}') from error
        cause = cause.__cause__ or cause.__context__
      if isinstance(error, (video.UnreadableError, UserError)):
        return str(error)
      if not isinstance(error, OSError):
        raise
      return error.strerror or str(error)
    return ''

  return do


def _note(copy: pathlib.Path, target: str) -> pathlib.Path:
  return copy / _NOTES / f'{target}.txt'


def _write_note(note: pathlib.Path, problems: Sequence[str]) -> None:
  if problems:
    files.write_text(note, '; '.join(problems))
  else:
    note.unlink(missing_ok=True)


def _perturb_image(
  source: pathlib.Path, target: pathlib.Path, key: str, level: int, seed: int, name: str
) -> None:
  """One frame of a folder of frames; the folder is its video, the number in its name its frame."""
  if key == 'VC':
    raise video.UnreadableError('an image: VC compresses videos; name it with --keep to copy it')
  path = pathlib.PurePosixPath(name)
  rng = catalogue.make_rng(seed, path.parent.as_posix(), names.frame_number(path.stem), key, level)
  image = catalogue.perturb(transforms.decode(source), key, level, rng)
  _, code = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
  files.write_bytes(target, code.tobytes())
