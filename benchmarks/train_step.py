"""What a training step of each method costs, compiled and timed, beside PyTorch's.

python -m benchmarks.train_step --json=train_step.json
python -m benchmarks.train_step --methods masm linear full --backbone=augreg_b16 --batch_size=4

On an accelerator: ViT-L/14, batches of 128, bfloat16; on a CPU: ViT-Ti/16, batches of 8, float32.
`ops` are the compiled program's operations over those of one forward pass, `MB read` its bytes to
and from memory, `temp MB` what it needs beside its arguments; XLA counts all three. `MFU` is the
model's own work (`model_passes`: 1 for a linear probe, 3 where all is trained, 2 or less else) over
the device's peak rate. PyTorch, eager and compiled, takes turns with JAX in the same run; `x eager`
and `x compiled` are how many times as fast JAX is. One device is used.
--torch=none does without torch. --effort_code names a file of Effort's authors (see
`torch_reference.effort_linear`), which is then run as the peer of `effort`.
"""

import argparse
import functools
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks import measure
from configs import common
from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.backbones import ViTConfig
from masm_jax.methods import METHODS, chosen_layers, make_method
from masm_jax.parallel import sharding
from masm_jax.training import steps
from masm_jax.training.program import make_program


def model_passes(trainable: Mapping[str, Any], vit: ViTConfig) -> float:
  """What a step cannot do without, in forward passes: what MFU counts as the model's work.

  One is the forward pass; another the gradients of activations, down to the lowest block in which
  something is trained; a third the gradients of the dense kernels that are trained themselves.

  Args:
    trainable: the trained leaves.
    vit: the backbone.
  """
  leaves = tree.flatten(trainable)
  paths = [path for path in leaves if path.startswith('backbone/')]
  block_of = lambda path: re.match(r'backbone/block_(\d+)/', path)
  blocks = [int(match[1]) for match in map(block_of, paths) if match]
  is_below = any(not block_of(path) and '/ln_post/' not in path for path in paths)
  lowest = 0 if is_below else min(blocks, default=vit.depth)
  kernels = [path for path in paths if block_of(path) and path.endswith('/kernel')]
  whole = vit.depth * (4 * vit.width**2 + 2 * vit.width * vit.mlp_dim)
  trained = sum(leaves[path].size for path in kernels)
  return 1 + (vit.depth - lowest) / vit.depth + trained / whole


def make_step(config: Any) -> dict[str, Any]:
  """A compiled step with all that it takes, on one device and random weights."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  backbone, detector_config = detector_lib.from_config(config)
  params = jax.device_get(detector_lib.init_params(detector_config, jax.random.key(0)))
  method = chosen_layers.assume_deepest(make_method(config), params, config)
  parts = method.init(params, jax.random.key(0))
  held = sharding.place_frozen((parts.frozen, parts.reference), mesh)
  program = make_program(
    config,
    method=method,
    detector_config=detector_config,
    parts=parts,
    total_steps=1000,
  )
  state = program.place_state(parts.trainable, mesh)
  batch = random_batch(config.train.batch_size, backbone.config.image_size)
  placed = sharding.place_batch(batch, mesh)
  step = steps.jit_train_step(program.train_step, mesh, *held)
  compiled = step.lower(state, *held, placed).compile()
  model = detector_lib.Detector(detector_config)
  forward = jax.jit(lambda p, x: model.apply({'params': p}, x).logits)
  one_pass = forward.lower(params, batch['image']).compile().cost_analysis()['flops']
  return {
    'compiled': compiled, 'state': state, 'held': held, 'placed': placed, 'batch': batch,
    'forward_flops': one_pass, 'trainable': tree.param_count(parts.trainable),
    'passes': model_passes(parts.trainable, backbone.config), 'vit': backbone.config,
    'dtype': np.dtype(detector_config.dtype).name,
  }  # fmt: skip


def random_batch(batch_size: int, image_size: int) -> dict[str, np.ndarray]:
  """Noise, half of it fake."""
  rng = np.random.default_rng(0)
  labels = np.arange(batch_size, dtype=np.int32) % 2
  return {
    'image': rng.integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8),
    'label': labels,
    'method': labels,
  }


def make_config(method: str, args: argparse.Namespace) -> ml_collections.ConfigDict:
  """A run's config, with what the flags say."""
  config = common.get_config()
  config.update_from_flattened_dict(
    {'backbone.name': args.backbone, 'train.batch_size': args.batch_size,
     'deterministic': args.deterministic}
  )  # fmt: skip
  common.set_method(config, method)
  return config


