"""Commits the crops and the outcome of a video together.

They are committed at a stroke, by renaming one folder: a process that is killed at any moment
leaves either all of a video or nothing of it.
"""

import json
import os
import pathlib
import shutil
import socket
from typing import Any

from masm_jax import files as sealing
from masm_jax import plain_files
from masm_jax.data import crop_flags
from masm_jax.errors import UserError
from masm_jax.preprocess.raw_video import RawVideo

# A remark, where perhaps one of several people is forged.
ALL_FAKE = 'have the label fake, though no mask tells who is forged'
# A video whose crops are all flagged has the flag that most of them have as its outcome.
OUTCOMES = ('ok', 'too_short', *crop_flags.FLAGS[1:], crop_flags.NO_FACE, 'unreadable')
CROPS = 'crops'  # Below the output folder.
PARTIAL = '.partial'
RECORD = '.outcome.json'  # In the folder of each video; hidden, so that image importers pass it by.

Record = dict[str, Any]


def make_record(
  input_folder: pathlib.Path,
  raw: RawVideo,
  outcome: str,
  reasons: list[str],
  num_available: int = 0,
  frames: list[dict[str, Any]] | None = None,
  *,
  num_people: int = 0,
  num_people_not_taken: int = 0,
) -> dict[str, Any]:
  """What is kept of a video: its outcome, and a row for each crop."""
  frames = frames or []
  return {
    'video_id': raw.video_id,
    'outcome': outcome,
    'reasons': reasons,
    'num_frames': num_available,
    'num_crops': len(frames),
    'num_kept_boxes': sum(not frame['face_detected'] for frame in frames),
    'num_left_out': sum(bool(frame['crop_flag']) for frame in frames),
    'num_people': num_people,
    'num_people_not_taken': num_people_not_taken,
    **raw.origin(input_folder),
    'crops': frames,
  }


def commit(
  output: pathlib.Path, raw: RawVideo, record: dict[str, Any], files: dict[str, bytes]
) -> None:
  """Makes a video's folder with its crops and its record, whole or not at all.

  Raises:
    UserError: it cannot be written.
  """
  final = video_folder(output, raw)
  # Processes of several machines may write to one folder: their numbers alone can be the same.
  partial = output / PARTIAL / f'{socket.gethostname()}-{os.getpid()}'
  content = {**files, RECORD: json_line(sealing.seal(record))}
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in content.items():
      with open(partial / name, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # Of another state of this video's file.
      old = partial.with_name(f'{partial.name}.old')
      shutil.rmtree(old, ignore_errors=True)
      os.rename(final, old)
      shutil.rmtree(old)
    os.rename(partial, final)
  except OSError as error:
    raise UserError(f'cannot write {final}: {error.strerror or error}') from error


def committed(output: pathlib.Path, raw: RawVideo) -> dict[str, Any] | None:
  """The record of a video that is done; None if it is not, or if some of it is gone since.

  A crop that was cut is gone too. Earlier versions did not note the sizes: those crops are read.
  """
  folder = video_folder(output, raw)
  try:
    record = sealing.unseal(sealing.parse_object(plain_files.read_bytes(folder / RECORD)))
    with os.scandir(folder) as entries:
      sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    for crop in record['crops']:
      if 'bytes' in crop:
        is_whole = sizes[crop['file']] == crop['bytes']
      else:
        is_whole = plain_files.sha256(folder / crop['file']) == crop['sha256']
      if not is_whole:
        return None
  except (OSError, ValueError, TypeError, KeyError):
    return None
  return record


def video_folder(output: pathlib.Path, raw: RawVideo) -> pathlib.Path:
  """Where a video's crops lie."""
  return output / CROPS / raw.video_id


def json_line(record: dict[str, Any]) -> bytes:
  """A record as one line of JSON in UTF-8; bytes of names that are no UTF-8 stay escaped."""
  return (json.dumps(record, ensure_ascii=False) + '\n').encode(errors='backslashreplace')
