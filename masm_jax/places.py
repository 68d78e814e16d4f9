"""Where a command may write: not over what it reads, and not into a folder of another kind.

And where it keeps what can be made again.
"""

import contextlib
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from masm_jax import files
from masm_jax.errors import UserError

_MARK = '.{}.unfinished'  # The folder in which the files of a note are written; once it was a file.
_READY = '.{}.finished'  # The same folder when all are written, until they are in their places.
_MAX_LISTED_BYTES = 240  # With what follows it is still the name of a file.
_GONE = '.gone'  # How empty files end there that name an older file which the new ones lack.

_RESULTS = 'results.json'  # Of several kinds.
# Kinds of folders by a file that no other kind holds, and that is there before any results.
TRAINING, EVALUATION, DEMO, SWEEP = 'a training run', 'an evaluation', 'the demo', 'a sweep'
_KINDS = {
  'run.json': TRAINING,
  'evaluation.json': EVALUATION,
  'demo.json': DEMO,
  'demo.png': DEMO,  # Of earlier versions; the only mark that comes last.
  'sweep.json': SWEEP,
  'detector.json': 'a detector file',
  'export.json': 'an export',
  'predict.json': 'predictions',
  'explain.json': 'explanations',
  'jobs.sqlite': 'a server',
}


def refuse_other(folder: str | os.PathLike, kind: str) -> None:
  """Refuses a folder that holds something of another kind, whose files may have the same names.

  Args:
    folder: it need not be there.
    kind: what is to be written, one of those above.

  Raises:
    UserError: it is of another kind.
  """
  for name, other in _KINDS.items():
    places = (os.path.join(folder, place) for place in (name, _READY.format(name)))
    if other != kind and any(map(os.path.lexists, places)):
      raise UserError(f'{folder} is the folder of {other} ({name}): give another one for {kind}')
  marks = [name for name, other in _KINDS.items() if other == kind]
  there = [name for name in (_RESULTS, *marks) if os.path.lexists(os.path.join(folder, name))]
  if marks and there == [_RESULTS] and kind != SWEEP:  # It writes none.
    raise UserError(f'{folder} holds a {_RESULTS} that is not of {kind}: give another folder')


