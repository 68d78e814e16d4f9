"""The table of a sweep: mean, spread and interval over seeds, parameters, operations, speed.

`table.json`, `table.csv` and `table.md` hold what the runs compute: the same sweep gives the same
bytes on the same machine, whether it was interrupted or not. Images/s is a wall time, which no two
runs share: it stands in `speed.json`, and beside the rest only in `report.md`.
"""

import io
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from masm_jax import files as json_files
from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.metrics import catalogue, scores, text_tables
from masm_jax.sweep.cost import read_cost
from masm_jax.sweep.plan import Progress, Run, Sweep
from masm_jax.sweep.schema import Levels, Results
from masm_jax.telemetry.writer import PERF_FILE

CONFIDENCE = 0.95
METRICS = scores.SHOWN
CHECKPOINTS = ('best', 'last')
_MAX_RATE = 1e12  # Images/s: what lies above, or is no number, is a damaged line.


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
  """Mean, standard deviation and interval of a metric over seeds.

  Args:
    values: one per seed.

  Returns:
    `n`; `mean`; `sd`, of the sample (n - 1); `low` and `high`, the 95 % interval of the mean by
    Student's t with n - 1 degrees of freedom: mean +- t sd / sqrt(n). It takes the seeds' metrics
    for draws from one normal distribution, says nothing of other data, and may leave [0, 1]. nan
    where there are too few seeds. `values` themselves.
  """
  n = len(values)
  mean = math.fsum(values) / n if n else math.nan
  sd = float(np.std(values, ddof=1)) if n > 1 else math.nan
  if n > 1 and math.isfinite(sd):
    half = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * sd / math.sqrt(n)
  else:
    half = math.nan
  return {
    'n': n, 'mean': mean, 'sd': sd, 'low': mean - half, 'high': mean + half,
    'values': list(values),
  }  # fmt: skip


def make_table(sweep: Sweep, *, checkpoint: str = 'best') -> dict[str, Any]:
  """Everything that the sweep's finished runs computed.

  Args:
    sweep: with any number of finished runs.
    checkpoint: `best` (chosen on validation data) or `last`.

  Returns:
    `sweep`, `about`, `base`, `fields`, `seeds`, `checkpoint`, `interval`, `note` where the data are
    synthetic; `rows`: name, changed `fields`, `seeds_done`, `trainable_parameters`, `cost` (None
    before it was counted) and `sets`: `{set: {level: {metric: over_seeds}}}`. Plain JSON types,
    without times and directories.
  """
  rows = []
  notes: set[str] = set()
  hashes: dict[str, str] = {}
  for name, fields in sweep.rows.items():
    finished = [(run, found) for run in sweep.runs_of(name) if (found := run.results())]
    results = [result for _, result in finished]
    notes |= {result.note for result in results if result.note}
    for run, result in finished:
      _check_alike(hashes, run, result)
    rows.append(
      {
        'row': name,
        'fields': dict(fields),
        'seeds_done': [run.seed for run, _ in finished],
        'trainable_parameters': results[0].trainable_parameters if results else None,
        'cost': read_cost(sweep, name),
        'sets': _metrics([result.scored(checkpoint).sets for result in results], _set_names(sweep)),
      }
    )
  document = {
    'sweep': sweep.name,
    'about': sweep.about,
    'base': sweep.base,
    'fields': dict(sweep.fields),
    'seeds': list(sweep.seeds),
    'checkpoint': checkpoint,
    'interval': f"{CONFIDENCE:.0%} interval of the mean, Student's t",
  }
  if notes:
    document['note'] = ' '.join(sorted(notes))
  return json_files.to_json(document | {'rows': rows})


def _check_alike(hashes: dict[str, str], run: Run, result: Results) -> None:
  """Refuses a run on other weights or data than those before it; notes its own in `hashes`.

  What a run was given by a path may change under that path, and weights and test sets may change
  between two commands of one sweep.
  """
  for name, found in result.hashes.items():
    if hashes.setdefault(name, found) != found:
      raise UserError(
        f'{run.workdir}: its {name} (hash {found[:12]}) differs from the runs before it '
        f'({hashes[name][:12]}): such runs make no table; delete the outdated ones and run it again'
      )


def _set_names(sweep: Sweep) -> set[str]:
  """The sets of the table: those that every finished run has."""
  tests = sweep.runs[0].config.data.tests
  return {'val', *(name for name, spec in tests.items() if spec.manifest)}


def _metrics(results: Sequence[Mapping[str, Levels]], names: Collection[str]) -> dict[str, Any]:
  """`{set: {level: {metric: over_seeds}}}` of one row's runs."""
  return {
    name: {
      level: {
        metric: over_seeds([result[name].value(level, metric) for result in results])
        for metric in METRICS
      }
      for level in scores.LEVELS
    }
    for name in (results[0] if results else ())
    if name in names
  }


def make_speed(sweep: Sweep) -> dict[str, Any]:
  """Images/s of every run, by row: wall times, which no two runs share.

  A run's time is the median over the second half of its log, compilation thus left out.
  """
  return {
    name: {run.name: speed for run in sweep.runs_of(name) if (speed := _speed(run)) is not None}
    for name in sweep.rows
  }


