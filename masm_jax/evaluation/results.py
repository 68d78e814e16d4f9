"""The folder that an evaluation leaves: where its files are, and how they are read."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from masm_jax import telemetry
from masm_jax.errors import UserError

FORMAT = 'masm_jax evaluation 1'
VAL = 'val'  # The validation set's name, in every evaluation.
LEAKS = ('leak_files', 'leak_videos', 'leak_identities')  # Kinds of warnings: faces seen before.


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
  """Where warnings of a kind stand: leaks first, for no figure of theirs is what it seems."""
  return 0 if kind in LEAKS else 1 if kind == 'leak_unchecked' else 2


def read_results(folder: pathlib.Path) -> dict[str, Any]:
  """Reads `results.json` of a finished evaluation; numbers that are not finite stay strings.

  Raises:
    UserError: there is none, or it is of another kind.
  """
  path = pathlib.Path(folder) / 'results.json'
  if not path.is_file():
    raise UserError(
      f'{folder} holds no finished evaluation; run `python -m masm_jax.evaluate --out={folder}`'
      ' (again, if it was stopped)'
    )
  results = telemetry.read_json(path)
  if not isinstance(results, dict) or results.get('format') != FORMAT:
    raise UserError(
      f'{path} is not the result of `python -m masm_jax.evaluate`'
      ' (a training run has a results.json of its own: evaluate it first)'
    )
  return results


def figure(
  results: Mapping[str, Any], name: str, level: str, metric: str
) -> tuple[float, float, float]:
  """(value, low, high) of a metric of a set at a level, 'frame' or 'video'.

  Raises:
    KeyError: there is no such set or metric.
  """
  found = results['sets'][name][level]['metrics'][metric]
  return tuple(float(found[key]) for key in ('value', 'low', 'high'))
