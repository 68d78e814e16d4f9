"""Runs a named sweep of configs/ablations.py over seeds, and writes one table.

  python -m masm_jax.sweep --list
  python -m masm_jax.sweep components --workdir=runs/components
  python -m masm_jax.sweep components --workdir=runs/real --base=ffpp:backbone=clip_b16 \
      --config.data.train.manifest=crops/ffpp.parquet ...
  python -m masm_jax.sweep fair --methods=masm,lora,full --seeds=0,1,2,3,4 \
      --base=protocols:protocol=across --workdir=runs/fair

`fair` is no named sweep: it searches every row of configs/fair.py on validation data alone, equally
long, and runs the choices over the seeds. It writes search.json, fair.{md,json} and report.md.

Finished runs are skipped, half-finished ones resume, and a run that fails stops no other: it is
named at the end, and the exit status is then 1. The same command after a kill does the rest.

  DIR/table.{md,csv,json}   metrics, parameters, operations: equal bytes for an equal sweep
  DIR/paired.{md,json}      with --reference=ROW: paired differences from that row, with intervals
  DIR/report.md             the same with images/s, which is a wall time; speed.json has each run's
  DIR/runs/ROW/seedN/       the runs, as masm_jax.main leaves them, and their output in log.txt
"""

import argparse
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import textwrap
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

from masm_jax import cli, files, places
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.terminal import say

if TYPE_CHECKING:
  from masm_jax.sweep.plan import Sweep


def main(argv: Sequence[str] | None = None, *, program: str = '') -> int:
  """Runs the sweep.

  Args:
    argv: what the user gave; `sys.argv` by default.
    program: the command as the user typed it, where that is not `masm-jax sweep` or its kin.

  Returns:
    The exit status: 0, 1 if a run failed, 2 for bad input, 128 + signal.
  """
  argv = sys.argv[1:] if argv is None else argv
  return cli.exit_status(lambda: _sweep(argv, program or cli.program('sweep')))


def _sweep(argv: Sequence[str], program: str) -> int:
  options, fields = parse(argv, program)
  from masm_jax.sweep import plan

  if options.sweep == 'fair':
    return _fair(options, fields)
  sweeps = plan.load_sweeps(options.sweeps or 'ablations')
  if options.list or not options.sweep:
    say(describe(sweeps))
    return 0
  if options.workdir is None:
    raise UserError('give --workdir, a directory for the sweep')
  sweep = plan.make_sweep(
    sweeps, options.sweep, workdir=options.workdir, seeds=options.seeds, base=options.base,
    fields=fields, more_flags=more_flags(options),
  )  # fmt: skip
  make_workdir(sweep.workdir)
  # The tasks of an array run side by side: each run has its own lock.
  with locks.held(sweep.workdir, kind=places.SWEEP, enabled=options.only is None):
    return _do(sweep, options, argv)


def _do(sweep: 'Sweep', options: argparse.Namespace, argv: Sequence[str]) -> int:
  from masm_jax.sweep import cost, fair_table, job_files, local, plan, table

  if options.reference and options.reference not in sweep.rows:
    raise UserError(f'--reference={options.reference}: it is none of {", ".join(sweep.rows)}')
  if options.write:
    path = sweep.workdir / job_files.FILES[options.write]
    text = job_files.job_file(sweep, options.write, own_command(argv), pathlib.Path.cwd())
    plan.mark(sweep.workdir)
    files.write_text(path, text)
    say(f'{len(sweep.runs)} runs: {path}')
    return 0
  if options.only is not None and not 0 <= options.only < len(sweep.runs):
    raise UserError(f'--only={options.only}: this sweep has runs 0 to {len(sweep.runs) - 1}')
  runs = sweep.runs if options.only is None else sweep.runs[options.only : options.only + 1]
  jobs = options.jobs or (default_jobs() if options.only is None else 1)
  if options.table:
    table.check_any_finished(sweep)  # Before minutes of counting what its steps cost.
  plan.mark(sweep.workdir)
  try:
    failures = [] if options.table else local.run_all(runs, jobs=jobs, say=say)
    if options.only is None and len(failures) < len(runs):
      cost.count_costs(sweep, say=say)
  except local.Stopped as stopped:
    say(f'stopped by signal {stopped.signal_number}; the same command resumes from here')
    return 128 + stopped.signal_number
  if options.only is None and len(failures) < len(runs):
    report = table.write_tables(
      sweep, checkpoint=options.checkpoint, metric=options.metric, level=options.level
    )
    say(f'\n{report}\n{sweep.workdir / "report.md"}; table.json and table.csv beside it')
    if options.reference:
      say(
        '\n'
        + fair_table.write_paired(
          sweep, reference=options.reference, metric=options.metric, level=options.level
        )
      )
  for failure in failures:
    log = failure.run.workdir / local.LOG
    say(f'error: {failure.run.name}: {failure.reason} ({log})', file=sys.stderr)
  return local.exit_status(failures)


