"""Times what lies between `python -m masm_jax.main` and its first step, by stage.

python -m benchmarks.first_step
python -m benchmarks.first_step --backbone=augreg_ti16 --method=full --batch_size=8

The same training starts twice in processes of its own, up to its first step: the second one finds
the factors and the compiled programs in their caches. Random weights in the backbone's published
form, a few drawn faces. CPU seconds of all threads, and seconds by the clock.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

_CHILD = '--child'
_START = 'BENCHMARK_START'  # By the clock, when the process was asked for.


class Stages:
  """Seconds from one mark to the next."""

  def __init__(self, start: float):
    self.rows: list[dict[str, Any]] = []
    self._clock, self._cpu = start, 0.0

  def mark(self, name: str) -> None:
    """Ends a stage."""
    clock, cpu = time.time(), time.process_time()
    self.rows.append({'stage': name, 'cpu_s': cpu - self._cpu, 'clock_s': clock - self._clock})
    self._clock, self._cpu = clock, cpu

  def mark_after(self, owner: Any, function: str, name: str) -> None:
    """Ends a stage whenever a function returns."""
    original = getattr(owner, function)

    def marking(*args: Any, **kwargs: Any) -> Any:
      result = original(*args, **kwargs)
      self.mark(name)
      return result

    setattr(owner, function, marking)


def run_child(arguments: list[str]) -> None:
  """Trains up to the first step, and prints the stages as JSON; does not return."""
  stages = Stages(float(os.environ[_START]))
  import jax

  from masm_jax import cli, main
  from masm_jax.training import loop, steps

  stages.mark('imports')
  stages.mark_after(loop, 'load_sets', 'start of jax, data sets')
  stages.mark_after(loop.detector_lib, 'load_params', 'weights')
  stages.mark_after(loop.sharding, 'agree', 'factors')
  stages.mark_after(loop.program_lib, 'make_program', 'trace for the names of metrics')
  stages.mark_after(loop.program_lib.TrainProgram, 'place_state', 'state')
  stages.mark_after(loop.writer.RunReport, 'begin', 'overview, record')
  jit_train_step = steps.jit_train_step

  def stopping(*args: Any) -> Callable:
    jitted = jit_train_step(*args)

    def first_step(*operands: Any) -> None:
      stages.mark('first batch')
      traced = jitted.trace(*operands)
      stages.mark('trace of the step')
      lowered = traced.lower()
      stages.mark('lowering')
      compiled = lowered.compile()
      stages.mark('compiling, or loading from the cache')
      jax.block_until_ready(compiled(*operands).step)
      stages.mark('the step itself')
      print(json.dumps(stages.rows), flush=True)
      os._exit(0)  # Nothing of this run is wanted any more.

    return first_step

  steps.jit_train_step = stopping
  sys.argv = ['masm_jax.main', *arguments]
  cli.run(main.main)


def main(arguments: list[str]) -> int:
  """Prints the table and writes the JSON."""
  import jax
  import safetensors.numpy

  from benchmarks import measure
  from configs import common
  from masm_jax import backbones
  from masm_jax import detector as detector_lib
  from masm_jax.data import synthetic

  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--backbone', default='clip_l14')
  parser.add_argument('--method', default='masm')
  parser.add_argument('--batch_size', type=int, default=2)
  parser.add_argument('--folder', default=None, help='where weights and caches lie meanwhile')
  parser.add_argument('--json', default='', help='where the measurements go')
  args = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    place = pathlib.Path(folder)
    config = common.get_config()
    config.backbone.name = args.backbone
    _, detector_config = detector_lib.from_config(config)
    params = jax.device_get(detector_lib.init_params(detector_config, jax.random.key(0)))
    exported = backbones.export_weights(params['backbone'], backbones.get_preset(args.backbone))
    safetensors.numpy.save_file(exported, place / 'weights.safetensors')
    manifest = synthetic.materialize(
      place / 'set', num_identities=12, videos_per_identity=1, frames_per_video=2,
      num_processes=1, progress=False,
    )  # fmt: skip
    fields = {
      'backbone.weights': place / 'weights.safetensors', 'subspace.cache_dir': place / 'factors',
      'data.train.manifest': manifest, 'data.val.manifest': manifest,
      'data.tests.ffpp.manifest': '', 'data.tests.celebdf_v2.manifest': '',
      'train.batch_size': args.batch_size, 'train.duration': '20 steps',
    }  # fmt: skip
    words = [f'--config=ffpp:method={args.method},backbone={args.backbone}']
    words += [f'--compilation_cache={place / "programs"}']
    words += [f'--config.{field}={value}' for field, value in fields.items()]
    runs = []
    for name in ('first', 'second'):
      run = subprocess.run(
        [sys.executable, '-m', 'benchmarks.first_step', _CHILD, *words,
         f'--workdir={place / name}'],
        env=os.environ | {_START: str(time.time())}, stdout=subprocess.PIPE, text=True, check=True,
      )  # fmt: skip
      runs.append(json.loads(run.stdout.splitlines()[-1]))
  keys = ('cpu_s', 'clock_s')
  rows = [
    {'stage': first['stage']}
    | {f'{name} {key}': run[key] for name, run in (('1st', first), ('2nd', second)) for key in keys}
    for first, second in zip(*runs, strict=True)
  ]
  columns = [key for key in rows[0] if key != 'stage']
  rows.append({'stage': 'all'} | {key: sum(row[key] for row in rows) for key in columns})
  print(f'{args.method} on {args.backbone}, batches of {args.batch_size}')
  print(measure.table(rows, {'stage': ''} | dict.fromkeys(columns, ',.1f')))
  document = {'machine': measure.machine(), 'options': vars(args), 'rows': rows}
  measure.write(args.json, document)
  return 0


if __name__ == '__main__':
  if sys.argv[1:2] == [_CHILD]:
    run_child(sys.argv[2:])
  else:
    sys.exit(main(sys.argv[1:]))
