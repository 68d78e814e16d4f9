"""Operations of each row's compiled train step: counted once per row, by `training.costs`."""

import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from masm_jax import config as config_lib
from masm_jax import files
from masm_jax.sweep import local, schema
from masm_jax.sweep.plan import Sweep
from masm_jax.terminal import say

_FILE = 'cost.json'
_LOG = 'cost.txt'


def read_cost(sweep: Sweep, row: str) -> dict[str, Any] | None:
  """What was counted for a row; None if nothing was, or for another config.

  `train_step_gflop`: operations of one step on the whole batch, in 1e9, from the compiled program;
  `ratio` to the plain forward pass; `peak_temp_mb`.
  """
  path = _path(sweep, row)
  document = files.read_or_set_aside(path) or {}
  if document.get('config_sha256') != _fingerprint(sweep.runs_of(row)[0].config):
    return None
  if not schema.is_cost(document):
    files.set_aside(path)  # It is damaged, and counted again.
    return None
  return document


def count_costs(sweep: Sweep, *, say: Callable[[str], None]) -> None:
  """Counts what is missing, in a process of its own; the seeds of a row share their program.

  It takes a while for large models, and neither data nor an accelerator: see `masm_jax.inspect`. A
  failure costs the column, not the table.

  Args:
    sweep: with its directory made.
    say: told when there is something to count, and of a failure.

  Raises:
    Stopped: SIGINT or SIGTERM.
  """
  missing = {row: sweep.runs_of(row)[0].config for row in sweep.rows if not read_cost(sweep, row)}
  if not missing:
    return
  say(f'counting the operations of {len(missing)} rows')
  paths = {row: _path(sweep, row) for row in missing}
  status = local.run_alone(_count, (missing, paths, sweep.workdir / _LOG))
  if status:
    say(f'not all operations could be counted, see {sweep.workdir / _LOG}')


def _count(
  configs: Mapping[str, ml_collections.ConfigDict],
  paths: Mapping[str, pathlib.Path],
  log: pathlib.Path,
) -> None:
  """The process that counts."""
  local.log_to(log)
  local.end_with_parent()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax

  from masm_jax.training import costs

  jax.config.update('jax_platforms', 'cpu')  # It is imported by now, and no device has started.
  failed = []
  for row, config in configs.items():
    try:
      report = costs.inspect(config)
    except Exception:  # Of any type: the other rows are counted all the same.
      failed.append(row)
      say(f'{row}: {traceback.format_exc()}')
      continue
    found = {name: report[name] for name in ('train_step_gflop', 'ratio', 'peak_temp_mb')}
    document = {'config_sha256': _fingerprint(config)} | found
    files.write_sealed(paths[row], document)
  if failed:
    sys.exit(1)


def _path(sweep: Sweep, row: str) -> pathlib.Path:
  return sweep.workdir / 'runs' / row / _FILE


def _fingerprint(config: ml_collections.ConfigDict) -> str:
  """Hash of all fields but the seed."""
  config = ml_collections.ConfigDict(config.to_dict())
  config.seed = 0
  return config_lib.fingerprint(config)