def bench(method: str, args: argparse.Namespace) -> dict[str, Any]:
  """One row of the table."""
  made = make_step(make_config(method, args))
  compiled, holder = made['compiled'], {'state': made['state']}

  def ours() -> None:
    holder['state'] = compiled(holder['state'], *made['held'], made['placed'])
    jax.block_until_ready(holder['state'].step)

  programs = {'jax': ours}
  if args.torch != 'none':
    from benchmarks import torch_reference

    if method in torch_reference.METHODS or (method == 'effort' and args.effort_code):
      make = functools.partial(
        torch_reference.training_step, method, made['vit'], made['batch'], dtype=made['dtype'],
        effort_code=args.effort_code,
      )  # fmt: skip
      programs['eager'] = make(compiled=False)
      if args.torch == 'all':
        programs['compiled'] = make(compiled=True)
  seconds = measure.in_turn(programs, rounds=args.rounds, repeats=args.repeats)
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  work = made['passes'] * made['forward_flops']
  return {
    'method': method,
    'trainable': made['trainable'],
    'gflop': cost['flops'] / 1e9,
    'ops': cost['flops'] / made['forward_flops'],
    'MB read': cost['bytes accessed'] / 1e6,
    'temp MB': memory.temp_size_in_bytes / 1e6,
    'ms': seconds['jax'] * 1e3,
    'images/s': args.batch_size / seconds['jax'],
    'MFU': measure.utilisation(work, seconds['jax']),
    'x eager': seconds['eager'] / seconds['jax'] if 'eager' in seconds else None,
    'x compiled': seconds['compiled'] / seconds['jax'] if 'compiled' in seconds else None,
    'seconds': seconds,
  }


def make_parser(description: str | None) -> argparse.ArgumentParser:
  """The flags of a measured step."""
  on_cpu = jax.default_backend() == 'cpu'
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--methods', nargs='+', choices=sorted(METHODS), default=sorted(METHODS))
  parser.add_argument('--backbone', default='augreg_ti16' if on_cpu else 'clip_l14')
  parser.add_argument('--batch_size', type=int, default=8 if on_cpu else 128)
  parser.add_argument('--rounds', type=int, default=5, help='turns of each program')
  parser.add_argument('--repeats', type=int, default=1 if on_cpu else 10, help='steps in a turn')
  parser.add_argument('--torch', choices=('all', 'eager', 'none'), default='all')
  parser.add_argument('--effort_code', default='', help="effort_detector.py of Effort's authors")
  parser.add_argument(
    '--deterministic', action='store_true', help='with the flags that training has by default'
  )
  parser.add_argument('--json', default='', help='where the measurements go')
  return parser


def main(arguments: list[str]) -> int:
  """Prints the table and writes the JSON."""
  args = make_parser(__doc__).parse_args(arguments)
  rows = []
  for method in args.methods:
    rows.append(bench(method, args))
    print(f'{method}: {rows[-1]["images/s"]:.1f} images/s', file=sys.stderr, flush=True)
  columns = {
    'method': '', 'trainable': ',', 'gflop': ',.1f', 'ops': '.3f', 'MB read': ',.0f',
    'temp MB': ',.0f', 'ms': ',.1f', 'images/s': ',.1f', 'MFU': '.1%', 'x eager': '.2f',
    'x compiled': '.2f',
  }  # fmt: skip
  print(f'{args.backbone}, batches of {args.batch_size}, {measure.machine()["device"]}')
  print(measure.table(rows, columns))
  measure.write(args.json, {'machine': measure.machine(), 'options': vars(args), 'rows': rows})
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
