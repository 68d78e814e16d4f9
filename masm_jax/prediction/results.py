"""The folder of a prediction: lines that survive a kill, CSV, and the parts of a cluster joined.

predict.json         by which detector and rules: a folder holds the answers of one
predictions.jsonl    an answer a line; sorted once all are there
predictions.csv      or predictions.json, with --format
report.html          for people
"""

import contextlib
import csv
import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic

from masm_jax import files, plain_files
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.prediction import answers
from masm_jax.prediction.answers import Answer

LINES, TABLE, DOCUMENT = 'predictions.jsonl', 'predictions.csv', 'predictions.json'
RECORD = 'predict.json'


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


# Of lines, which may be anybody's: the fields of an `Answer`, and what lies in its mappings.
_CHECKED = pydantic.TypeAdapter(Answer)
_CHECKED_EXPLANATION = pydantic.TypeAdapter(_Explanation | None)
_CHECKED_VIDEOS = pydantic.TypeAdapter(_Videos | None)

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
    self._stack = contextlib.ExitStack()
    try:
      self._stack.enter_context(locks.held(path))
      self._claim(dict(identity))
      files.remove_unfinished(path)
      self.answers: dict[Key, Answer] = {key_of(one): one for one in read_lines(path / LINES)}
      self._write_lines(self.answers.values())
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
    self._file.write(_line(answer))

  def finish(self, form: str) -> list[Answer]:
    """Sorts the lines, and writes them in another form if asked to; returns the answers."""
    ordered = [self.answers[key] for key in sorted(self.answers)]
    self._write_lines(ordered)
    write_form(self.path, ordered, form)
    return ordered

  def close(self) -> None:
    """Lets the folder go."""
    self._stack.close()

  def __enter__(self) -> 'Folder':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _claim(self, identity: dict[str, Any]) -> None:
    record = self.path / RECORD
    if not record.exists():
      if any(not entry.name.startswith('.') for entry in self.path.iterdir()):
        raise UserError(f'{self.path} holds other files; give an empty or a new folder as --out')
      files.write_json(record, identity)
      return
    found = files.read_json(record)
    changed = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if changed:
      raise UserError(
        f'{self.path} holds predictions made otherwise ({", ".join(changed)}); give another --out'
      )

  def _write_lines(self, ordered: Iterable[Answer]) -> None:
    files.write_bytes(self.path / LINES, b''.join(map(_line, ordered)))


def read_lines(path: pathlib.Path) -> list[Answer]:
  """The answers of a file of lines; a last line that was cut off by a kill is left out.

  Raises:
    UserError: a line is no answer.
  """
  if not path.exists():
    return []
  content = plain_files.read_bytes(path, max_bytes=plain_files.MAX_TABLE_BYTES)
  found = []
  for number, line in enumerate(content.split(b'\n')[:-1], start=1):
    try:
      _CHECKED.validate_json(line, strict=True)
      answer = answers.from_dict(files.parse_object(line))
      answer.to_dict()  # Numbers that are none, and no JSON, fail here.
      _CHECKED_VIDEOS.validate_python(answer.model.training_videos)
      explanation = _CHECKED_EXPLANATION.validate_python(answer.explanation)
      if explanation and any(len(f.shapley) != len(explanation.parts) for f in explanation.faces):
        raise ValueError('a value for each part')
      found.append(answer)
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f'{path}, line {number}: no answer of this version') from error
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
      writer.writerow(_row(answer))
    files.write_text(folder / TABLE, stream.getvalue())


def merge(parts: Sequence[pathlib.Path], out: pathlib.Path, form: str) -> list[Answer]:
  """Joins the folders of shards into one.

  Raises:
    UserError: no such folder, folders of different detectors or rules, or two answers to the same
      input that differ.
  """
  identities = [files.read_json(part / RECORD) for part in parts]
  for part, identity in zip(parts, identities, strict=True):
    if identity != identities[0]:
      raise UserError(f'{part} holds predictions made otherwise than {parts[0]}')
  with Folder(out, identities[0]) as folder:
    for part in parts:
      for answer in read_lines(part / LINES):
        there = folder.answers.get(key_of(answer))
        if there is not None and there != answer:
          raise UserError(f'{part} answers otherwise to {answer.input.name} than another folder')
        if there is None:
          folder.append(answer)
    return folder.finish(form)


def _line(answer: Answer) -> bytes:
  return json.dumps(answer.to_dict(), allow_nan=False).encode() + b'\n'


def _row(answer: Answer) -> dict[str, Any]:
  value = answer.to_dict()
  low, high = value['interval'] or (None, None)
  return {
    'name': _cell(value['input']['name']),
    **{key: value['input'][key] for key in ('sha256', 'kind', 'duration_s', 'width', 'height')},
    **{key: value[key] for key in ('verdict', 'probability')},
    'low': low,
    'high': high,
    'reasons': ' '.join(value['reasons']),
    'people': len(value['tracks']),
    'frames_used': sum(track['frames_used'] for track in value['tracks']),
    'threshold': value['policy']['threshold'],
    'model': value['model']['sha256'],
    'warnings': _cell(' '.join(value['warnings'])),
  }


def _cell(text: str) -> str:
  """Text that no spreadsheet takes for a formula."""
  return f"'{text}" if text[:1] in ('=', '+', '-', '@') else text
