"""Tables of paired differences: every row with its interval, and its difference from one row.

`fair.json` and `fair.md` are those of a fair comparison, `paired.json` and `paired.md` those of a
named sweep. They hold what the runs compute; wall times stand in `report.md` alone.
"""

import io
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from masm_jax import files as json_files
from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import catalogue, paired, scores, summary, text_tables
from masm_jax.metrics.clusters import make_clusters
from masm_jax.sweep import table
from masm_jax.sweep.plan import Progress, Run, Sweep

_ROW = ['path', 'video_id', 'label']  # What makes two rows of score tables the same example.


def make(
  sweep: Sweep,
  chosen: Mapping[str, Mapping[str, Any]],
  *,
  reference: str,
  recipe: str,
  ends: Collection[str] = (),
) -> dict[str, Any]:
  """What the finished runs computed, with paired intervals.

  Args:
    sweep: the final one; rows without a finished run are left out.
    chosen: row -> what its search chose; empty without a search.
    reference: row that the others are held against.
    recipe: `equal` or `published`; '' for a named sweep.
    ends: rows whose learning rate is an end of its grid.

  Returns:
    JSON types: those of `table.make_table`, with `recipe`, `reference`, `bootstrap` and `clusters`
    (set -> unit, number); each row has `chosen`, `rate_at_end` and `paired`, `{set: {level:
    {metric: entry}}}` of `metrics.paired.entries`. A difference is over the seeds that both rows
    have finished.

  Raises:
    UserError: the reference has no finished run, or runs have scored different rows.
  """
  document = table.make_table(sweep)
  rows = {row['row']: row for row in document['rows'] if row['seeds_done']}
  if reference not in rows:
    raise UserError(f'no run of the reference {reference!r} has finished: there is no table')
  settings = summary.Settings()
  names = [name for name in rows[reference]['sets'] if name != 'val']
  clusters: dict[str, Any] = {}
  for row in rows.values():
    row |= {'chosen': dict(chosen.get(row['row'], {})), 'rate_at_end': row['row'] in ends}
    row['paired'] = {}
  for name in names:
    by_level, clusters[name] = _compare(sweep, list(rows), name, reference, settings)
    for level, entries in by_level.items():
      for row, found in entries.items():
        shown = {metric: found[metric] for metric in scores.SHOWN}
        rows[row]['paired'].setdefault(name, {})[level] = shown
  return json_files.to_json(
    document
    | {
      'recipe': recipe,
      'reference': reference,
      'bootstrap': {
        'draws': settings.draws, 'confidence': settings.confidence, 'seed': settings.seed
      },
      'clusters': clusters,
      'rows': list(rows.values()),
    }
  )  # fmt: skip


