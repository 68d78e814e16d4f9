"""Several runs on one page, and evaluations that are damaged or odd."""

import json
import re

import numpy as np
import pytest

from masm_jax.errors import UserError
from masm_jax.metrics import scores
from masm_jax.plots import panels
from masm_jax.report import __main__ as report
from masm_jax.report import page, runs
from tests.report.building import built, edited


@pytest.mark.parametrize(
  ('column', 'value'),
  [('label', 2), ('label', 'x'), ('score', 1.5), ('score', None), ('logit', float('inf')),
   ('video_id', 7), ('path', None)],
)  # fmt: skip
def test_damaged_scores_are_one_line(evaluation, tmp_path, capsys, column, value):
  folder = edited(tmp_path / 'a', evaluation, lambda results: None)
  (folder / 'scores').unlink()
  table = scores.read_scores(evaluation / 'scores' / 'ffpp.parquet')
  scores.write_scores(folder / 'scores' / 'ffpp.parquet', table.assign(**{column: value}))
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 2
  error = capsys.readouterr().err
  assert re.fullmatch(rf'error: .*ffpp\.parquet: column {column} holds other values .*\n', error)


def test_runs_are_told_apart(evaluation, other):
  both = runs.read_runs([str(evaluation), str(other)])
  assert [run.name for run in both] == ['masm (masm)', 'masm (seed1)']
  with pytest.raises(UserError, match="two runs are called 'A'"):
    runs.read_runs([f'A={evaluation}', f'A={other}'])


ABSTENTION = 'Abstention (circle: the band of validation)'


def test_runs_stand_side_by_side_and_sets_of_one_run_alone(evaluation, other, tmp_path):
  def change(results):
    del results['sets']['ffpp'], results['robustness']['ffpp']

  shown = built(f'A={evaluation}', f'B={edited(tmp_path / "b", other, change)}')
  assert [(row['set'], row['run']) for row in shown['tables'][0][1][:3]] == [
    ('ffpp', 'A'), ('celebdf_v2', 'A'), ('celebdf_v2', 'B')
  ]  # fmt: skip
  first, second, *others = shown['sets']
  assert [section['name'] for section in others] == ['reals_only', 'val']
  assert [caption for caption, _ in first['panels']] == [
    'ROC', 'DET', 'Calibration', ABSTENTION, 'Scores of frames'
  ]  # fmt: skip
  assert [caption for caption, _ in second['panels']] == [
    'ROC', 'DET', 'Calibration', ABSTENTION, 'Scores of frames: A', 'Scores of frames: B'
  ]  # fmt: skip
  assert len(shown['notes']) == 1 and shown['notes'][0].startswith('Synthetic portraits')
  html = page.render(shown)
  assert html.count('<h3 style="margin-top:0"><span class="key"') == 4  # Plain words, verdict.
  assert 'python -m masm_jax.compare' in html


def test_a_run_of_one_video_or_without_scores_is_no_traceback(evaluation, tmp_path, capsys):
  results = json.loads((evaluation / 'results.json').read_text())
  results['sets'] = {'val': results['sets']['val']}
  results['warnings'], results['masks'] = [], None
  results['protocol']['threshold'] |= {'frame': 'nan', 'video': 'nan'}
  folder = tmp_path / 'tiny'
  folder.mkdir()
  (folder / 'results.json').write_text(json.dumps(results))
  table = scores.read_scores(evaluation / 'scores' / 'val.parquet').iloc[:1]
  scores.write_scores(folder / 'scores' / 'val.parquet', table)
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 0
  assert 'No test set has both real and fake videos' in (tmp_path / 'x.html').read_text()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['nowhere', '--out=x.html'], 'nowhere holds no finished evaluation'),
    (['nowhere', '--out=x.pdf'], '--out x.pdf: the report is an .html file'),
    (['nowhere', '--out=x.html', '--tsne-points=-1'], '--tsne-points -1: needs at least 0'),
  ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert report.main(arguments) == 2
  assert capsys.readouterr().err.startswith(f'error: {message}')
  assert list(tmp_path.iterdir()) == []


def test_missing_scores_and_unwritable_pages_are_one_line(evaluation, tmp_path, capsys):
  folder = tmp_path / 'a'
  folder.mkdir()
  (folder / 'results.json').symlink_to(evaluation / 'results.json')
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 2
  assert re.match(r'error: no score file .*ffpp\.parquet', capsys.readouterr().err)
  (tmp_path / 'file').write_text('')
  assert (
    report.main([str(evaluation), f'--out={tmp_path / "file" / "x.html"}', '--tsne-points=0']) == 2
  )
  assert capsys.readouterr().err.startswith('error: cannot write ')


def test_robustness_of_several_runs_is_drawn_by_level(evaluation, other, tmp_path, monkeypatch):
  def change(results):
    curves = results['robustness']['ffpp']
    curves['CS'] = [step for step in curves['CS'] if step['level'] == 5]

  drawn = {}
  curve = panels.robustness_curve

  def spy(name, perturbation, title, unit, lines, parameters, limits, *, key):
    drawn[name, perturbation] = lines, parameters
    return curve(name, perturbation, title, unit, lines, parameters, limits, key=key)

  monkeypatch.setattr(panels, 'robustness_curve', spy)
  few = edited(tmp_path / 'few', other, change)
  shown = built(f'A={few}', f'B={evaluation}')
  (first, second), parameters = drawn['ffpp', 'CS']
  assert list(parameters) == [1, 2, 3, 4, 5]
  at = [np.isfinite(points[3])[:, 0].tolist() for points in (first, second)]
  assert at == [[True, False, False, False, False, True], [True] * 6]
  step = json.loads((few / 'results.json').read_text())['robustness']['ffpp']['CS'][0]
  assert first[3][5][0] == step['video']['metrics']['auroc']['value']
  assert 'A, video: ' in dict(shown['sets'][0]['robustness'])['CS']
  built(few)  # Alone, its one level is still the fifth.
  assert list(drawn['ffpp', 'CS'][1]) == [5]
  ticks = []
  monkeypatch.setattr(
    panels.Axes, 'set_xticks', lambda self, x, *args, of=panels.Axes.set_xticks: (
      ticks.append(list(x)), of(self, x, *args)
    )
  )  # fmt: skip
  curve(
    's', 'CS', 't', 'u', [('a', 0, 'video', [(0.9, 0.8, 1.0)] * 2)], {5: 0.1}, (0.4, 1.0), key='k'
  )
  assert ticks == [[0, 5]]


def test_runs_of_other_rows_under_one_name_are_warned_of(evaluation, other, tmp_path):
  def change(results):
    results['protocol']['sets']['ffpp']['manifest_sha256'] = 'ab' * 32

  shown = built(f'A={evaluation}', f'B={edited(tmp_path / "b", other, change)}')
  (warning,) = [entry for entry in shown['warnings'] if entry['kind'] == 'rows_differ']
  assert warning['set'] == 'ffpp' and 'B: hash abababababab' in warning['text']
  assert 'the runs scored different rows of ffpp (A: hash ' in page.render(shown)
  assert shown['sets'][0]['facts'].endswith('144 frames in A; other counts in other runs')