def _speed(run: Run) -> float | None:
  path = run.workdir / PERF_FILE
  lines = telemetry.read_lines(path) if path.is_file() else []
  found = [line.get('train/images_per_second') for line in lines]
  rates = [rate for rate in found if isinstance(rate, int | float) and 0 <= rate <= _MAX_RATE]
  return statistics.median(rates[len(rates) // 2 :]) if rates else None


def to_markdown(
  table: Mapping[str, Any],
  *,
  metric: str = 'auroc',
  level: str = 'video',
  speed: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
  """The table for people: a line per row, a column per test set.

  Args:
    table: from `make_table`.
    metric: auroc, ap or eer.
    level: frame or video.
    speed: from `make_speed`, for a column of images/s.

  Returns:
    Markdown, ending with a line break.
  """
  sets = list(dict.fromkeys(name for row in table['rows'] for name in row['sets'] if name != 'val'))
  header = [*map(text_tables.markdown, (table['sweep'], *sets)), 'trained', 'GFLOP/step']
  lines = [[shown_name(row, table), *(_cell(row, name, level, metric) for name in sets),
            _count(row['trainable_parameters']), _gflop(row['cost'])]
           for row in table['rows']]  # fmt: skip
  if speed is not None:
    header.append('images/s')
    for line, row in zip(lines, table['rows'], strict=True):
      rates = list(speed[row['row']].values())
      line.append(f'{statistics.median(rates):.0f}' if rates else '-')
  text = io.StringIO()
  seeds = ', '.join(map(str, table['seeds']))
  print(
    f'{catalogue.metric(metric).long}, {level} level, {_checkpoint(table)}: mean ± standard'
    f' deviation over seeds {seeds} [{table["interval"]}].\n',
    file=text,
  )
  print('\n'.join(text_tables.markdown_table(header, lines, is_aligned=True)), file=text)
  print(f'\n{table["about"]}', file=text)
  print(_base(table), file=text)
  if 'note' in table:
    print(f'\n*{table["note"]}*', file=text)
  return text.getvalue()


def shown_name(row: Mapping[str, Any], table: Mapping[str, Any]) -> str:
  """A row for people; it says so where seeds are missing."""
  done, wanted = len(row['seeds_done']), len(table['seeds'])
  name = text_tables.markdown(row['row'])
  return name if done == wanted else f'{name} ({done} of {wanted} seeds)'


def _cell(row: Mapping[str, Any], name: str, level: str, metric: str) -> str:
  if name not in row['sets']:
    return '-'
  spread = {key: value if key == 'values' else float(value)
            for key, value in row['sets'][name][level][metric].items()}  # fmt: skip
  text = f'{spread["mean"]:.3f}'
  if spread['n'] > 1:
    text += f' ± {spread["sd"]:.3f} [{spread["low"]:.3f}, {spread["high"]:.3f}]'
  return text


def _count(value: int | None) -> str:
  return '-' if value is None else f'{value:,}'


def _gflop(cost: Mapping[str, Any] | None) -> str:
  return '-' if cost is None else f'{cost["train_step_gflop"]:.2f}'


def _checkpoint(table: Mapping[str, Any]) -> str:
  chosen = table['checkpoint'] == 'best'
  return 'checkpoint chosen on validation data' if chosen else 'last step'


def _base(table: Mapping[str, Any]) -> str:
  fields = ', '.join(
    f'`{name}={tuple(value) if isinstance(value, list) else value}`'
    for name, value in table['fields'].items()
  )
  return f'Base: `{table["base"]}`{" with " if fields else ""}{fields}.'


def to_csv(table: Mapping[str, Any]) -> str:
  """A line per row, set, level and metric, for programs: metrics in full precision."""
  records = [
    {
      'sweep': table['sweep'], 'row': row['row'], 'set': name, 'level': level, 'metric': metric,
      **{key: spread[key] for key in ('n', 'mean', 'sd', 'low', 'high')},
      'trainable_parameters': row['trainable_parameters'],
      'train_step_gflop': (row['cost'] or {}).get('train_step_gflop'),
    }
    for row in table['rows']
    for name, levels in row['sets'].items()
    for level, metrics in levels.items()
    for metric, spread in metrics.items()
  ]  # fmt: skip
  return pd.DataFrame(records).to_csv(index=False, lineterminator='\n')


def check_any_finished(sweep: Sweep) -> None:
  """Raises a UserError where there is nothing to make a table of."""
  if all(run.progress() is not Progress.FINISHED for run in sweep.runs):
    raise UserError(f'no run of the sweep in {sweep.workdir} has finished: there is no table')


def write_tables(
  sweep: Sweep, *, checkpoint: str = 'best', metric: str = 'auroc', level: str = 'video'
) -> str:
  """Writes `table.{json,csv,md}`, `speed.json` and `report.md`; returns the text of the last.

  Raises:
    UserError: no run has finished, or a file cannot be written.
  """
  check_any_finished(sweep)
  table = make_table(sweep, checkpoint=checkpoint)
  speed = make_speed(sweep)
  report = to_markdown(table, metric=metric, level=level, speed=speed)
  report += (
    '\nGFLOP/step: of the compiled train step, whole batch (fmsd: as if its probe chose the '
    'deepest layers). images/s: median over seeds, a wall time, which depends on the machine and '
    'on what else it does.\n'
  )
  try:
    telemetry.write_json(sweep.workdir / 'table.json', table)
    telemetry.write_json(sweep.workdir / 'speed.json', speed)
    for name, text in (
      ('table.csv', to_csv(table)),
      ('table.md', to_markdown(table, metric=metric, level=level)),
      ('report.md', report),
    ):
      json_files.write_text(sweep.workdir / name, text)
  except OSError as error:
    raise UserError(f'cannot write the table to {sweep.workdir}: {error.strerror}') from error
  return report
