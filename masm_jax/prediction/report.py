"""The report for people: one HTML file without script that asks nothing of any network."""

import base64
import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from masm_jax import plain_files
from masm_jax.plots import timeline
from masm_jax.prediction import pictures, words
from masm_jax.prediction.answers import VERDICTS, Answer

_FOLDER = pathlib.Path(__file__).parent
MAX_DETAILS = 200  # Inputs that are told at length; the table has all up to `MAX_ROWS`.
MAX_ROWS = 5000
_MAX_PICTURES = 3  # Of one input.
_MAX_DRAWN = 50  # Inputs with pictures and timelines.


def render(answers: Sequence[Answer], folder: pathlib.Path) -> str:
  """The whole page.

  Args:
    answers: in the order in which they are told.
    folder: where pictures were saved, if they were.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  counts = collections.Counter(answer.verdict for answer in answers)
  rows = [_row(number, answer) for number, answer in enumerate(answers[:MAX_ROWS], start=1)]
  return environment.get_template('report.html').render(
    css=markupsafe.Markup((_FOLDER / 'report.css').read_text('utf-8')),
    rows=rows,
    details=[row | _details(row['number'], row['answer'], folder) for row in rows[:MAX_DETAILS]],
    num=len(answers),
    calibrated=all('uncalibrated' not in answer.reasons for answer in answers),
    counts=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
    model=answers[0].model if answers else None,
    trained_on=words.trained_on(answers[0].model) if answers else '',
  )


def _row(number: int, answer: Answer) -> dict[str, Any]:
  return {'number': number, 'answer': answer, 'words': words.describe(answer)}


def _details(number: int, answer: Answer, folder: pathlib.Path) -> dict[str, Any]:
  is_drawn = number <= _MAX_DRAWN
  lines = pictures.timeline_lines(answer) if is_drawn else []
  drawing = None
  if lines:
    drawing = timeline.timeline_svg(
      lines,
      f'timeline{number}',
      threshold=answer.policy.threshold,
      band=answer.policy.abstain,
      description='Probability of a fake for each frame that was looked at, over time.',
    )
  shown = pictures.saved(folder, answer) if is_drawn else []
  step = max(len(shown) // _MAX_PICTURES, 1)
  return {
    'timeline': drawing,
    'pictures': [_data_uri(path) for path in shown[::step][:_MAX_PICTURES]],
    'explanation': _explanation(answer, folder) if is_drawn else None,
  }


def _explanation(answer: Answer, folder: pathlib.Path) -> dict[str, Any] | None:
  if answer.explanation is None:
    return None
  return {
    'lines': words.explanation_lines(answer),
    'measured': answer.explanation['measured'],
    'pictures': [_data_uri(path) for path in pictures.saved_explanations(folder, answer)],
  }


def _data_uri(path: pathlib.Path) -> str:
  kind = {'.jpg': 'jpeg'}.get(path.suffix, 'png')
  return f'data:image/{kind};base64,{base64.b64encode(plain_files.read_bytes(path)).decode()}'
