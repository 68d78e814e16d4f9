"""What a sweep runs: rows of changed fields times seeds, each a full command of `masm_jax.main`."""

import dataclasses
import enum
import importlib.util
import json
import pathlib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from masm_jax import cli, files, shipped
from masm_jax import config as config_lib
from masm_jax.errors import UserError
from masm_jax.sweep import schema
from masm_jax.sweep.schema import Inputs, Results

# Fields that the base config takes as its argument: it may fit others to them.
_ARGUMENTS = ('method', 'recipe')
MARK = 'sweep.json'  # By which `places` knows a sweep's folder.
_ROW_NAME = re.compile(r'[A-Za-z0-9+][\w.+=,-]*')


class Progress(enum.Enum):
  """How far a run's directory says it is."""

  NEW = 'new'
  BEGUN = 'begun'
  FINISHED = 'finished'


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of a sweep.

  Attributes:
    row: name of its row in the table.
    seed: its `config.seed`.
    workdir: its directory.
    args: flags of `masm_jax.main` that define it, `--workdir` aside.
    config: what they resolve to.
  """

  row: str
  seed: int
  workdir: pathlib.Path
  args: tuple[str, ...]
  config: ml_collections.ConfigDict

  @property
  def name(self) -> str:
    """`row/seedN`."""
    return f'{self.row}/seed{self.seed}'

  def flags(self) -> list[str]:
    """All flags of its command."""
    return [*self.args, f'--workdir={self.workdir}']

  def progress(self) -> Progress:
    """What its directory holds.

    A run is finished when `results.json` belongs to this very config, and has every test set as the
    config names it, on the weights that it names. Otherwise it resumes, and then sees whether
    those are the files it was begun with.

    Raises:
      UserError: the directory holds a run of another config.
    """
    return self._read()[0]

  def results(self) -> Results | None:
    """What a finished run scored; None before.

    Raises:
      UserError: see `progress`.
    """
    return self._read()[1]

  def _read(self) -> tuple[Progress, Results | None]:
    found = Progress.NEW
    for name in ('run.json', 'results.json'):
      document = files.read_or_set_aside(self.workdir / name)
      if document is None:
        continue
      if document.get('config_sha256') != config_lib.fingerprint(self.config):
        raise UserError(
          f'{self.workdir} holds a run of another config (see its run.json): give a new --workdir, '
          'or the fields that it was started with'
        )
      found = Progress.BEGUN
      if name == 'results.json' and (results := self._finished(document)):
        return Progress.FINISHED, results
    return found, None

  def _finished(self, document: Mapping[str, Any]) -> Results | None:
    results = schema.parse_results(document)
    if results is None:
      return None  # It is damaged, and made again.
    wanted = json.loads(json.dumps(config_lib.inputs(self.config)))  # As they stand in JSON.
    names = {'val', *wanted['data.tests']}
    is_whole = names <= set(results.best.sets) and names <= set(results.last.sets)
    is_alike = results.inputs is None or _contains(results.inputs, wanted)
    return results if is_whole and is_alike else None


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A named sweep, resolved: `runs` come seed by seed, so that every row has a metric early.

  Attributes:
    name: as in the file of sweeps.
    about: what its rows mean.
    base: the config that rows change, with its arguments.
    fields: changes that all rows share.
    rows: name -> changed fields.
    seeds: one run each, per row.
    workdir: directory of the sweep.
    runs: every row with the first seed, then every row with the second, and so on.
  """

  name: str
  about: str
  base: str
  fields: Mapping[str, Any]
  rows: Mapping[str, Mapping[str, Any]]
  seeds: tuple[int, ...]
  workdir: pathlib.Path
  runs: tuple[Run, ...]

  def runs_of(self, row: str) -> list[Run]:
    """Its runs, by seed."""
    return [run for run in self.runs if run.row == row]


def without_tests(sweep: Sweep) -> Sweep:
  """The same sweep, whose runs score no test set: what chooses must not see one.

  With its test sets a run resumes in the same directory, and scores them.
  """
  runs = []
  for run in sweep.runs:
    names = [name for name, spec in run.config.data.tests.items() if spec.manifest]
    args = (*run.args, *(f'--config.data.tests.{name}.manifest=' for name in names))
    runs.append(dataclasses.replace(run, args=args, config=_resolve(_definition(args))))
  return dataclasses.replace(sweep, runs=tuple(runs))


def _definition(args: Sequence[str]) -> list[str]:
  """The flags of the config alone."""
  return [arg for arg in args if arg.startswith('--config')]


