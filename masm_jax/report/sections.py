"""The section of one data set: drawings, groups, every metric, and the worst mistakes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from masm_jax.evaluation.schema import Bin
from masm_jax.metrics import catalogue
from masm_jax.perturbations import catalogue as perturbations
from masm_jax.plots import panels, style
from masm_jax.report import pictures, plain
from masm_jax.report.runs import LEVELS, VALIDATION, Run, calibrated, interval
from masm_jax.report.words import HEADLINES, cell, number

MAX_ROWS = 1000  # Of the table of videos; more are in the score file alone.
# Of drawings of perturbations: of all sets, and of one at most and at least.
_MAX_CURVES, _MAX_CURVES_OF_SET, _MIN_CURVES_OF_SET = 320, 64, 20
_OPEN_SETS = 6  # More are folded away until they are asked for.
_CHANCE = 0.5
_ABSTENTION = 'Abstention (circle: the band of validation)'


def data_set(
  runs: Sequence[Run], name: str, index: int, tsne_points: int, num_sets: int = 1
) -> dict[str, Any]:
  """Everything that the page shows of a data set.

  Args:
    runs: of the report; those that have the set are compared.
    name: of the data set.
    index: its place in the report.
    tsne_points: features drawn for each run; 0 for none.
    num_sets: of the report.
  """
  runs = [run for run in runs if name in run.results.sets]
  key = f's{index}'
  levels = LEVELS if len(runs) == 1 else LEVELS[:1]
  shown = [(run, level) for run in runs for level in levels]
  curves = [run.scores(name, level) for run, level in shown]
  named = [
    curve if len(runs) > 1 else dataclasses.replace(curve, name=f'{curve.level}s')
    for curve in curves
  ]
  drawings = [
    ('ROC', panels.roc(name, named, key=f'{key}-roc')),
    ('DET', panels.det(name, named, key=f'{key}-det')),
  ]
  if diagrams := _diagrams(shown, name):
    drawings.append(('Calibration', panels.reliability(name, diagrams, key=f'{key}-cal')))
  if lines := _risks(shown, name):
    drawings.append((_ABSTENTION, panels.risk_coverage(name, lines, key=f'{key}-risk')))
  if not any(curve.both_classes for curve in curves):
    drawings = []  # One class has no curve, and nothing to be calibrated against.
  for run in runs:
    title = 'Scores of frames' + (f': {run.name}' if len(runs) > 1 else '')
    axis = plain.score_axis(run, name, 'frame')
    curve = run.scores(name, 'frame')
    drawing = panels.histogram(name, curve, axis, key=f'{key}-h{run.series}')
    drawings.append((title, drawing))
  most = max(_MIN_CURVES_OF_SET, min(_MAX_CURVES_OF_SET, _MAX_CURVES // num_sets))
  keys = list(dict.fromkeys(key for run in runs for key in run.results.robustness.get(name, {})))
  unseen = f'{most} of {len(keys):,} perturbations are drawn; results.json has all.'
  features = []
  for run in runs if name != VALIDATION else []:
    if embedded := pictures.tsne(run.frames[name], tsne_points):
      features.append((run.name, panels.embedding(name, *embedded, key=f'{key}-t{run.series}')))
  return {
    'id': key,
    'name': style.clean(name),
    'role': role(runs) if name == VALIDATION else '',
    'is_open': index < _OPEN_SETS and name != VALIDATION,
    'facts': _facts(runs, name),
    'panels': drawings,
    'features': features,
    'robustness': _robustness(runs, name, key, keys[:most]),
    'robustness_left_out': unseen if len(keys) > most else '',
    'groups': [part for run in runs for part in _groups(run, name, many=len(runs) > 1)],
    'metrics': [_all_metrics(run, name, many=len(runs) > 1) for run in runs],
    'videos': [_videos(run, name, many=len(runs) > 1) for run in runs],
    'mistakes': [part for run in runs for part in _mistakes(run, name, many=len(runs) > 1)],
  }


def role(runs: Sequence[Run]) -> str:
  """What the validation set did for the runs."""
  whose = [style.label(run.name) for run in runs if run.is_chosen_here]
  if not whose:
    return 'fixed the threshold'
  of = '' if len(whose) == len(runs) else f' of {", ".join(whose)}'
  return f'fixed the threshold, chose the checkpoint{of}'


def _facts(runs: Sequence[Run], name: str) -> str:
  """One line about a set: how much there is of it."""
  lines = []
  for run in runs:
    frames, videos = run.level(name, 'frame'), run.level(name, 'video')
    lines.append(
      f'{videos.num:,} {plain.noun(run, name)} ({videos.num_real:,} real,'
      f' {videos.num_fake:,} fake), {frames.num:,} frames'
    )
  others = f' in {style.label(runs[0].name)}; other counts in other runs'
  return lines[0] + (others if len(set(lines)) > 1 else '')


def _diagrams(
  shown: Sequence[tuple[Run, str]], name: str
) -> dict[str, tuple[int, str, list[tuple[float, float]]]]:
  diagrams = {}
  for run, level in shown:
    many = len({of.name for of, _ in shown}) > 1
    legend = run.name if many else f'{level}s'
    found = run.level(name, level)
    if bins := found.reliability:
      diagrams[legend] = (run.series, level, _points(bins))
    bins = calibrated(found).reliability
    if bins and level == 'video' and not many:
      diagrams[f'{legend}, rescaled'] = (run.series + 1, level, _points(bins))
  return diagrams


def _risks(
  shown: Sequence[tuple[Run, str]], name: str
) -> list[tuple[str, int, str, list[tuple[float, float]], tuple[float, float]]]:
  """Lines of the selective-risk curves; of no run that was evaluated before there were any."""
  many = len({run.name for run, _ in shown}) > 1
  lines = []
  for run, level in shown:
    found = run.level(name, level)
    if points := [(point.coverage, point.risk) for point in found.risk_coverage]:
      at_band = found.metric('coverage').value, 1 - found.metric('selective_accuracy').value
      lines.append((run.name if many else f'{level}s', run.series, level, points, at_band))
  return lines


def _points(bins: Sequence[Bin]) -> list[tuple[float, float]]:
  return [(part.mean_score, part.fake_share) for part in bins]


def _robustness(
  runs: Sequence[Run], name: str, key: str, keys: Sequence[str]
) -> list[tuple[str, Any]]:
  """A drawing for each perturbation of `keys`, which some run was tested with."""
  tested = {run.name: run.results.robustness.get(name, {}) for run in runs}
  levels = LEVELS if len(runs) == 1 else LEVELS[:1]
  lines: dict[str, list[Any]] = {part: [] for part in keys}
  parameters: dict[str, dict[int, Any]] = {}
  for part in keys:
    every = [step for of_run in tested.values() for step in of_run.get(part, [])]
    # Of each level that any run was tested at, in order; the first run's where they differ.
    parameters[part] = {
      step.level: step.parameter for step in sorted(reversed(every), key=lambda step: step.level)
    }
    for run in runs:
      if not (steps := tested[run.name].get(part)):
        continue
      for level in levels:
        of_step = {step.level: interval(step.at(level), 'auroc') for step in steps}
        points = [run.value(name, level, 'auroc')]
        points += [of_step.get(at, (math.nan,) * 3) for at in parameters[part]]
        legend = run.name if len(runs) > 1 else f'{level}s'
        lines[part].append((legend, run.series, level, points))
  values = [x for part in lines.values() for line in part for point in line[3] for x in point]
  lowest = min((x for x in values if math.isfinite(x)), default=_CHANCE)
  limits = (max(0.0, min(0.45, lowest - 0.03)), 1.01)
  return [
    (part, panels.robustness_curve(
      name, part, *_titles(part), lines[part], parameters[part], limits, key=f'{key}-r{i}'
    ))
    for i, part in enumerate(keys)
  ]  # fmt: skip


def _titles(key: str) -> tuple[str, str]:
  """Title and unit of a perturbation, also of one that the catalogue does not hold."""
  of_video = perturbations.WHOLE_VIDEO.get(key)
  known = perturbations.CATALOGUE.get(of_video or key)
  title = known.title if known else key
  if of_video or key.isupper():
    where = ', whole video' if of_video and of_video != key else ''
    title = f'{of_video or key}{where}: {title}'
  return title, known.unit if known else 'parameter'


def _groups(run: Run, name: str, *, many: bool) -> list[dict[str, Any]]:
  """A table for each column whose values were measured apart."""
  groups = run.results.sets[name].groups
  keys = [(key, title) for key, title, _ in HEADLINES]
  return [
    {
      'title': f'By {column}' + (f': {style.clean(run.name)}' if many else ''),
      'column': style.clean(column),
      'heads': [title for _, title in keys],
      'rows': [
        {
          'value': style.clean(value) or '(empty)',
          'count': f'{levels.video.num_real:,} + {levels.video.num_fake:,}',
          'cells': [cell(interval(levels.video, key)) for key, _ in keys],
        }
        for value, levels in values.items()
      ],
    }
    for column, values in groups.items()
  ]


def _all_metrics(run: Run, name: str, *, many: bool) -> dict[str, Any]:
  """Every metric of a set at both levels, then those of the rescaled probabilities."""
  rows = []
  for suffix, part in (('', lambda found: found), (', rescaled', calibrated)):
    of_level = [part(run.level(name, level)) for level in LEVELS]
    keys = dict.fromkeys(key for found in of_level for key in found.metrics)
    rows += [
      (catalogue.metric(key).long + suffix, *(cell(interval(found, key)) for found in of_level))
      for key in keys
    ]
  return {'title': 'Every metric' + (f': {style.clean(run.name)}' if many else ''), 'rows': rows}


def _mistakes(run: Run, name: str, *, many: bool) -> list[dict[str, Any]]:
  """Thumbnails, those of videos that were called wrong before frames of videos called right."""
  found = pictures.mistakes(run, name)
  suffix = f': {style.clean(run.name)}' if many else ''
  what = plain.noun(run, name)
  single = 'Single frames' if what == 'videos' else 'Those'
  titles = {
    ('real', True): f'Real {what} called fake',
    ('fake', True): f'Fake {what} called real',
    ('real', False): f'{single} that look fake, of real {what} called right',
    ('fake', False): f'{single} that look real, of fake {what} called right',
  }
  return [
    {
      'title': titles[kind] + suffix,
      'kind': kind[0],
      'has_video_score': what == 'videos',
      'faces': items,
    }
    for kind, items in found.items()
    if items
  ]


def _videos(run: Run, name: str, *, many: bool) -> dict[str, Any]:
  """Every video with its score and verdict: those called wrong first, the furthest off on top.

  Those without a label follow, the highest score on top.
  """
  threshold, unlabelled = run.threshold('video'), run.unlabelled[name]
  table = pd.concat([run.videos[name], unlabelled], ignore_index=True)
  has_label = np.arange(len(table)) < len(run.videos[name])
  has_verdict = math.isfinite(threshold)
  called = table['score'] >= threshold
  is_wrong = has_label & (called != (table['label'] == 1)) & has_verdict
  by_score = ~has_label | (not has_verdict)
  urgency = np.where(by_score, table['score'], (table['score'] - threshold).abs())
  order = np.lexsort((table['video_id'], -urgency, ~is_wrong, ~has_label))
  rows = [
    {
      'video': style.clean(row.video_id),
      'truth': {0: 'real', 1: 'fake'}.get(row.label, '–'),
      'score': number(row.score),
      'verdict': ('fake' if row.score >= threshold else 'real') if has_verdict else '–',
      'is_wrong': bool(wrong),
      'frames': f'{row.num_frames:,}',
    }
    for row, wrong in zip(
      table.iloc[order[:MAX_ROWS]].itertuples(), is_wrong.iloc[order[:MAX_ROWS]], strict=True
    )
  ]
  what = plain.noun(run, name)
  title = f'All {what}: score and verdict' + (f': {style.clean(run.name)}' if many else '')
  left_out = ''
  if len(table) > MAX_ROWS:
    left_out = (
      f'The first {MAX_ROWS:,} of {len(table):,} are shown, those called wrong first; all are in'
      f' scores/{name}.parquet.'
    )
  counts = []
  if has_verdict and has_label.any():
    counts.append(f'{int(is_wrong.sum()):,} of {int(has_label.sum()):,} called wrong')
  if has_verdict and len(unlabelled):
    alarms = int((unlabelled['score'] >= threshold).sum())
    counts.append(f'{alarms:,} of {len(unlabelled):,} without a label called fake')
  return {
    'title': title,
    'head': what.capitalize(),
    'about': '; '.join(counts),
    'is_open': not has_label.any(),  # There is nothing else to see of such a set.
    'rows': rows,
    'left_out': left_out,
  }