def refuse_inputs(out: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
  """Refuses to write over what the same command reads, by whatever path or link.

  Args:
    out: the file or the folder that is written; it need not be there.
    inputs: files and folders; what is not there, as a URL, or '', is passed by.

  Raises:
    UserError: the output is one of them, or a folder that holds one.
  """
  for path in filter(os.path.exists, inputs):
    real = pathlib.Path(os.path.realpath(path))
    if any(os.path.exists(out) and os.path.samefile(out, place) for place in (real, *real.parents)):
      raise UserError(f'{out} would be written over {path}, which is read: give another output')


def refuse_unwritable(file: str | os.PathLike) -> None:
  """Refuses an output that could not be written, before hours of work for it; makes nothing.

  Raises:
    UserError: it is a folder, or the folder that it would be made in takes no file.
  """
  if os.path.isdir(file):
    raise UserError(f'{file} is a folder: give the path of a file')
  folder = pathlib.Path(file).absolute().parent
  while not os.path.lexists(folder):
    folder = folder.parent
  try:
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(f'cannot write {file}: {error.strerror}') from error


@contextlib.contextmanager
def folder_of(
  note: str, folder: str | os.PathLike, *, what: str, parts: Sequence[str] = (), form: str = ''
) -> Iterator[pathlib.Path]:
  """Replaces the files of a folder, all together and last of all its note.

  Gives an empty folder within it, where the files and the note are to be written. When the block
  ends well, they take the place of older ones. Otherwise they are removed, and the older ones are
  what they were. What a kill has left there is known by its name: the next start removes it, or
  puts it in its place if it was complete.

  Args:
    note: the name of the note, which says what the folder is.
    folder: a new or an empty one, or one that was written, or begun, so before.
    what: what it is, for the error.
    parts: files of an older one that the new one may lack; they are removed then, as those are that
      the older note lists under `files`.
    form: what the note's `format` begins with: one of somebody else, by chance of the same name, is
      told by it.

  Raises:
    UserError: it holds other files.
    OSError: it cannot be written.
  """
  folder = pathlib.Path(folder)
  fresh, ready = folder / _MARK.format(note), folder / _READY.format(note)
  others = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  is_own = note not in others or _has_form(folder / note, form)
  if others and not (is_own and {note, fresh.name, ready.name} & others):
    raise UserError(f'{folder} holds other files: give a new folder for {what}')
  is_new = not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  try:
    finish(note, folder)
    _remove(fresh)
    files.remove_unfinished(folder)
    fresh.mkdir()
    yield fresh
    older = _listed(folder / note) if form else []
    for name in {*parts, *older} - {path.name for path in fresh.iterdir()}:
      (fresh / f'{name}{_GONE}').touch()
    files.sync(fresh)
    os.replace(fresh, ready)  # From here on the new ones are kept, whatever happens.
    files.sync(folder)
    finish(note, folder)
  finally:
    try:
      finish(note, folder)  # What an error or Ctrl-C has stopped between the old and the new note.
    finally:
      _remove(fresh)
      if is_new:
        with contextlib.suppress(OSError):  # It holds something.
          folder.rmdir()


def _has_form(note: pathlib.Path, form: str) -> bool:
  return not form or str(files.read_json(note).get('format', '')).startswith(form)


def _listed(note: pathlib.Path) -> list[str]:
  """What a note lists under `files`, which may be anything, and lies beside it."""
  found = files.read_json(note).get('files') if note.exists() else None
  there = set(os.listdir(note.parent)) if isinstance(found, list) else set()
  return [name for name in there if name in found and len(os.fsencode(name)) <= _MAX_LISTED_BYTES]


def is_half_replaced(note: str, folder: str | os.PathLike) -> bool:
  """Whether `folder_of` was stopped after it had removed the old note, before the new one."""
  folder = pathlib.Path(folder)
  return not (folder / note).exists() and (folder / _READY.format(note) / note).exists()


def finish(note: str, folder: str | os.PathLike) -> None:
  """Puts the complete files of `folder_of` in their places; where there are none, does nothing.

  It may be stopped at any moment, and called again.

  Raises:
    OSError: it cannot be written.
  """
  folder = pathlib.Path(folder)
  ready = folder / _READY.format(note)
  if ready.is_symlink() or not ready.is_dir():  # A link of a stranger is not followed.
    ready.unlink(missing_ok=True)
    return
  if (ready / note).exists():
    (folder / note).unlink(missing_ok=True)  # Until the new one is there, nobody reads a mixture.
    files.sync(folder)
  for path in sorted(ready.iterdir(), key=lambda path: path.name == note):
    if path.name.endswith(_GONE):
      (folder / path.name.removesuffix(_GONE)).unlink(missing_ok=True)
      path.unlink()
      continue
    if path.name == note:
      files.sync(folder)
    os.replace(path, folder / path.name)
  files.sync(folder)
  ready.rmdir()


@contextlib.contextmanager
def begun(
  note: str, folder: str | os.PathLike, *, what: str, is_older: bool = False
) -> Iterator[None]:
  """Notes what a folder is for before anything else comes into it.

  A note that nothing has followed when the block ends is removed.

  Args:
    note: the name of the note.
    folder: it is there; empty but for hidden files, or one that was noted so before.
    what: what it is, for the error and the note.
    is_older: whether an earlier version, which wrote no note, wrote the folder.

  Raises:
    UserError: it holds other files, or a note that is damaged.
    OSError: it cannot be written.
  """
  path = pathlib.Path(folder, note)
  is_new = not os.path.lexists(path)
  if is_new:
    is_own = is_older or all(name.startswith('.') for name in os.listdir(folder))
  else:
    is_own = files.read_json(path).get('folder_of') == what
  if not is_own:
    raise UserError(f'{folder} holds other files: give a new folder for {what}')
  files.remove_unfinished(folder)
  if is_new:
    files.write_json(path, {'folder_of': what})
  try:
    yield
  finally:
    if is_new and not [name for name in os.listdir(folder) if name[0] != '.' and name != note]:
      path.unlink(missing_ok=True)


def real_folder(folder: str | os.PathLike) -> pathlib.Path:
  """The folder as the system finds it: absolute, without links and without `..`.

  Libraries need it so. Tensorstore refuses a path with `..`; Orbax and XLA take `a/..` away before
  they look, which is another folder where `a` is a link.

  Raises:
    UserError: as `refuse_bytes`.
  """
  path = os.path.realpath(folder)
  refuse_bytes(path)
  return pathlib.Path(path)


def refuse_bytes(folder: str | os.PathLike) -> None:
  """Refuses a path that is not UTF-8: neither Tensorstore nor ArrayRecord can open it.

  Raises:
    UserError: it is not.
  """
  try:
    os.fspath(folder).encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{folder} is not UTF-8, as this folder must be: rename it, or give another one'
    ) from error


def cache_folder() -> pathlib.Path:
  """Where this package keeps what can be made again: `$XDG_CACHE_HOME/masm_jax`, in ~/.cache else.

  A relative one is ignored, as its specification says: it would be another in every folder. A user
  without a home (a container that runs under some number) has a folder among the temporary ones.

  Raises:
    UserError: that folder is somebody else's, who could put programs into it.
  """
  if os.path.isabs(base := os.environ.get('XDG_CACHE_HOME', '')):
    return pathlib.Path(base) / 'masm_jax'
  home = os.path.expanduser('~')
  if home.strip('/') and os.path.isabs(home):
    return pathlib.Path(home) / '.cache' / 'masm_jax'
  folder = pathlib.Path(tempfile.gettempdir()) / f'masm_jax-{os.getuid()}'
  with contextlib.suppress(FileExistsError):
    folder.mkdir(0o700)
  found = folder.lstat()
  is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
  if not is_own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    raise UserError(
      f'{folder} is a link, or others may write in it: set XDG_CACHE_HOME to a folder of your own'
    )
  return folder


def expanded(path: str | os.PathLike) -> pathlib.Path:
  """A path with `~` as the home it stands for; raises a UserError where there is none."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise UserError(f'{path}: no such home; give the whole path') from error


def _remove(fresh: pathlib.Path) -> None:
  if fresh.is_dir() and not fresh.is_symlink():
    shutil.rmtree(fresh)
  else:
    fresh.unlink(missing_ok=True)
