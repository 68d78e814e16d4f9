"""The folder that an evaluation leaves: where its files are, and its results as typed values.

`results.json` and the note `evaluation.json` are parsed once, here, into the types of `schema`. A
file that was damaged, or written by a stranger, is refused in one line that names the file and the
field.
"""

import os
import pathlib
import re
from typing import Any

import pydantic

from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.evaluation.schema import Evaluation

FORMAT = 'masm_jax evaluation 1'  # Of `results.json`; a training run's is `masm_jax training 1`.
CLAIM_FORMAT = 'masm_jax evaluation claim 1'  # Of `evaluation.json`.
CLAIM_FILE = 'evaluation.json'
VAL = 'val'  # The validation set's name, in every evaluation.
LEAKS = ('leak_files', 'leak_videos', 'leak_identities')  # Kinds of warnings: faces seen before.

_EVALUATION = pydantic.TypeAdapter(Evaluation)


def named_folder(text: str) -> tuple[str, pathlib.Path]:
  """NAME and folder of `[NAME=]DIR`; '' for no name.

  An existing folder is a folder, whatever its name holds, and so is what has a `/` before the `=`.

  >>> named_folder('masm=eval/masm'), named_folder('runs/K=4/eval')
  (('masm', PosixPath('eval/masm')), ('', PosixPath('runs/K=4/eval')))
  """
  if os.path.isdir(text):
    return '', pathlib.Path(text)
  ends = [i for i, letter in enumerate(text) if letter == '=' and i and '/' not in text[:i]]
  splits = [(text[:end], pathlib.Path(text[end + 1 :])) for end in ends]
  there = [(name, folder) for name, folder in splits if folder.is_dir()]  # NAME may hold a `=`.
  return (there or splits or [('', pathlib.Path(text))])[0]


def scores_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The score table of a set."""
  return folder / 'scores' / f'{name}.parquet'


def perturbed_path(folder: pathlib.Path, name: str, key: str, level: int) -> pathlib.Path:
  """The score table of a perturbed set."""
  return folder / 'robustness' / name / f'{key}_{level}.parquet'


def urgency(kind: str) -> int:
  """Where warnings of a kind stand: leaks first, for none of their metrics is what it seems."""
  return 0 if kind in LEAKS else 1 if kind == 'leak_unchecked' else 2


def read(folder: pathlib.Path) -> Evaluation:
  """Reads a finished evaluation, also one of version 0.1.

  Raises:
    UserError: there is none, it is of another kind, or a field is not what it should be.
  """
  path = pathlib.Path(folder) / 'results.json'
  if not path.is_file():
    raise UserError(
      f'{folder} holds no finished evaluation; run `python -m masm_jax.evaluate --out={folder}`'
      ' (again, if it was stopped)'
    )
  document = _document(path)
  if document.get('format') != FORMAT:
    raise UserError(
      f'{path} is not the result of `python -m masm_jax.evaluate`'
      ' (a training run has a results.json of its own: evaluate it first)'
    )
  claim = pathlib.Path(folder) / CLAIM_FILE
  started = _document(claim).get('started', '') if claim.is_file() else ''
  try:
    return _EVALUATION.validate_python(document | {'started': started})
  except pydantic.ValidationError as error:
    raise UserError(f'{path}: {_first(error)}; evaluate into a new --out') from error


def read_claim(folder: pathlib.Path) -> dict[str, Any]:
  """Whose evaluation a folder is: names of hashes -> hashes, as `run.evaluate` noted them.

  Raises:
    UserError: the note is damaged or another program's.
  """
  path = folder / CLAIM_FILE
  found = _document(path)
  if found.pop('format', CLAIM_FORMAT) != CLAIM_FORMAT:
    raise UserError(f'{path} is not the note of an evaluation; give another --out')
  found.pop('started', None)
  return found


def _document(path: pathlib.Path) -> dict[str, Any]:
  return _encodable(telemetry.read_json(path))


def _encodable(value: Any) -> Any:
  """JSON types whose texts can be written as UTF-8: JSON can hold half a surrogate pair."""
  if isinstance(value, str):
    return value.encode('utf-8', 'replace').decode()
  if isinstance(value, dict):
    return {_encodable(key): _encodable(part) for key, part in value.items()}
  return [_encodable(part) for part in value] if isinstance(value, list) else value


def _first(error: pydantic.ValidationError) -> str:
  """The first thing that is wrong, on one line: 'sets.ffpp.video.num: Input should be ...'."""
  found = error.errors(include_url=False, include_context=False, include_input=False)[0]
  place = '.'.join(map(str, found['loc']))
  return re.sub(r'[^\x20-\x7e]+', '?', f'{place}: {found["msg"]}')