def _contains(found: Inputs, wanted: Mapping[str, Any]) -> bool:
  """Whether all inputs that are wanted are among those found."""
  return found.weights == wanted['backbone.weights'] and all(
    found.tests.get(name) == spec for name, spec in wanted['data.tests'].items()
  )


def load_sweeps(
  path: str, needed: Sequence[str] = ('SWEEPS', 'BASE', 'BASE_FIELDS')
) -> types.ModuleType:
  """The module of sweeps: `SWEEPS`, and `BASE` with `BASE_FIELDS` for sweeps without a --base.

  Args:
    path: a file, or the name of a shipped one.
    needed: what it must define.

  Raises:
    UserError: no such file, or not what it should be.
  """
  try:
    with shipped.opened(path) as file:
      spec = importlib.util.spec_from_file_location('sweeps', file)
      if spec is None or spec.loader is None:
        raise ImportError('this is no Python file')
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
  except (UserError, OSError, AttributeError, ImportError, SyntaxError) as error:
    raise UserError(f'cannot read the sweeps of {path}: {error}') from error
  if missing := [name for name in needed if not hasattr(module, name)]:
    raise UserError(f'{path} defines no {missing[0]}: see configs/ablations.py, configs/fair.py')
  return module


def make_sweep(
  sweeps: Any,
  name: str,
  *,
  workdir: pathlib.Path,
  seeds: Sequence[int],
  base: str | None = None,
  fields: Mapping[str, Any] | None = None,
  more_flags: Sequence[str] = (),
) -> Sweep:
  """Resolves and checks every run before any is started.

  Args:
    sweeps: from `load_sweeps`.
    name: of the sweep.
    workdir: directory of the sweep; runs lie in `workdir/runs/ROW/seedN`.
    seeds: one run each, per row.
    base: a config file with its arguments; None for the module's own base and its fields.
    fields: changes shared by all rows; they may not name what a row sets.
    more_flags: further flags of `masm_jax.main` for each run, which change no metric.

  Raises:
    UserError: anything that could not be run.
  """
  if name not in sweeps.SWEEPS:
    raise UserError(f'no sweep {name!r}: there are {", ".join(sweeps.SWEEPS)}')
  rows, about = sweeps.SWEEPS[name]['rows'], sweeps.SWEEPS[name]['about']
  if not rows:
    raise UserError(f'the sweep {name!r} has no rows')
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise UserError(f'--seeds={",".join(map(str, seeds))}: give different numbers, from 0 on')
  shared = dict(fields or {})
  for field in shared:
    if field == 'seed':
      raise UserError('--config.seed: a sweep sets it by itself, give --seeds')
    if setting := [row for row, changed in rows.items() if field in changed]:
      raise UserError(f'--config.{field}: the row {setting[0]!r} of the sweep sets it by itself')
  if base is None:
    shared = {**sweeps.BASE_FIELDS, **shared}
  base = base or sweeps.BASE
  runs = []
  for seed in seeds:
    for row, changed in rows.items():
      if not _ROW_NAME.fullmatch(row):
        raise UserError(
          f'row {row!r} of {name!r}: letters, digits and _ . + = , - name a directory'
        )
      args = _flags(shipped.by_name(base), {**shared, **changed, 'seed': seed})
      try:
        config = _resolve(args)
      except UserError as error:
        raise UserError(f'row {row!r} of the sweep {name!r}: {error}') from error
      directory = workdir / 'runs' / row / f'seed{seed}'
      runs.append(Run(row, seed, directory, (*args, *more_flags), config))
  shown = shipped.canonical(base)
  return Sweep(name, about, shown, shared, rows, tuple(seeds), workdir, tuple(runs))


def mark(workdir: pathlib.Path) -> None:
  """Marks the folder of a sweep: nothing else is then written there."""
  if not (workdir / MARK).exists():  # The tasks of an array do it side by side.
    files.write_json(workdir / MARK, {'format': 'masm_jax sweep 1'})


def _flags(base: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
  arguments = [f'{name}={fields[name]}' for name in _ARGUMENTS if name in fields]
  if arguments:
    base += (',' if ':' in base else ':') + ','.join(arguments)
  rest = {name: value for name, value in fields.items() if name not in _ARGUMENTS}
  return (f'--config={base}', *(f'--config.{name}={value}' for name, value in rest.items()))


def _resolve(args: Sequence[str]) -> ml_collections.ConfigDict:
  """The config that `masm_jax.main` makes of these flags, validated."""
  config = cli.read_config('config', args, sets='data.tests')
  config_lib.validate(config)
  return config