def _compare(
  sweep: Sweep, rows: list[str], name: str, reference: str, settings: summary.Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Entries of one set by level, row and metric; its clusters' unit and number."""
  first: pd.DataFrame | None = None
  point: dict[str, dict[str, dict]] = {level: {} for level in scores.LEVELS}
  draws: dict[str, dict[str, dict]] = {level: {} for level in scores.LEVELS}
  for row in rows:
    for run in _finished(sweep, row):
      path = run.workdir / 'scores' / 'best' / f'{name}.parquet'
      scored = scores.labelled(scores.read_scores(path, of={'set': name}))
      if first is None:
        first = scored
        clusters = make_clusters(scored, settings.unit)
      if not first[_ROW].equals(scored[_ROW]):
        raise UserError(f'{run.workdir}: it scored other rows of {name} than the runs before it')
      for level in scores.LEVELS:
        part = scored if level == 'frame' else metrics.video_scores(scored, settings.video_score)
        values = metrics.binary_metrics(part['label'], part['score'], name=None)
        point[level].setdefault(row, {})[run.seed] = values
        drawn = summary.draw_metrics(part, clusters, settings, float('nan'))
        shown = {key: drawn[key] for key in scores.SHOWN}
        draws[level].setdefault(row, {})[run.seed] = shown
  made = {
    level: {
      row: _entries(point[level], draws[level], row, reference, settings.confidence)
      for row in point[level]
    }
    for level in scores.LEVELS
  }
  return made, {'unit': clusters.unit, 'number': clusters.num}


def _entries(
  point: Mapping[str, Mapping[int, Any]],
  draws: Mapping[str, Mapping[int, Any]],
  row: str,
  reference: str,
  confidence: float,
) -> dict[str, Any]:
  """One row's entries by metric: its value over all its seeds, its difference over shared ones."""

  def of(names: Sequence[str], seeds: Sequence[int], base: str) -> dict[str, Any]:
    return paired.entries(
      {name: [point[name][seed] for seed in seeds] for name in names},
      {name: [draws[name][seed] for seed in seeds] for name in names},
      reference=base,
      confidence=confidence,
    )[row]

  made = of([row], list(point[row]), row)
  shared = [seed for seed in point[row] if seed in point[reference]]
  if row != reference and shared:
    differences = of([row, reference], shared, reference)
    for metric, entry in made.items():
      entry['difference'] = differences[metric]['difference']
  return made


def _finished(sweep: Sweep, row: str) -> list[Run]:
  return [run for run in sweep.runs_of(row) if run.progress() is Progress.FINISHED]


def to_markdown(
  document: Mapping[str, Any],
  *,
  metric: str = 'auroc',
  level: str = 'video',
  speed: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
  """The table for people: two columns per test set, the value and the difference.

  Args:
    document: from `make`.
    metric: auroc, ap or eer.
    level: frame or video.
    speed: from `table.make_speed`, for a column of images/s.
  """
  reference = document['reference']
  names = list(document['clusters'])
  header = ['row']
  for name in names:
    shown = text_tables.markdown(name)
    header += [shown, f'{shown}, minus {text_tables.markdown(reference)}']
  searched = any(row['chosen'] for row in document['rows'])
  header += ['chosen'] if searched else []
  header += ['trained', 'GFLOP/step'] + ([] if speed is None else ['images/s'])
  lines = []
  for row in document['rows']:
    line = [table.shown_name(row, document)]
    for name in names:
      entry = row['paired'][name][level][metric]
      line += [
        _interval(entry),
        _interval(entry['difference'], '+') if 'difference' in entry else '',
      ]
    chosen = ', '.join(f'{k.rpartition(".")[2]} {v}' for k, v in row['chosen'].items())
    chosen += ' (an end of its grid)' if row['rate_at_end'] else ''
    line += [text_tables.markdown(chosen)] if searched else []
    line += [
      f'{row["trainable_parameters"]:,}',
      '-' if row['cost'] is None else f'{row["cost"]["train_step_gflop"]:.2f}',
    ]
    if speed is not None:
      rates = list(speed[row['row']].values())
      line.append(f'{statistics.median(rates):.0f}' if rates else '-')
    lines.append(line)
  text = io.StringIO()
  seeds = ', '.join(map(str, document['seeds']))
  units = ', '.join(
    f'{name} {c["number"]} ({c["unit"]})' for name, c in document['clusters'].items()
  )
  bootstrap = document['bootstrap']
  recipe = f' Recipe: {document["recipe"]}.' if document['recipe'] else ''
  print(
    f'{catalogue.metric(metric).long}, {level} level, checkpoint chosen on validation data, mean'
    f' over seeds {seeds} [{bootstrap["confidence"]:.0%} interval of {bootstrap["draws"]} paired'
    f' bootstrap draws over clusters: {units}].{recipe}\n',
    file=text,
  )
  print('\n'.join(text_tables.markdown_table(header, lines)), file=text)
  fields = ', '.join(f'`{name}={value}`' for name, value in document['fields'].items())
  print(f'\nBase: `{document["base"]}`{" with " if fields else ""}{fields}.', file=text)
  if 'note' in document:
    print(f'\n*{document["note"]}*', file=text)
  return text.getvalue()


def _interval(entry: Mapping[str, Any], sign: str = '') -> str:
  value, low, high = (float(entry[key]) for key in ('value', 'low', 'high'))
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'


def write(
  sweep: Sweep,
  chosen: Mapping[str, Mapping[str, Any]],
  *,
  ends: Collection[str],
  reference: str,
  recipe: str,
  metric: str,
  level: str,
) -> str:
  """Writes `fair.json`, `fair.md`, `report.md` and `speed.json`; returns the text of the report.

  Raises:
    UserError: see `make`.
  """
  document = make(sweep, chosen, reference=reference, recipe=recipe, ends=ends)
  speed = table.make_speed(sweep)
  report = to_markdown(document, metric=metric, level=level, speed=speed)
  folder: pathlib.Path = sweep.workdir
  telemetry.write_json(folder / 'fair.json', document)
  telemetry.write_json(folder / 'speed.json', speed)
  json_files.write_text(folder / 'fair.md', to_markdown(document, metric=metric, level=level))
  json_files.write_text(folder / 'report.md', report)
  return report


def write_paired(sweep: Sweep, *, reference: str, metric: str, level: str) -> str:
  """Writes `paired.json` and `paired.md` of a named sweep; returns the text of the second.

  Raises:
    UserError: see `make`.
  """
  document = make(sweep, {}, reference=reference, recipe='')
  text = to_markdown(document, metric=metric, level=level)
  telemetry.write_json(sweep.workdir / 'paired.json', document)
  json_files.write_text(sweep.workdir / 'paired.md', text)
  return text
