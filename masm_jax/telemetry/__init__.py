"""Records of a run: metrics files, progress, parameter overview, environment."""

from masm_jax.files import read_json, write_json
from masm_jax.telemetry.input_waits import InputWaits
from masm_jax.telemetry.lines import JsonLines, read_lines
from masm_jax.telemetry.overview import count_parameters, parameter_overview
from masm_jax.telemetry.profile import Profiler, parse_steps
from masm_jax.telemetry.progress import Progress
from masm_jax.telemetry.record import git_state, run_record
from masm_jax.telemetry.writer import MetricWriter

__all__ = [
  'InputWaits',
  'JsonLines',
  'MetricWriter',
  'Profiler',
  'Progress',
  'count_parameters',
  'git_state',
  'parameter_overview',
  'parse_steps',
  'read_json',
  'read_lines',
  'run_record',
  'write_json',
]
