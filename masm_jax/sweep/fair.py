"""A fair comparison: every row is searched as long as every other, then run over seeds.

`search` chooses on validation data, with the first seed. The choice is run with every seed, and
only then is any test set scored: the first seed's run of a choice is the search's own, which then
scores the test sets too.
"""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masm_jax.errors import UserError
from masm_jax.sweep import cost, fair_table, local, plan, search
from masm_jax.sweep.plan import Sweep

# What an equal recipe has in common.
_SHARED = (
  'train.batch_size', 'train.duration', 'data.sampler', 'data.augment', 'optim.schedule',
  'optim.warmup', 'optim.warmup_from', 'optim.final_learning_rate', 'optim.restart_every',
  'optim.clip_norm', 'backbone.name', 'backbone.image_size', 'eval.every', 'eval.select_by',
)  # fmt: skip


def final_sweep(
  found: Sequence[search.Searched], make: Callable[..., Sweep], *, workdir: pathlib.Path,
  seeds: Sequence[int],
) -> Sweep:  # fmt: skip
  """The choices over all seeds; a choice that the search has run resumes in its directory."""
  sweep = make(
    {searched.row.name: dict(searched.row.fields) | dict(searched.best.values)
     for searched in found},
    workdir=workdir, seeds=seeds, with_tests=True,
  )  # fmt: skip
  trials = {searched.row.name: searched.best.run for searched in found}
  runs = tuple(
    dataclasses.replace(run, workdir=trials[run.row].workdir)
    if run.seed == trials[run.row].seed
    else run
    for run in sweep.runs
  )
  return dataclasses.replace(sweep, runs=runs)


def check_equal(sweep: Sweep) -> None:
  """Raises a UserError unless all runs share steps, batches, sampler and schedule."""
  first = sweep.runs[0]
  for run in sweep.runs:
    for name in _SHARED:
      group, _, field = name.rpartition('.')
      values = [one.config[group][field] for one in (first, run)]
      if values[0] != values[1]:
        raise UserError(
          f'{name} is {values[0]!r} for {first.row} and {values[1]!r} for {run.row}: the recipe is'
          f' not equal; give one, --config.{name}=..., or --recipe=published'
        )


def maker(
  base: str,
  fields: Mapping[str, Any],
  *,
  recipe: str,
  more_flags: Sequence[str],
  about: str,
) -> Callable[..., Sweep]:
  """`make` of `search` and `final_sweep`.

  Args:
    base: the protocol's config file, with its arguments.
    fields: set in every run.
    recipe: `equal`, which is checked, or `published`, an argument of the config file.
    more_flags: see `plan.make_sweep`.
    about: of the table.
  """

  def make(
    rows: Mapping[str, Mapping[str, Any]],
    *,
    workdir: pathlib.Path,
    seeds: Sequence[int],
    with_tests: bool,
  ) -> Sweep:
    if recipe == 'published':
      rows = {name: {'recipe': recipe, **changed} for name, changed in rows.items()}
    module = types.SimpleNamespace(
      SWEEPS={'fair': {'about': about, 'rows': rows}}, BASE=base, BASE_FIELDS={}
    )
    sweep = plan.make_sweep(
      module, 'fair', workdir=workdir, seeds=seeds, base=base, fields=fields, more_flags=more_flags
    )
    if recipe == 'equal':
      check_equal(sweep)
    return sweep if with_tests else plan.without_tests(sweep)

  return make


def compare(
  *,
  file: str,
  names: Sequence[str],
  base: str | None,
  fields: Mapping[str, Any],
  workdir: pathlib.Path,
  seeds: Sequence[int],
  recipe: str,
  reference: str,
  jobs: int,
  more_flags: Sequence[str],
  metric: str,
  level: str,
  say: Callable[[str], None],
) -> int:
  """Searches, runs and writes the table; a finished part is not done again.

  Args:
    file: of the rows, see `configs/fair.py`.
    names: of the rows; none for all.
    base: the protocol; None for the file's own.
    fields: set in every run.
    workdir: of the comparison.
    seeds: of the choices; the first one is the search's.
    recipe: `equal`, or `published`, which searches nothing.
    reference: row of the differences.
    jobs: runs at a time.
    more_flags: see `plan.make_sweep`.
    metric: of the printed table.
    level: of the printed table.
    say: told of each run.

  Returns:
    The exit status: 0, 1 if a run failed, 128 + signal.
  """
  module = plan.load_sweeps(file, needed=('ROWS', 'BASE'))
  rows = search.load_rows(module, names, fields)
  if reference not in (row.name for row in rows):
    raise UserError(f'--reference={reference}: it is none of {", ".join(r.name for r in rows)}')
  about = f'Every row is searched by {rows[0].length()} runs on validation data, with one seed.'
  make = maker(base or module.BASE, fields, recipe=recipe, more_flags=more_flags, about=about)
  plan.mark(workdir)
  try:
    if recipe == 'equal':
      found = search.run(rows, make, workdir=workdir, seed=seeds[0], jobs=jobs, say=say)
      chosen = {searched.row.name: dict(searched.best.values) for searched in found}
      ends = [searched.row.name for searched in found if searched.is_at_end]
      sweep = final_sweep(found, make, workdir=workdir, seeds=seeds)
    else:
      chosen, ends = {}, []
      published = {row.name: dict(row.fields) for row in rows}
      sweep = make(published, workdir=workdir, seeds=seeds, with_tests=True)
    failures = local.run_all(sweep.runs, jobs=jobs, say=say)
    cost.count_costs(sweep, say=say)
  except local.Stopped as stopped:
    say(f'stopped by signal {stopped.signal_number}; the same command resumes from here')
    return 128 + stopped.signal_number
  report = fair_table.write(
    sweep, chosen, ends=ends, reference=reference, recipe=recipe, metric=metric, level=level
  )
  say(f'\n{report}\n{workdir / "report.md"}; fair.json and {search.FILE} beside it')
  for failure in failures:
    say(f'error: {failure.run.name}: {failure.reason} ({failure.run.workdir / local.LOG})')
  return local.exit_status(failures)
