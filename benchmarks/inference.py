"""How fast a trained detector scores images, beside PyTorch; and how long merging takes.

python -m benchmarks.inference --json=inference.json

Every method merges into the same plain detector, so that one program scores for all of them; the
table has the time of `merge` for each. Shapes and columns as in train_step.py. With --model=DIR, a
run or a detector file, its `score` takes turns with the bare program of the same shape.
"""

import argparse
import sys
import time
from typing import Any

import jax

import masm_jax
from benchmarks import measure
from benchmarks.train_step import random_batch
from configs import common
from masm_jax import detector as detector_lib
from masm_jax.inference import steps
from masm_jax.methods import METHODS, chosen_layers, make_method
from masm_jax.parallel import sharding


def merges(args: argparse.Namespace, params: Any, mesh: Any) -> dict[str, float]:
  """Seconds that each method's compiled merge takes, and a check that its result is plain."""
  plain = jax.tree.map(lambda x: (x.shape, str(x.dtype)), params)
  seconds = {}
  for name in args.methods:
    config = common.get_config()
    config.backbone.name = args.backbone
    common.set_method(config, name)
    method = chosen_layers.assume_deepest(make_method(config), params, config)
    trainable, frozen, _ = method.init(params, jax.random.key(0))
    trainable = sharding.place(trainable, sharding.replicated(mesh))
    frozen = sharding.place_frozen(frozen, mesh)
    merge = steps.jit_merge(method, mesh, trainable, frozen)
    merged = jax.block_until_ready(merge(trainable, frozen))
    if jax.tree.map(lambda x: (x.shape, str(x.dtype)), merged) != plain:
      raise AssertionError(f'{name} does not merge into a plain detector')
    start = time.perf_counter()
    jax.block_until_ready(merge(trainable, frozen))
    seconds[name] = time.perf_counter() - start
  return seconds


def main(arguments: list[str]) -> int:
  """Prints the tables and writes the JSON."""
  on_cpu = jax.default_backend() == 'cpu'
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--methods', nargs='*', choices=sorted(METHODS), default=sorted(METHODS))
  parser.add_argument('--backbone', default='augreg_ti16' if on_cpu else 'clip_l14')
  parser.add_argument('--batch_size', type=int, default=8 if on_cpu else 128)
  parser.add_argument('--rounds', type=int, default=5, help='turns of each program')
  parser.add_argument('--repeats', type=int, default=1 if on_cpu else 10, help='batches in a turn')
  parser.add_argument('--torch', choices=('all', 'eager', 'none'), default='all')
  parser.add_argument('--json', default='', help='where the measurements go')
  parser.add_argument('--model', default='', help='a run or detector file: its backbone and size')
  args = parser.parse_args(arguments)
  detector = masm_jax.load(args.model, batch_size=args.batch_size) if args.model else None
  config = common.get_config()
  if detector:
    args.backbone = detector.facts['backbone']
    config.backbone.image_size = detector.image_size
  config.backbone.name = args.backbone
  backbone, detector_config = detector_lib.from_config(config)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  params = jax.device_get(detector_lib.init_params(detector_config, jax.random.key(0)))
  placed = sharding.place_frozen(params, mesh)
  images = random_batch(args.batch_size, backbone.config.image_size)['image']
  batch = sharding.place_batch({'image': images}, mesh)
  model = detector_lib.Detector(detector_config)
  compiled = jax.jit(lambda p, b: model.apply({'params': p}, b['image']).logits).lower(
    placed, batch
  ).compile()  # fmt: skip
  programs = {'jax': lambda: jax.block_until_ready(compiled(placed, batch))}
  if detector:
    programs['score'] = lambda: detector.score(images)
  if args.torch != 'none':
    from benchmarks import torch_reference

    dtype = jax.numpy.dtype(detector_config.dtype).name
    for name in ('eager', 'compiled')[: 2 if args.torch == 'all' else 1]:
      programs[name] = torch_reference.inference(
        backbone.config, images, dtype=dtype, compiled=name == 'compiled'
      )
  seconds = measure.in_turn(programs, rounds=args.rounds, repeats=args.repeats)
  flops = compiled.cost_analysis()['flops']
  rows = [
    {
      'program': name,
      'gflop': flops / 1e9 if name == 'jax' else None,
      'temp MB': compiled.memory_analysis().temp_size_in_bytes / 1e6 if name == 'jax' else None,
      'ms': value * 1e3,
      'images/s': args.batch_size / value,
      'MFU': measure.utilisation(flops, value),
      'x jax': seconds['jax'] / value,
    }
    for name, value in seconds.items()
  ]
  columns = {'program': '', 'gflop': ',.1f', 'temp MB': ',.0f', 'ms': ',.1f', 'images/s': ',.1f',
             'MFU': '.1%', 'x jax': '.2f'}  # fmt: skip
  print(f'{args.backbone}, batches of {args.batch_size}, {measure.machine()["device"]}')
  print(measure.table(rows, columns))
  merge_seconds = merges(args, params, mesh)
  merge_rows = [{'method': name, 'merge ms': value * 1e3} for name, value in merge_seconds.items()]
  if merge_rows:
    print('\n' + measure.table(merge_rows, {'method': '', 'merge ms': ',.1f'}))
  measure.write(args.json, {'machine': measure.machine(), 'options': vars(args), 'rows': rows,
                            'merge_seconds': merge_seconds})  # fmt: skip
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
