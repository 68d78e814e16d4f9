"""Tables of metrics as a command prints them."""

from collections.abc import Mapping, Sequence
from typing import Any

from masm_jax.metrics import catalogue, text_tables
from masm_jax.metrics.scores import LEVELS, SHOWN, Metrics, SetMetrics


def format_table(results: Mapping[str, SetMetrics]) -> str:
  """The printed table of one run: a row per data set, frame and video level side by side.

  Args:
    results: `{data set: {'frame': metrics, 'video': metrics}}`, from `summarize` or read back from
      JSON (where nan is the string 'nan').

  Returns:
    Aligned plain text that ends without a line break; the same results give the same text.
  """
  columns = (*((catalogue.metric(key).short, key) for key in SHOWN), ('n', 'num'))
  header = ['data set']
  for _ in LEVELS:
    header += [title for title, _ in columns]
  rows = [
    [name, *(_cell(levels.get(level, {}), key) for level in LEVELS for _, key in columns)]
    for name, levels in results.items()
  ]
  half = len(columns)
  lines = text_tables.align([header, *rows], group=half)
  widths = text_tables.column_widths([header, *rows])
  spans = [sum(widths[1 + i * half : 1 + (i + 1) * half]) + 2 * (half - 1) for i in range(2)]
  groups = [
    ' ' * widths[0],
    *(f' {level} '.center(span, '-') for level, span in zip(LEVELS, spans, strict=True)),
  ]
  return '\n'.join(['   '.join(groups), *lines])


def format_intervals(results: Mapping[str, Any], metrics_shown: Sequence[str] = SHOWN) -> str:
  """The printed table of an evaluation: per data set and level, metrics with their intervals.

  Args:
    results: `sets` of an evaluation's `results.json`.
    metrics_shown: names of its metrics.

  Returns:
    Aligned plain text that ends without a line break.
  """
  header = ['data set', 'level', *(catalogue.metric(key).short for key in metrics_shown), 'n']
  rows = [
    [
      name,
      level,
      *(format_interval(levels[level]['metrics'][metric]) for metric in metrics_shown),
      str(levels[level]['num']),
    ]
    for name, levels in results.items()
    for level in LEVELS
  ]
  return '\n'.join(text_tables.align([header, *rows]))


def format_calibration(results: Mapping[str, Any], names: Sequence[str]) -> str:
  """The printed table of what a temperature changes: per data set and level, before and after.

  Args:
    results: `sets` of an evaluation's `results.json`, made with a temperature.
    names: of the metrics.

  Returns:
    Aligned plain text that ends without a line break.
  """
  header = ['data set', 'level', *(catalogue.metric(key).short for key in names)]
  rows = [
    [
      name,
      level,
      *(
        ' -> '.join(f'{float(part["metrics"][metric]["value"]):.3f}' for part in (before, after))
        for metric in names
      ),
    ]
    for name, levels in results.items()
    for level, before, after in ((k, levels[k], levels[k]['calibrated']) for k in LEVELS)
  ]
  return '\n'.join(text_tables.align([header, *rows]))


def format_interval(entry: Metrics) -> str:
  """`0.912 [0.884, 0.937]` from `{value, low, high}`, also where nan is text."""
  value, low, high = (float(entry[key]) for key in ('value', 'low', 'high'))
  return f'{value:.3f} [{low:.3f}, {high:.3f}]' if low == low else f'{value:.3f}'


def format_comparison(
  results: Mapping[str, Mapping[str, SetMetrics]], metric: str = 'auroc', level: str = 'video'
) -> str:
  """Several methods on the same data sets: a row per method, a column per data set.

  Args:
    results: `{method: {data set: {'frame': metrics, 'video': metrics}}}`.
    metric: a key of `metrics.binary_metrics`.
    level: 'frame' or 'video'.

  Returns:
    Aligned plain text under a line that names metric and level. Columns come in the order in which
    the data sets are first met; `-` stands where a method has no metric for a set.
  """
  names = list(dict.fromkeys(name for sets in results.values() for name in sets))
  header = ['method', *names]
  rows = [
    [method, *(_cell(sets.get(name, {}).get(level, {}), metric) for name in names)]
    for method, sets in results.items()
  ]
  title = f'{catalogue.metric(metric).short}, {level} level'
  return '\n'.join([title, *text_tables.align([header, *rows])])


def _cell(values: Metrics, key: str) -> str:
  if key not in values:
    return '-'
  # float() also takes the strings that stand for nan and inf in JSON.
  return str(values[key]) if key.startswith('num') else f'{float(values[key]):.4f}'
