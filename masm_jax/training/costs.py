"""What a config trains and what its steps cost, from shapes alone: no data, weights, accelerator.

Nothing here is timed or estimated. The very step that training runs is compiled, with its
regularizers, layer mask and optimizer, on one CPU device, and XLA counts the compiled program's
operations: a multiplication and its addition are two, an elementwise operation is one, and a
transcendental function is none. Matrix products are the same on every backend. The forward pass
beside it is the plain detector's on the same batch, counted the same way.

Temporary memory is the CPU program's: float32 there unless `backbone.dtype` says otherwise,
and without the fused attention of accelerators, which keep less. Compare it between configs.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from masm_jax import config as config_lib
from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.methods import Method, chosen_layers, make_method
from masm_jax.methods.base import Parts
from masm_jax.parallel import sharding
from masm_jax.subspaces import layer as subspace
from masm_jax.training import program as program_lib
from masm_jax.training import steps

# The machine code is never run: do not spend minutes on making it fast. XLA's own passes, which
# decide what is computed, are all kept. Operations are put in the order that needs least memory, as
# on accelerators; the CPU's own order seeks concurrency, and holds what rematerialisation saves.
_COMPILER_OPTIONS = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
  'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
  # Optimization barriers, which hold rematerialisation apart from what it repeats, stay to the end,
  # as on accelerators. By default the CPU's compiler drops them, and merges both.
  'xla_disable_hlo_passes': 'cse_barrier_expander',
}


# `%x = (f32[2,3]{1,0}, f32[]) all-reduce(...)`; the asynchronous form counts where it ends.
_COLLECTIVE = re.compile(
  r'= (\(?[a-z][^=]*?) '
  r'(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-done)?\('
)
_SHAPE = re.compile(r'([a-z]+\d*)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Traced:
  """A training step that was traced for shapes, and what it is made from.

  Attributes:
    method: with its layers chosen.
    parts: shapes of what the method makes of the model.
    train_step: traced for the whole batch.
    forward: the plain detector's forward pass on that batch, traced.
  """

  method: Method
  parts: Parts
  train_step: jax.stages.Traced
  forward: jax.stages.Traced


def inspect(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Counts parameters, operations and memory of a config.

  Returns:
    `trainable` and `frozen`: parameters of the model; `forward_gflop` and `train_step_gflop`: 1e9
    operations for one batch of `train.batch_size`, compiled; `ratio` of the second to the first;
    `peak_temp_mb`: 1e6 bytes that the step needs beside its arguments and results; `kernels`: for
    each decomposed kernel its `path`, `shape` [d_in, d_out], `K`, `q`, `r` (n - K*q others) and
    `trainable` parameters.

  Raises:
    UserError: a config that could not be trained either.
  """
  program = trace(config)
  step = program.train_step.lower().compile(compiler_options=_COMPILER_OPTIONS)
  forward = program.forward.lower().compile(compiler_options=_COMPILER_OPTIONS)
  step_flops, forward_flops = (part.cost_analysis()['flops'] for part in (step, forward))
  return {
    'trainable': tree.param_count(program.parts.trainable),
    'frozen': tree.param_count(program.parts.frozen),
    'forward_gflop': forward_flops / 1e9,
    'train_step_gflop': step_flops / 1e9,
    'ratio': step_flops / forward_flops,
    'peak_temp_mb': step.memory_analysis().temp_size_in_bytes / 1e6,
    'kernels': kernel_rows(program.parts),
  }


