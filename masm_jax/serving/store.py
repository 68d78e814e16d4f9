"""Jobs and answers in SQLite, and the uploads beside them.

    DATA/.lock          who serves from this folder, see `parallel.locks`
    DATA/jobs.sqlite    jobs, answers, small pictures of faces
    DATA/uploads/ID     a file that waits for its answer, under a name that the server drew

A job is in the database before its client is told of it, and each change is on the disk when its
method returns (`synchronous=FULL`), so that a kill at any moment loses no accepted job.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from masm_jax import errors, files, plain_files
from masm_jax.errors import UserError
from masm_jax.parallel import locks

_DATABASE = 'jobs.sqlite'
_ENDS = ('', '-wal', '-shm', '-journal')  # Of the files that SQLite keeps.
_UPLOADS = 'uploads'
_ID = re.compile('[0-9a-f]{32}')  # Of a job, and the name of its upload.
_VERSION = 1
_SCHEMA = """
CREATE TABLE job (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  size INTEGER NOT NULL,
  created REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  finished REAL,
  answer TEXT,
  error TEXT
);
CREATE INDEX job_by_state ON job (state, number);
CREATE INDEX job_by_end ON job (finished);
CREATE TABLE picture (
  job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  jpeg BLOB NOT NULL,
  PRIMARY KEY (job, name)
);
"""
_COLUMNS = 'id, name, size, created, state, attempts, finished, answer, error'


@dataclasses.dataclass(frozen=True)
class Job:
  """A file that was accepted, and what became of it.

  Attributes:
    id: drawn by the server; the upload's file name.
    name: what the client calls the file; shown, never a path.
    size: bytes.
    created: Unix time at which it was accepted.
    state: `queued`, `running`, `done` (with an answer) or `failed` (with an error).
    attempts: how often it was begun.
    finished: Unix time of its end, or None.
    answer: the document `masm_jax/prediction/1`, or None.
    error: one sentence, or None.
  """

  id: str
  name: str
  size: int
  created: float
  state: str
  attempts: int
  finished: float | None
  answer: dict[str, Any] | None
  error: str | None

  @property
  def is_over(self) -> bool:
    """Whether nothing changes any more."""
    return self.state in ('done', 'failed')


class Store:
  """The jobs of one data folder; its methods may be called from any thread.

  Those that write raise OSError where the disk is full, and have changed nothing then.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens the database, or makes it.

    Raises:
      UserError: see `check`; or it cannot be opened or made.
    """
    is_new = check(folder)
    self.uploads = folder / _UPLOADS
    self._lock = threading.Lock()
    with _open_errors(folder / _DATABASE):
      self._db = _connect(folder)
      self._db.execute('PRAGMA journal_mode=WAL')
      self._db.execute('PRAGMA synchronous=FULL')
      self._db.execute('PRAGMA secure_delete=ON')  # What is deleted is overwritten too.
      self._db.execute('PRAGMA foreign_keys=ON')
      if is_new:
        self._db.executescript(f'BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;')
      self.uploads.mkdir(mode=0o700, exist_ok=True)

  def close(self) -> None:
    """Closes the database."""
    with self._lock:
      self._db.close()

  def add(self, job_id: str, name: str, size: int) -> Job:
    """Accepts a job whose upload is on the disk."""
    try:
      self._write(
        'INSERT INTO job (id, name, size, created, state) VALUES (?, ?, ?, ?, ?)',
        (job_id, name, size, time.time(), 'queued'),
      )
    except OSError:
      self.delete_upload(job_id)
      raise
    job = self.get(job_id)
    assert job is not None
    return job

  def get(self, job_id: str) -> Job | None:
    """A job, or None."""
    rows = self._read(f'SELECT {_COLUMNS} FROM job WHERE id = ?', (job_id,))
    return _job(rows[0]) if rows else None

  def begin(self, job_id: str) -> int:
    """Marks a job as running; returns which attempt this is, 0 where there is no such job left."""
    changed = self._write(
      "UPDATE job SET state = 'running', attempts = attempts + 1"
      " WHERE id = ? AND state IN ('queued', 'running')",
      (job_id,),
    )
    if not changed:
      return 0
    return int(self._read('SELECT attempts FROM job WHERE id = ?', (job_id,))[0][0])

  def finish(
    self, job_id: str, answer: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None
  ) -> bool:
    """Ends a job with its answer, once, and deletes its upload.

    Args:
      job_id: of the job.
      answer: the document.
      pictures: JPEG files by name; kept as long as the answer.

    Returns:
      False where the job is gone, or had its end before.
    """
    with self._lock, _storage_errors(), self._db:
      self._db.execute('BEGIN IMMEDIATE')
      done = self._db.execute(
        "UPDATE job SET state = 'done', finished = ?, answer = ?"
        " WHERE id = ? AND state IN ('queued', 'running')",
        (time.time(), json.dumps(answer, allow_nan=False), job_id),
      ).rowcount
      if done:
        self._db.executemany(
          'INSERT INTO picture (job, name, jpeg) VALUES (?, ?, ?)',
          [(job_id, name, jpeg) for name, jpeg in (pictures or {}).items()],
        )
    self.delete_upload(job_id)
    return bool(done)

  def fail(self, job_id: str, error: str) -> bool:
    """Ends a job without an answer, once; see `finish`."""
    done = self._write(
      "UPDATE job SET state = 'failed', finished = ?, error = ?"
      " WHERE id = ? AND state IN ('queued', 'running')",
      (time.time(), error, job_id),
    )
    self.delete_upload(job_id)
    return bool(done)

  def delete(self, job_id: str) -> bool:
    """Deletes a job with its upload, answer and pictures; False where there is none."""
    deleted = self._write('DELETE FROM job WHERE id = ?', (job_id,))
    self.delete_upload(job_id)
    return bool(deleted)

  def delete_upload(self, job_id: str) -> None:
    """Deletes the uploaded file of a job, if it is there."""
    self.upload(job_id).unlink(missing_ok=True)

  def upload(self, job_id: str) -> pathlib.Path:
    """Where the uploaded file of a job lies."""
    return self.uploads / job_id

  def picture(self, job_id: str, name: str) -> bytes | None:
    """A picture that an answer came with, JPEG; or None."""
    rows = self._read('SELECT jpeg FROM picture WHERE job = ? AND name = ?', (job_id, name))
    return rows[0][0] if rows else None

  def pictures(self, job_id: str) -> dict[str, bytes]:
    """The pictures that an answer came with, by name."""
    return dict(self._read('SELECT name, jpeg FROM picture WHERE job = ?', (job_id,)))

  def picture_names(self, job_id: str) -> list[str]:
    """Names of the pictures that an answer came with, sorted."""
    return [row[0] for row in self._read(
      'SELECT name FROM picture WHERE job = ? ORDER BY name', (job_id,)
    )]  # fmt: skip

  def unfinished(self) -> list[str]:
    """Ids of the jobs without an end, in the order in which they were accepted."""
    rows = self._read("SELECT id FROM job WHERE state IN ('queued', 'running') ORDER BY number")
    return [row[0] for row in rows]

  def delete_expired(self, before: float) -> list[str]:
    """Deletes the jobs that ended before a Unix time, with all of theirs; returns their ids."""
    ids = [row[0] for row in self._read('SELECT id FROM job WHERE finished < ?', (before,))]
    for job_id in ids:
      self.delete(job_id)
    return ids

  def remove_strays(self) -> None:
    """Deletes uploads that no waiting job has: of a client whose server was killed meanwhile.

    Whatever else came into that folder is left alone.
    """
    known = set(self.unfinished())
    files.remove_unfinished(self.uploads, alone=True)
    for path in self.uploads.iterdir():
      if _ID.fullmatch(path.name) and path.name not in known and not path.is_dir():
        path.unlink()

  def _read(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
    with self._lock:
      return self._db.execute(sql, values).fetchall()

  def _write(self, sql: str, values: tuple[Any, ...]) -> int:
    with self._lock, _storage_errors():
      return self._db.execute(sql, values).rowcount


def check(folder: pathlib.Path) -> bool:
  """Looks whether a server may work in a folder, and changes nothing there.

  Returns:
    Whether it is new: there is no job in it, and nothing else that would be lost.

  Raises:
    UserError: it holds other files, a link in the place of one of ours, a database of another
      program or another version, or a damaged one.
  """
  path = folder / _DATABASE
  names = set(os.listdir(folder)) if folder.is_dir() else set()
  for name in (_UPLOADS, *(f'{_DATABASE}{end}' for end in _ENDS)):
    if (folder / name).is_symlink():
      raise UserError(f'{folder / name} is a link: uploads would go elsewhere; remove it')
    with _open_errors(folder / name):
      if name in names:
        plain_files.refuse_odd(folder / name)
  with _open_errors(path):
    if _DATABASE in names and (version := _version(folder)):
      if version != _VERSION:
        raise UserError(f'{path} is of another version of masm_jax: give another folder as --data')
      return False
    if _UPLOADS in names and not os.listdir(folder / _UPLOADS):  # Of a first start that was killed.
      names.remove(_UPLOADS)
  names -= {f'{_DATABASE}{end}' for end in _ENDS} | {'lost+found'}
  if others := sorted(name for name in names if not name.startswith(locks.NAME)):
    raise UserError(
      f'{folder} holds other files ({others[0][:80]!r}) and no jobs: give a new or empty folder as'
      ' --data'
    )
  return True


def _version(folder: pathlib.Path) -> int:
  """Of a database whose content is sound; 0 where it is empty.

  Raises:
    ValueError: it is another program's, or its content is damaged.
    sqlite3.Error: it is no database, or a damaged one.
  """
  with contextlib.closing(_connect(folder)) as db:
    version = int(db.execute('PRAGMA user_version').fetchone()[0])
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
      return 0
    if not {'job', 'picture'} <= tables:
      if version > _VERSION and not tables:
        return version
      raise ValueError('it is the database of another program')
    if version == _VERSION:
      if (found := db.execute('PRAGMA integrity_check(1)').fetchone()[0]) != 'ok':
        raise ValueError(f'it is damaged, {found}')
      for row in db.execute(f'SELECT {_COLUMNS} FROM job'):
        if not _is_sound(_job(row)):
          raise ValueError('it is damaged, in a job')
  return version


def _is_sound(job: Job) -> bool:
  """Whether the values of a job are what a server writes: its id names a file."""
  types = {
    'id': str, 'name': str, 'size': int, 'created': float, 'state': str, 'attempts': int,
    'finished': float | None, 'answer': dict | None, 'error': str | None,
  }  # fmt: skip
  has_types = all(isinstance(getattr(job, name), kind) for name, kind in types.items())
  return has_types and bool(_ID.fullmatch(job.id)) and job.is_over == (job.finished is not None)


def _connect(folder: pathlib.Path) -> sqlite3.Connection:
  return sqlite3.connect(folder / _DATABASE, check_same_thread=False, isolation_level=None)


@contextlib.contextmanager
def _open_errors(path: pathlib.Path) -> Iterator[None]:
  """Raises a UserError in the place of what opening a database raises."""
  try:
    yield
  except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
    raise UserError(
      f'cannot open {path}: {errors.first_line(error)}; give another folder as --data'
    ) from error


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
  """A database that cannot be written is storage that fails, like any file.

  Raises:
    OSError: in the place of what SQLite raises.
  """
  try:
    yield
  except sqlite3.OperationalError as error:
    raise OSError(errno.EIO, str(error)) from error


def _job(row: tuple[Any, ...]) -> Job:
  fields = dict(zip(_COLUMNS.split(', '), row, strict=True))
  return Job(**fields | {'answer': files.parse_json(row[-2]) if row[-2] else None})
