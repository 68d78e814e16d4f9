"""Borders of results: folders of evaluations, answers of predictions."""

import contextlib
import hashlib
import html
import io
import json
import pathlib
import re
import shutil
import zlib
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

from masm_jax.evaluation import comparison, tables
from masm_jax.plots import svg
from masm_jax.prediction import report as prediction_report
from masm_jax.prediction import results as prediction_results
from masm_jax.report import content, page, runs
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import spoilt_bytes, spoilt_json
from tests.fuzz.tables import CELLS
from tests.prediction import answers_made
from tests.report.conftest import write_evaluation

# --- Evaluations ----------------------------------------------------------------------------------

_NOTE = 'evaluation.json'
_VAL = 'scores/val.parquet'


def _evaluated(folder: pathlib.Path) -> dict[str, Any]:
  """An evaluation with all its parts, and another one to compare it with."""
  for method in ('masm', 'linear'):
    one = write_evaluation(folder / method, method=method, num_videos=8, frames_per_video=2)
    document = json.loads((one / 'results.json').read_text())
    document['protocol']['bootstrap']['draws'] = 4
    for name in ('celebdf_v2', 'reals_only'):  # Each page that is drawn takes seconds.
      document['sets'].pop(name)
      document['robustness'].pop(name, None)
    drawn = document['robustness']['ffpp']
    document['robustness']['ffpp'] = {key: drawn[key] for key in ('CS', 'VC')}
    (one / 'results.json').write_text(json.dumps(document))
  (folder / 'masm' / _NOTE).write_text('{"started": "2026-01-01", "format": "x"}')
  paths = [path for path in (folder / 'masm').rglob('*') if path.is_file()]
  contents = {str(path.relative_to(folder / 'masm')): path.read_bytes() for path in paths}
  return {'contents': contents, 'other': folder / 'linear', 'folder': folder / 'masm'}


@st.composite
def _typed_scores(draw: st.DrawFn, sound: bytes) -> bytes:
  """A table of scores of which some columns are of other types, or there are other rows."""
  table = pa.parquet.read_table(io.BytesIO(sound))
  note = json.loads(table.schema.metadata[b'pandas'])
  table = table.slice(0, draw(st.sampled_from((table.num_rows, 3, 1, 0))))
  names = list(table.column_names)
  for _ in range(draw(st.integers(1, 2))):
    name = draw(st.sampled_from(names))
    kind, cells = CELLS[draw(st.sampled_from(sorted(CELLS)))]
    values = [draw(cells) if draw(st.integers(0, 4)) else None] * table.num_rows
    table = table.set_column(names.index(name), name, pa.array(values, kind))
  metadata = {b'pandas': draw(spoilt_json(note))} if draw(st.booleans()) else None
  file = io.BytesIO()
  pa.parquet.write_table(table.replace_schema_metadata(metadata), file)
  return file.getvalue()


def _evaluations(state: dict[str, Any]) -> st.SearchStrategy[Case]:
  contents = state['contents']
  named = lambda name: lambda content: {name: content}
  scores = 'scores/ffpp.parquet'
  document = json.loads(contents['results.json'])
  return st.one_of(
    st.builds(named('results.json'), spoilt_json(document, 1)),
    st.builds(named('results.json'), spoilt_json(document)),
    st.builds(named(_NOTE), spoilt_json(json.loads(contents[_NOTE]))),
    st.builds(named(scores), spoilt_bytes([contents[scores]])),
    st.builds(named(scores), _typed_scores(contents[scores])),
    st.just({scores: contents[_VAL]}),
  )


