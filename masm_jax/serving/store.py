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
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from masm_jax.errors import UserError

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
      UserError: it cannot be opened, or another version wrote it.
    """
    self.uploads = folder / 'uploads'
    path = folder / 'jobs.sqlite'
    self._lock = threading.Lock()
    try:
      self.uploads.mkdir(mode=0o700, exist_ok=True)
      self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
      self._db.execute('PRAGMA journal_mode=WAL')
      self._db.execute('PRAGMA synchronous=FULL')
      self._db.execute('PRAGMA secure_delete=ON')  # What is deleted is overwritten too.
      self._db.execute('PRAGMA foreign_keys=ON')
      version = self._db.execute('PRAGMA user_version').fetchone()[0]
      if version == 0:
        self._db.executescript(f'BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;')
    except (OSError, sqlite3.Error) as error:
      raise UserError(f'cannot open {path}: {error}; give another folder as --data') from error
    if version not in (0, _VERSION):
      raise UserError(f'{path} is of another version of masm_jax: give another folder as --data')

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
    """Deletes uploads that no waiting job has: of a client whose server was killed meanwhile."""
    known = set(self.unfinished())
    for path in self.uploads.iterdir():
      if path.name not in known:
        path.unlink()

  def _read(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
    with self._lock:
      return self._db.execute(sql, values).fetchall()

  def _write(self, sql: str, values: tuple[Any, ...]) -> int:
    with self._lock, _storage_errors():
      return self._db.execute(sql, values).rowcount


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
  return Job(**fields | {'answer': json.loads(row[-2]) if row[-2] else None})
