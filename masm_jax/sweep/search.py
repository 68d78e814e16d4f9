"""The search of a fair comparison: a grid of learning rates, then each row's own fields.

It sees validation data alone, with one seed; every row's search has equally many runs.
"""

import dataclasses
import math
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.sweep import local
from masm_jax.sweep.plan import Run, Sweep

RATE = 'optim.learning_rate'
FILE = 'search.json'


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table, and what is searched for it.

  Attributes:
    name: of the row.
    fields: what the row is, beside what is searched; `method` among them.
    rates: learning rates, rising.
    own: field -> values, the first of which stands while the rates are searched.
  """

  name: str
  fields: Mapping[str, Any]
  rates: tuple[float, ...]
  own: Mapping[str, tuple[Any, ...]]

  def length(self) -> int:
    """Runs of its search."""
    return len(self.rates) + sum(len(values) - 1 for values in self.own.values())

  def stages(self) -> list[str]:
    """The fields in the order in which they are searched."""
    return [RATE, *self.own]

  def start(self) -> dict[str, Any]:
    """What stands of its own fields before they are searched."""
    return {field: values[0] for field, values in self.own.items()}


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a search.

  Attributes:
    run: of the first seed.
    values: of the searched fields.
    score: the validation metric; -inf where it is undefined, or the run failed.
    reason: why it failed; '' if it did not.
  """

  run: Run
  values: Mapping[str, Any]
  score: float
  reason: str


@dataclasses.dataclass(frozen=True)
class Searched:
  """What came of a search.

  Attributes:
    row: what was searched.
    trials: in the order in which they were run.
  """

  row: Row
  trials: tuple[Trial, ...]

  @property
  def best(self) -> Trial:
    """The highest on validation, the earliest of equals."""
    return max(self.trials, key=lambda trial: trial.score)

  @property
  def is_at_end(self) -> bool:
    """Whether the best learning rate is an end of its grid: beyond it there may be a better one."""
    return self.best.values[RATE] in (self.row.rates[0], self.row.rates[-1])


def load_rows(
  module: types.ModuleType, names: Sequence[str], given: Mapping[str, Any]
) -> list[Row]:
  """The rows to compare.

  Args:
    module: a file like `configs/fair.py`: `ROWS`, name -> `fields`, `rates`, `own`.
    names: of the rows; none for all.
    given: fields that the user sets in every run; none may be searched.

  Raises:
    UserError: an unknown row, a searched field set by hand, or a search that is shorter than
      another's.
  """
  if unknown := [name for name in names if name not in module.ROWS]:
    raise UserError(f'--methods: no row {unknown[0]!r}; there are {", ".join(module.ROWS)}')
  rows = []
  for name in names or module.ROWS:
    entry = module.ROWS[name]
    own = {field: tuple(values) for field, values in entry.get('own', {}).items()}
    rows.append(Row(name, dict(entry['fields']), tuple(entry['rates']), own))
    if taken := [field for field in rows[-1].stages() if field in given]:
      raise UserError(f'--config.{taken[0]}: the search of {name!r} sets it by itself')
  lengths = {row.name: row.length() for row in rows}
  if len(set(lengths.values())) > 1:
    told = ', '.join(f'{name} {length}' for name, length in lengths.items())
    raise UserError(f'the searches differ in length ({told} runs): then one row is tuned more')
  return rows


def run(
  rows: Sequence[Row],
  make: Callable[..., Sweep],
  *,
  workdir: pathlib.Path,
  seed: int,
  jobs: int,
  say: Callable[[str], None],
) -> list[Searched]:
  """Runs every row's search; finished trials are skipped. `search.json` has all of it.

  Args:
    rows: from `load_rows`.
    make: `make(rows, workdir=, seeds=, with_tests=)` resolves runs.
    workdir: of the comparison.
    seed: of the trials.
    jobs: runs at a time.
    say: told of each run.

  Raises:
    UserError: no run of a row's search has finished.
    Stopped: see `local.run_all`.
  """
  found = {row.name: Searched(row, ()) for row in rows}
  for stage in range(max(len(row.stages()) for row in rows)):
    values_of: dict[str, dict[str, Any]] = {}  # By name of the trial.
    owner: dict[str, Row] = {}
    for row in rows:
      for values in _candidates(row, stage, found[row.name]):
        trial = f'{row.name},{_text(values)}'
        values_of[trial], owner[trial] = values, row
    if not values_of:
      continue
    sweep = make(
      {trial: {**owner[trial].fields, **values} for trial, values in values_of.items()},
      workdir=workdir / 'search', seeds=(seed,), with_tests=False,
    )  # fmt: skip
    failed = {failure.run.row: failure.reason
              for failure in local.run_all(sweep.runs, jobs=jobs, say=say)}  # fmt: skip
    for tried in sweep.runs:
      reason = failed.get(tried.row, '')
      score = -math.inf if reason else validation(tried)
      before = found[owner[tried.row].name]
      trials = (*before.trials, Trial(tried, values_of[tried.row], score, reason))
      found[before.row.name] = Searched(before.row, trials)
    telemetry.write_json(workdir / FILE, to_document(list(found.values()), seed))
    for searched in found.values():
      if searched.best.score == -math.inf:
        raise UserError(
          f'{searched.row.name}: no run of its search gave a number; the first: '
          f'{searched.trials[0].reason or "its validation metric is undefined"}'
        )
  return list(found.values())


def _candidates(row: Row, stage: int, found: Searched) -> list[dict[str, Any]]:
  """Values of the searched fields that a stage tries."""
  stages = row.stages()
  if stage >= len(stages):
    return []
  if stage == 0:
    return [{RATE: rate} | row.start() for rate in row.rates]
  field = stages[stage]
  return [dict(found.best.values) | {field: value} for value in row.own[field][1:]]


def _text(values: Mapping[str, Any]) -> str:
  """Searched values as a part of a directory's name."""
  short = {RATE: 'lr'}
  return ','.join(f'{short.get(f, f.rpartition(".")[2])}={value}' for f, value in values.items())


def to_document(found: Sequence[Searched], seed: int) -> dict[str, Any]:
  """The whole search as JSON: every trial with its validation metric, and the choice."""
  return {
    'seed': seed,
    'rows': [
      {
        'row': searched.row.name,
        'fields': dict(searched.row.fields),
        'chosen': dict(searched.best.values) if searched.trials else None,
        'trials': [
          {
            'values': dict(trial.values),
            'validation': trial.score if trial.score > -math.inf else None,
          }
          | ({'failed': trial.reason} if trial.reason else {})
          for trial in searched.trials
        ],
      }
      for searched in found
    ],
  }


def validation(run: Run) -> float:
  """The validation metric that chose the checkpoint of a finished run; -inf where it is none."""
  results = run.results()
  if results is None:
    return -math.inf
  level, _, metric = run.config.eval.select_by.partition('_')
  value = results.best.sets['val'].value(level, metric)
  return value if math.isfinite(value) else -math.inf
