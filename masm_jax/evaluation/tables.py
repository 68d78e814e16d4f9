"""The tables of a comparison: Markdown, LaTeX and CSV, each with intervals."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masm_jax.evaluation import published
from masm_jax.metrics import catalogue, metric_tables, scores, text_tables

_NOT_AVAILABLE = 'not available'
_CSV_COLUMNS = (
  *('kind', 'level', 'metric', 'set', 'method', 'value', 'low', 'high', 'std_over_seeds', 'seeds'),
  *('reference', 'difference', 'difference_low', 'difference_high', 'source'),
)


def markdown(comparison: Mapping[str, Any], metrics: Sequence[str]) -> str:
  """Two tables per level and metric: values, and differences from the reference.

  Args:
    comparison: from `compare.compare`.
    metrics: names of metrics.
  """
  name = text_tables.markdown
  parts = ['\n\n'.join(['# Comparison', *_legend(comparison, name)])]
  for title, header, rows in _tables(comparison, metrics, name):
    parts.append('\n'.join([f'## {title}\n', *text_tables.markdown_table(header, rows)]))
  if comparison['warnings']:
    lines = [f'- {name(line)}' for line in _warnings(comparison)]
    parts.insert(1, '## Warnings\n\n' + '\n'.join(lines))
  return '\n\n'.join(parts) + '\n'


def latex(comparison: Mapping[str, Any], metrics: Sequence[str]) -> str:
  """The same tables for LaTeX, with the package booktabs; see `markdown`."""
  comments = [*_legend(comparison, str), *(f'WARNING {line}' for line in _warnings(comparison))]
  parts = [f'% {text_tables.one_line(line)}' for line in comments]
  escape = text_tables.latex
  for title, header, rows in _tables(comparison, metrics, str):
    body = '\n'.join(f'  {" & ".join(map(escape, row))} \\\\' for row in rows)
    parts.append(
      f'\\begin{{table}}\n  \\centering\n  \\caption{{{escape(title)}}}\n'
      f'  \\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}\n  \\toprule\n'
      f'  {" & ".join(map(escape, header))} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n'
      '  \\end{tabular}\n\\end{table}'
    )
  return '\n'.join(parts) + '\n'


def csv_table(comparison: Mapping[str, Any]) -> str:
  """Every value of every metric, a line each; published ones with kind `published`."""
  text = io.StringIO()
  writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator='\n')
  writer.writeheader()
  for name, levels in comparison['metrics'].items():
    for level, methods in levels.items():
      for method, values in methods.items():
        for metric, entry in values.items():
          difference = entry.get('difference')
          row = {
            'kind': 'measured',
            'level': level,
            'metric': metric,
            'set': text_tables.csv(name),
            'method': text_tables.csv(method),
            **{key: entry[key] for key in ('value', 'low', 'high')},
            'std_over_seeds': entry['std'],
            'seeds': len(entry['seeds']),
          }
          if difference:
            row |= {
              'reference': text_tables.csv(comparison['reference']),
              'difference': difference['value'],
              'difference_low': difference['low'],
              'difference_high': difference['high'],
            }
          writer.writerow(row)
  for level in scores.LEVELS:
    for row in published.rows_for(level, list(comparison['metrics'])):
      for name in comparison['metrics']:
        if name in row.auroc:
          writer.writerow(
            {'kind': 'published', 'level': level, 'metric': 'auroc', 'set': name,
             'method': row.method, 'value': row.auroc[name], 'source': row.source}
          )  # fmt: skip
  return text.getvalue()


def _legend(comparison: Mapping[str, Any], name: Callable[[str], str]) -> list[str]:
  """Paragraphs; `name` writes a text in the table's language."""
  bootstrap = comparison['bootstrap']
  units = [f'{name(of)}: {c["number"]} by {c["unit"]}' for of, c in comparison['clusters'].items()]
  text = (
    f'[a, b]: {100 * bootstrap["confidence"]:g} % percentile bootstrap, {bootstrap["draws"]} draws'
    f' of clusters ({", ".join(units)}). Differences'
    f' are paired: the same draws for every method, less {name(comparison["reference"])}; * where'
    ' the interval leaves out 0, not corrected for the number of comparisons. A video is scored by'
    f' the {comparison["video_score"]} of its frames.'
  )
  if any(len(method['seeds']) > 1 for method in comparison['methods'].values()):
    text += ' ±: standard deviation over seeds, whose mean is shown.'
  return [text, *map(name, comparison['notes'])]


def _warnings(comparison: Mapping[str, Any]) -> list[str]:
  every = len(comparison['methods'])
  return [
    f'{"all" if len(w["methods"]) == every else ", ".join(w["methods"])}: {w["text"]}'
    for w in comparison['warnings']
  ]


def _tables(
  comparison: Mapping[str, Any], metrics: Sequence[str], name: Callable[[str], str]
) -> list[tuple[str, list[str], list[list[str]]]]:
  """(title, header, rows) of every table; `name` writes a text in the table's language."""
  sets, reference = list(comparison['metrics']), comparison['reference']
  header = ['method', *map(name, sets)]
  tables = []
  for level in scores.LEVELS:
    for metric in metrics:
      title = f'{catalogue.metric(metric).short}, {level} level'
      rows, differences = [], []
      for method in comparison['methods']:
        entries = [comparison['metrics'][of][level][method][metric] for of in sets]
        rows.append([name(method), *map(_cell, entries)])
        if method != reference:
          shown = [_difference(entry['difference']) for entry in entries]
          differences.append([name(method), *shown])
      if metric == 'auroc':
        rows += _published(level, sets)
      tables.append((title, header, rows))
      tables.append((f'{title}: difference from {name(reference)}', header, differences))
  return tables


def _published(level: str, sets: list[str]) -> list[list[str]]:
  rows = published.rows_for(level, sets)
  if not rows:
    return []
  mark = 'PUBLISHED, other pipelines, not comparable:'
  lines = [[mark, *([''] * len(sets))]]
  for row in rows:
    empty = '' if row.auroc else _NOT_AVAILABLE
    cells = [f'{row.auroc[name]:.3f}' if name in row.auroc else empty for name in sets]
    lines.append([f'{row.method} ({level} level; {row.source})', *cells])
  return lines


def _cell(entry: Mapping[str, Any]) -> str:
  spread = '' if math.isnan(entry['std']) else f' ± {entry["std"]:.3f}'
  value, space, interval = metric_tables.format_interval(entry).partition(' ')
  return f'{value}{spread}{space}{interval}'


def _difference(entry: Mapping[str, float]) -> str:
  text = f'{entry["value"]:+.3f}'
  if math.isnan(entry['low']):
    return text
  star = ' *' if entry['low'] > 0 or entry['high'] < 0 else ''
  return f'{text} [{entry["low"]:+.3f}, {entry["high"]:+.3f}]{star}'