def _fair(options: argparse.Namespace, fields: dict[str, str]) -> int:
  from masm_jax.sweep import fair

  if options.write or options.only is not None or options.table:
    raise UserError('fair chooses by its own runs: --write, --only and --table are not for it')
  if options.workdir is None:
    raise UserError('give --workdir, a directory for the comparison')
  make_workdir(options.workdir)
  with locks.held(options.workdir, kind=places.SWEEP):
    return fair.compare(
      file=options.sweeps or 'fair',
      names=[name for name in options.methods.split(',') if name],
      base=options.base,
      fields=fields,
      workdir=options.workdir,
      seeds=options.seeds,
      recipe=options.recipe,
      reference=options.reference or 'masm',
      jobs=options.jobs or default_jobs(),
      more_flags=more_flags(options),
      metric=options.metric,
      level=options.level,
      say=say,
    )


def parse(argv: Sequence[str], program: str) -> tuple[argparse.Namespace, dict[str, str]]:
  """The options, and the fields given as `--config.FIELD=VALUE`."""
  parser = argparse.ArgumentParser(
    prog=program, description=cli.in_typed_words(__doc__),
    formatter_class=argparse.RawTextHelpFormatter,
    epilog='--config.FIELD=VALUE changes a field of every run.', allow_abbrev=False,
  )  # fmt: skip
  add = parser.add_argument
  add('sweep', nargs='?', help='name of the sweep; see --list')
  add('--list', action='store_true', help='print the sweeps and their rows')
  add('--workdir', type=pathlib.Path, help='directory of the sweep')
  add('--sweeps', help='file of named sweeps; default: ablations, and fair for `fair`')
  add('--methods', default='', help='fair: rows to compare, masm,lora; default: all of the file')
  add(
    '--recipe',
    choices=('equal', 'published'),
    default='equal',
    help='fair: one recipe for all with a search, or the published one of each; default: equal',
  )
  add('--reference', help='row that the others are held against; fair: masm if not given')
  add('--base', help="config file, with its arguments, that rows change (default: the sweeps' own)")
  add('--seeds', type=seeds, default=(0, 1, 2), help='default: 0,1,2')
  add('--jobs', type=int, help='runs at a time (default: one per core, one on an accelerator)')
  add('--only', type=int, metavar='INDEX', help='run number INDEX alone, and write no table')
  add('--table', action='store_true', help='write the table of what is finished, run nothing')
  add('--write', choices=('slurm', 'kubernetes', 'commands'), help='write a job file, run nothing')
  add('--checkpoint', choices=('best', 'last'), default='best', help='whose metrics; default: best')
  add('--metric', choices=('auroc', 'ap', 'eer'), default='auroc', help='default: auroc')
  add('--level', choices=('frame', 'video'), default='video', help='default: video')
  add('--compilation_cache', help='as of masm_jax.main')
  options, rest = parser.parse_known_args(argv)
  fields = {}
  for flag in rest:
    name, equals, value = flag.removeprefix('--config.').partition('=')
    if not flag.startswith('--config.') or not equals:
      raise UserError(f'unknown option {flag!r}: see --help; fields are --config.FIELD=VALUE')
    fields[name] = value
  if options.jobs is not None and options.jobs < 1:
    raise UserError(f'--jobs={options.jobs}: at least 1')
  return options, fields


def seeds(text: str) -> tuple[int, ...]:
  """`0,1,2` as numbers."""
  return tuple(int(part) for part in text.split(','))


def more_flags(options: argparse.Namespace) -> list[str]:
  """Flags that go to each run as they are."""
  cache = options.compilation_cache
  return [] if cache is None else [f'--compilation_cache={cache}']


def own_command(argv: Sequence[str]) -> list[str]:
  """This very command without --write, to be run elsewhere."""
  kept = []
  arguments = iter(argv)
  for argument in arguments:
    if argument == '--write':
      next(arguments, None)
    elif not argument.startswith('--write='):
      kept.append(argument)
  return [sys.executable, '-m', 'masm_jax.sweep', *kept]


def default_jobs() -> int:
  """One run per core: small models leave cores idle otherwise. One in all on an accelerator."""
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  has_accelerator = bool(plugins) or importlib.util.find_spec('libtpu') is not None
  if has_accelerator and os.environ.get('JAX_PLATFORMS') != 'cpu':
    return 1
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1


def make_workdir(path: pathlib.Path) -> None:
  """Makes the sweep's directory."""
  places.real_folder(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to --workdir={path}: {error.strerror}') from error


def describe(sweeps: types.ModuleType) -> str:
  """The list of sweeps."""
  parts = []
  for name, sweep in sweeps.SWEEPS.items():
    about = textwrap.fill(sweep['about'], 96, initial_indent='  ', subsequent_indent='  ')
    rows = textwrap.fill(', '.join(sweep['rows']), 96, initial_indent='  rows: ',
                         subsequent_indent='        ')  # fmt: skip
    parts.append(f'{name}\n{about}\n{rows}')
  return '\n'.join(parts)


if __name__ == '__main__':
  sys.exit(main())