def _shown(state: dict[str, Any], folder: pathlib.Path) -> str:
  changed = [path for path in folder.rglob('*') if path.is_file()]
  pipes = [path for path in folder.rglob('*') if path.is_fifo()]
  copy = folder / 'copy'
  shutil.copytree(state['folder'], copy)
  for path in changed:
    shutil.copyfile(path, copy / path.relative_to(folder))
  for path in pipes:
    path.replace(copy / path.relative_to(folder))
  loaded = runs.read_runs([f'a={copy}', f'b={state["other"]}'])
  table = loaded[0].frames['ffpp']
  assert table['score'].dtype == np.float64
  assert not any(path.read_bytes() == state['contents'][_VAL] for path in changed), 'another set'
  # Drawing takes seconds, and a number that cannot be drawn is one on every page.
  key = zlib.crc32(b''.join(path.read_bytes() for path in changed))
  is_drawn = key % 16 == 0
  draws = contextlib.nullcontext() if is_drawn else mock.patch.object(svg, 'to_svg', _undrawn)
  with draws:
    text = page.render(content.build(loaded, title='t', tsne_points=24 * is_drawn))
  text.encode()
  assert '<script>alert' not in text
  found = comparison.compare(comparison.load_detectors([f'a={copy}', f'b={state["other"]}']))
  for made in (tables.markdown(found, ['auroc']), tables.latex(found, ['auroc'])):
    made.encode()
  tables.csv_table(found).encode()
  return 'shown'


def _undrawn(drawing: object, name: str, description: str) -> str:
  del drawing, name
  return html.escape(description)


EVALUATIONS = Border('evaluations', _evaluated, _evaluations, _shown, 25)

# --- Answers --------------------------------------------------------------------------------------


def _answered(folder: pathlib.Path) -> list[dict[str, Any]]:
  del folder
  sound = [
    answers_made.made(verdict, ('no_face',) if verdict == 'no_answer' else ()).to_dict()
    for verdict in ('fake', 'real', 'undecided', 'no_answer')
  ]
  face = {
    'track': 0, 'frame': 3, 'base_logit': -1.0, 'logit': 2.0, 'shapley': [3.0], 'maps': [[[1.0]]],
    'standard_errors': [0.0], 'token_share': 0.5, 'completeness_error': 0.0, 'picture': '',
  }  # fmt: skip
  sound[0]['explanation'] = {
    'parts': ['all changes'], 'measured': 'x', 'maps_shown': True, 'faces': [face],
  }  # fmt: skip
  counts = {'videos': 7, 'identities': None}
  sound[0]['model']['training_videos'] = {'real': counts, 'fake': counts}
  return sound


@st.composite
def _answers(draw: st.DrawFn, sound: list[dict[str, Any]]) -> Case:
  lines = [json.dumps(sound[0]).encode()]
  for _ in range(draw(st.integers(1, 3))):
    lines.append(draw(spoilt_json(draw(st.sampled_from(sound)))))
  content = b'\n'.join(line.replace(b'\n', b' ') for line in lines) + b'\n'
  if draw(st.integers(0, 9)) == 0:
    content = draw(spoilt_bytes([content]))
  # A stranger makes the record fit; otherwise a bit has flipped.
  written = content if draw(st.integers(0, 5)) else draw(spoilt_bytes([content], 1))
  finished = {'answers': 1, 'sha256': hashlib.sha256(written).hexdigest()}
  identity = {'schema': 'x', 'version': '0', 'policy': {'threshold': 0.5}}
  identity |= {'shards': ['0/1'], 'finished': finished}
  record = json.dumps(identity).encode()
  if draw(st.integers(0, 5)) == 0:
    record = draw(spoilt_json(identity))
  return {'part/predictions.jsonl': content, 'part/predict.json': record}


def _joined(sound: list[dict[str, Any]], folder: pathlib.Path) -> str:
  form = 'csv' if (folder / 'part' / 'predictions.jsonl').stat().st_size % 2 else 'json'
  found = prediction_results.merge([folder / 'part'], folder / 'out', form)
  record = json.loads((folder / 'part' / 'predict.json').read_bytes())
  lines = (folder / 'part' / 'predictions.jsonl').read_bytes()
  assert record['finished']['sha256'] == hashlib.sha256(lines).hexdigest(), 'other answers'
  assert all(re.fullmatch('[0-9a-f]{64}', answer.input.sha256) for answer in found)
  again = prediction_results.read_lines(folder / 'out' / prediction_results.LINES)
  assert again == found
  prediction_report.render(found, folder / 'out').encode()
  return 'joined'


ANSWERS = Border('answers', _answered, _answers, _joined, 60)
