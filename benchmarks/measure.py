"""What the benchmarks share: peak rates, timing in turn, tables, JSON."""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from masm_jax.metrics import text_tables

# Dense bfloat16 matrix rate of one device, operations per second, from the makers' data sheets.
_PEAK_RATES = {
  'H200': 989.5e12,
  'H100': 989.5e12,
  'A100': 312e12,
  'L4': 121e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
}


def peak_rate() -> float | None:
  """Of the first device; None where it is not known, as for a CPU."""
  kind = jax.devices()[0].device_kind
  return next((rate for name, rate in _PEAK_RATES.items() if name in kind), None)


def utilisation(operations: float, seconds: float) -> float | None:
  """Share of the peak rate (MFU): the model's own operations, not what the program spends."""
  rate = peak_rate()
  return operations / seconds / rate if rate else None


def in_turn(
  programs: Mapping[str, Callable[[], Any]], *, rounds: int, repeats: int
) -> dict[str, float]:
  """Median seconds of each program; all take turns, so that other load meets them alike.

  Each turn begins with a run that is not timed: the threads of the program before may still spin,
  and the caches are full of what was its own.

  Args:
    programs: each runs once and returns when it is done.
    rounds: how often each has its turn.
    repeats: runs within a turn.
  """
  for program in programs.values():
    program()  # Compiles, and warms caches up.
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, program in programs.items():
      program()
      start = time.perf_counter()
      for _ in range(repeats):
        program()
      seconds[name].append((time.perf_counter() - start) / repeats)
  return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
  """What the measurements depend on."""
  return {
    'device': jax.devices()[0].device_kind,
    'backend': jax.default_backend(),
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'glibc_tunables': os.environ.get('GLIBC_TUNABLES', ''),
    'peak_rate': peak_rate(),
  }


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
  """Rows as text; `columns` maps the keys of a row to format specifications."""
  cells = [
    ['-' if row.get(key) is None else format(row[key], spec) for key, spec in columns.items()]
    for row in rows
  ]
  return '\n'.join(text_tables.align([list(columns), *cells]))


def write(path: str, document: Mapping[str, Any]) -> None:
  """Writes JSON where a path is given."""
  if path:
    pathlib.Path(path).write_text(json.dumps(document, indent=1) + '\n')
