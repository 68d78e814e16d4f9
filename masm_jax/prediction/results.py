"""The folder of a prediction: lines that survive a kill, CSV, and the parts of a cluster joined.

predict.json         by which detector and rules: a folder holds the answers of one
predictions.jsonl    an answer a line; sorted once all are there
predictions.csv      or predictions.json, with --format
report.html          for people
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pydantic
from absl import logging

from masm_jax import files, plain_files
from masm_jax.errors import UserError
from masm_jax.metrics.text_tables import no_formula
from masm_jax.parallel import locks
from masm_jax.prediction import answers, inputs
from masm_jax.prediction.answers import Answer

LINES, TABLE, DOCUMENT = 'predictions.jsonl', 'predictions.csv', 'predictions.json'
RECORD, REPORT = 'predict.json', 'report.html'
SUMS = f'.{LINES}.sha256'  # A hash of each line, written before it.


class _Object(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


class _Counts(_Object):
  videos: int
  identities: int | None


class _Videos(_Object):
  real: _Counts
  fake: _Counts


class _Face(_Object):
  track: int
  frame: int
  base_logit: float
  logit: float
  shapley: list[float]
  standard_errors: list[float]
  token_share: float
  completeness_error: float
  maps: list[list[list[float]]] | None
  picture: str


class _Explanation(_Object):
  parts: list[str]
  measured: str
  maps_shown: bool
  faces: list[_Face]


class _Finished(_Object):
  answers: int
  sha256: str


class _State(_Object):
  """What a record says of its answers, beside the identity: see `Folder.finish`."""

  shards: list[str] = []
  finished: _Finished | None = None


# Of lines, which may be anybody's: the fields of an `Answer`, and what lies in its mappings.
_CHECKED = pydantic.TypeAdapter(Answer)
_CHECKED_EXPLANATION = pydantic.TypeAdapter(_Explanation | None)
_CHECKED_VIDEOS = pydantic.TypeAdapter(_Videos | None)

_DAMAGED = 'holds other answers than were written: they are damaged'
_MAX_TOLD = 8  # Missing shards.
_HASH = re.compile('[0-9a-f]{64}')

Key = tuple[str, str]  # Name and hash of an input.

_COLUMNS = (
  *('name', 'sha256', 'kind', 'verdict', 'probability', 'low', 'high', 'reasons', 'people'),
  *('frames_used', 'duration_s', 'width', 'height', 'threshold', 'model', 'warnings'),
)


def key_of(answer: Answer) -> Key:
  """By which a line is found again: the name and the hash of its input."""
  return answer.input.name, answer.input.sha256


class Folder:
  """A folder of answers, open for one process.

  Args:
    path: a new one, or one of the same identity.
    identity: by what answers are made: hashes of detector and policy, and all else that they
      depend on.

  Raises:
    UserError: it holds other answers or other files, is in use, or cannot be written.
  """

  def __init__(self, path: pathlib.Path, identity: Mapping[str, Any]):
    self.path = path
    self._identity = dict(identity)
    self._stack = contextlib.ExitStack()
    try:
      self._stack.enter_context(locks.held(path))
      self._shards = self._claim()
      files.remove_unfinished(path)
      kept = read_lines(path / LINES, sums=_read_sums(path / SUMS))
      self.answers: dict[Key, Answer] = {key_of(one): one for one in kept}
      self._write_lines(self.answers.values())
      self._sums = self._stack.enter_context((path / SUMS).open('ab', buffering=0))
      self._file = self._stack.enter_context((path / LINES).open('ab', buffering=0))
    except OSError as error:
      self._stack.close()
      raise UserError(f'cannot write to {path}: {error.strerror or error}') from error
    except UserError:
      self._stack.close()
      raise

  def append(self, answer: Answer) -> None:
    """Adds a line at once: a kill loses at most the one that is being written."""
    answer = answers.without_timing(answer)
    self.answers[key_of(answer)] = answer
    line = _line(answer)
    self._sums.write(_sum(line) + b'\n')
    self._file.write(line)

  def finish(self, form: str, shards: Iterable[str] = ('0/1',)) -> list[Answer]:
    """Sorts the lines, notes how many there are, and writes them in another form if asked to.

    Args:
      form: see `write_form`.
      shards: whose answers are all there now, as I/N.

    Returns:
      All answers.
    """
    ordered = [self.answers[key] for key in sorted(self.answers)]
    self._write_lines(ordered)
    write_form(self.path, ordered, form)
    self._shards = sorted({*self._shards, *shards})
    finished = {'answers': len(ordered), 'sha256': _sha256(self.path)}
    self._write_record({'shards': self._shards, 'finished': finished})
    return ordered

  def close(self) -> None:
    """Lets the folder go."""
    self._stack.close()

  def __enter__(self) -> 'Folder':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _claim(self) -> list[str]:
    """Takes the folder, or takes it up again; returns the shards that were finished before."""
    if not (self.path / RECORD).exists():
      if any(not entry.name.startswith('.') for entry in self.path.iterdir()):
        raise UserError(f'{self.path} holds other files; give an empty or a new folder as --out')
      self._write_record({})
      return []
    found, state = _read_record(self.path)
    identity = self._identity
    changed = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if changed:
      raise UserError(
        f'{self.path} holds predictions made otherwise ({", ".join(changed)}); give another --out'
      )
    if state.finished and _doubt(self.path, state).endswith(_DAMAGED):
      files.set_aside(self.path / LINES)
    self._write_record({'shards': state.shards} if state.shards else {})
    return state.shards

  def _write_record(self, state: Mapping[str, Any]) -> None:
    files.write_json(self.path / RECORD, {**self._identity, **state})

  def _write_lines(self, ordered: Iterable[Answer]) -> None:
    lines = [_line(answer) for answer in ordered]
    files.write_bytes(self.path / SUMS, b''.join(_sum(line) + b'\n' for line in lines))
    files.write_bytes(self.path / LINES, b''.join(lines))


def read_lines(path: pathlib.Path, *, sums: Collection[bytes] | None = None) -> list[Answer]:
  """The answers of a file of lines; a last line that was cut off by a kill is left out.

  Of `sums`, hashes of the lines that were written, others are left out; None believes every line.

  Raises:
    UserError: a line is no answer.
  """
  if not path.exists():
    return []
  content = plain_files.read_lines_file(path)
  found, damaged = [], 0
  for number, line in enumerate(content.split(b'\n')[:-1], start=1):
    if sums is not None and _sum(line + b'\n') not in sums:
      damaged += 1
      continue
    try:
      _CHECKED.validate_json(line, strict=True)
      answer = answers.from_dict(files.parse_object(line))
      answer.to_dict()  # Numbers that are none, and no JSON, fail here.
      _check_hashes(answer)
      _CHECKED_VIDEOS.validate_python(answer.model.training_videos)
      explanation = _CHECKED_EXPLANATION.validate_python(answer.explanation)
      if explanation and any(len(f.shapley) != len(explanation.parts) for f in explanation.faces):
        raise ValueError('a value for each part')
      found.append(answer)
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f'{path}, line {number}: no answer of this version') from error
  if damaged:
    logging.warning('%s: %d damaged lines are left out, and answered again', path, damaged)
  return found


def write_form(folder: pathlib.Path, ordered: Sequence[Answer], form: str) -> None:
  """Writes answers as `csv` or `json` beside their lines; nothing more for `jsonl`."""
  if form == 'json':
    files.write_json(folder / DOCUMENT, [answer.to_dict() for answer in ordered])
  elif form == 'csv':
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator='\n')
    writer.writeheader()
    for answer in ordered:
      cells = _row(answer).items()
      writer.writerow({k: no_formula(v) if isinstance(v, str) else v for k, v in cells})
    files.write_text(folder / TABLE, stream.getvalue())


def merge(parts: Sequence[pathlib.Path], out: pathlib.Path, form: str) -> list[Answer]:
  """Joins the folders of shards into one.

  Raises:
    UserError: no such folder, folders of different detectors or rules, one that lacks answers, or
      two answers to the same input that differ.
  """
  records = [_read_record(part) for part in parts]
  for part, (identity, _) in zip(parts, records, strict=True):
    if identity != records[0][0]:
      raise UserError(f'{part} holds predictions made otherwise than {parts[0]}')
  states = [state for _, state in records]
  doubts = [_doubt(part, state) for part, state in zip(parts, states, strict=True)]
  if told := '; '.join(filter(None, doubts)):
    raise UserError(f'{told}: type the same command again, which resumes, and merge then')
  shards = {shard for state in states for shard in state.shards}
  if missing := _missing(shards):
    logging.warning('shards are missing (%s): give their folders too', ', '.join(missing))
  with Folder(out, records[0][0]) as folder:
    for part in parts:
      for answer in read_lines(part / LINES):
        there = folder.answers.get(key_of(answer))
        if there is not None and there != answer:
          raise UserError(f'{part} answers otherwise to {answer.input.name} than another folder')
        if there is None:
          folder.append(answer)
    return folder.finish(form, shards)


def _read_record(folder: pathlib.Path) -> tuple[dict[str, Any], _State]:
  """The identity of a folder's answers, and what is noted of them.

  Raises:
    UserError: there is no record, or it is damaged.
  """
  identity = files.read_json(folder / RECORD)
  state = {key: identity.pop(key) for key in _State.model_fields if key in identity}
  try:
    return identity, _State.model_validate(state)
  except ValueError as error:
    raise UserError(f'{folder / RECORD} is damaged; give another --out') from error


def _doubt(folder: pathlib.Path, state: _State) -> str:
  """Why the answers of a folder cannot be merged; '' if they can."""
  if state.finished is None:
    return f'{folder} was not finished'
  if _sha256(folder) == state.finished.sha256:
    return ''
  count, wanted = len(read_lines(folder / LINES)), state.finished.answers
  told = f'holds {count} of its {wanted} answers' if count < wanted else _DAMAGED
  return f'{folder} {told}'


def _missing(shards: Iterable[str]) -> list[str]:
  """The shards, as I/N, without which those of the same N are not all: the first few."""
  found = {inputs.parse_shard(shard) for shard in shards}
  wanted = ((i, count) for count in sorted({count for _, count in found}) for i in range(count))
  absent = (f'{i}/{count}' for i, count in wanted if (i, count) not in found)
  return list(itertools.islice(absent, _MAX_TOLD))


def _sha256(folder: pathlib.Path) -> str:
  """Of the lines of a folder."""
  path = folder / LINES
  return plain_files.sha256(path) if path.exists() else ''


def _check_hashes(answer: Answer) -> None:
  """Raises a ValueError where a hash is none: pictures are found by the first one."""
  model = answer.model
  known = [answer.input.sha256, *filter(None, (model.sha256, model.base_sha256))]
  if not all(map(_HASH.fullmatch, known)) or answer.id != f'sha256:{answer.input.sha256}':
    raise ValueError('a hash of 64 digits')


def _read_sums(path: pathlib.Path) -> set[bytes] | None:
  """Hashes of the lines of a folder; None in one of an earlier version."""
  return set(plain_files.read_bytes(path).split(b'\n')) if path.exists() else None


def _sum(line: bytes) -> bytes:
  return hashlib.sha256(line).hexdigest().encode()


def _line(answer: Answer) -> bytes:
  return json.dumps(answer.to_dict(), allow_nan=False).encode() + b'\n'


def _row(answer: Answer) -> dict[str, Any]:
  value = answer.to_dict()
  low, high = value['interval'] or (None, None)
  return {
    'name': value['input']['name'],
    **{key: value['input'][key] for key in ('sha256', 'kind', 'duration_s', 'width', 'height')},
    **{key: value[key] for key in ('verdict', 'probability')},
    'low': low,
    'high': high,
    'reasons': ' '.join(value['reasons']),
    'people': len(value['tracks']),
    'frames_used': sum(track['frames_used'] for track in value['tracks']),
    'threshold': value['policy']['threshold'],
    'model': value['model']['sha256'],
    'warnings': ' '.join(value['warnings']),
  }