def trace(config: ml_collections.ConfigDict, mesh: Mesh | None = None) -> Traced:
  """Traces the training step and the forward pass of a config, without any array.

  On one device, or on those of `mesh`.

  A method that chooses its layers by a probe gets its deepest ones, as many as `config.mask` keeps.
  """
  config_lib.validate(config)
  backbone, detector_config = detector_lib.from_config(config)
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  rng = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda key: detector_lib.init_params(detector_config, key), rng)
  method = chosen_layers.assume_deepest(make_method(config), params, config)
  parts = jax.eval_shape(method.init, params, rng)

  # How long it lasts is not known without data; the shape of a schedule costs nothing.
  program = program_lib.make_program(
    config,
    method=method,
    detector_config=detector_config,
    parts=parts,
    total_steps=1000,
  )
  train_state = jax.eval_shape(program.init_state, parts.trainable)
  batch = steps.batch_shapes(config.train.batch_size, backbone.config.image_size)
  train_step = steps.jit_train_step(program.train_step, mesh, parts.frozen, parts.reference)
  model = detector_lib.Detector(detector_config)
  forward = jax.jit(lambda params, images: model.apply({'params': params}, images).logits)
  return Traced(
    method=method,
    parts=parts,
    train_step=train_step.trace(train_state, parts.frozen, parts.reference, batch),
    forward=forward.trace(params, batch['image']),
  )


def collective_bytes(hlo: str) -> dict[str, int]:
  """Bytes that one device gets from collective operations, by their kind, from compiled HLO text.

  Args:
    hlo: `compiled.as_text()`.
  """
  totals: dict[str, int] = {}
  for results, kind in _COLLECTIVE.findall(re.sub(r'/\*.*?\*/', '', hlo)):  # /*index=5*/
    for dtype, dims in _SHAPE.findall(results):
      bits = int(re.sub(r'\D', '', dtype) or 8)
      size = math.prod(int(dim) for dim in dims.split(',') if dim) * max(bits, 8) // 8
      totals[kind] = totals.get(kind, 0) + size
  return totals


def kernel_rows(parts: Parts) -> list[dict[str, Any]]:
  """What became of each decomposed kernel, in tree order; see `inspect`."""
  trained, start = tree.flatten(parts.trainable), tree.flatten(parts.reference)
  rows = []
  for path in subspace.decomposed_layers(parts.frozen):
    num_subspaces, d_in, rank = start[f'{path}/U'].shape
    d_out = start[f'{path}/V'].shape[-1]
    leaves = (trained[f'{path}/{name}'] for name in 'USVM' if f'{path}/{name}' in trained)
    rows.append(
      {
        'path': path,
        'shape': [d_in, d_out],
        'K': num_subspaces,
        'q': rank,
        'r': min(d_in, d_out) - num_subspaces * rank,
        'trainable': sum(math.prod(leaf.shape) for leaf in leaves),
      }
    )
  return rows


def format_report(config: ml_collections.ConfigDict, report: Mapping[str, Any]) -> str:
  """The numbers of `inspect` as a table for people; kernels of equal shapes share a line."""
  total = report['trainable'] + report['frozen']
  share = 100 * report['trainable'] / total
  lines = [
    f'{config.method} on {config.backbone.name}, batches of {config.train.batch_size}',
    '',
    f'  trained      {report["trainable"]:>13,} parameters ({share:.3g} % of the model)',
    f'  frozen       {report["frozen"]:>13,} parameters',
    f'  one forward  {report["forward_gflop"]:>13,.1f} GFLOP',
    f'  one step     {report["train_step_gflop"]:>13,.1f} GFLOP = {report["ratio"]:.3f} forward'
    ' passes',
    f'  temporary    {report["peak_temp_mb"]:>13,.0f} MB (XLA on CPU: for comparison)',
  ]
  shapes: dict[tuple, list[dict]] = {}
  for row in report['kernels']:
    layer = row['path'].split('/', 2)[-1]
    key = (layer, tuple(row['shape']), row['K'], row['q'], row['r'], row['trainable'])
    shapes.setdefault(key, []).append(row)
  if not shapes:
    return '\n'.join([*lines, '', '  no kernel is decomposed'])
  lines += [
    '',
    f'  {"decomposed":<12} {"blocks":>6} {"d_in x d_out":>14} {"K":>3} {"q":>4} {"r":>5}'
    f' {"trained each":>13}',
  ]
  for (layer, (d_in, d_out), count, rank, semantic, trained), rows in shapes.items():
    lines.append(
      f'  {layer:<12} {len(rows):>6} {f"{d_in} x {d_out}":>14} {count:>3} {rank:>4} {semantic:>5}'
      f' {trained:>13,}'
    )
  return '\n'.join(lines)
