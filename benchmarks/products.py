"""What the matrix products of a training step take by themselves: its bound, beside all the rest.

python -m benchmarks.products --methods masm full
python -m benchmarks.products --backbone=clip_l14 --batch_size=128

Each product of the traced step runs alone, as often as the step has it, in a compiled program of
its own and, where torch is installed, in eager PyTorch; the table lists those that take longest.
`share` is their sum over the time of the whole step (`benchmarks.train_step`, in this run).
"""

import collections
import importlib.util
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import partial_eval

from benchmarks import measure
from benchmarks.train_step import bench, make_config, make_parser
from masm_jax.training import costs

_SHOWN = 8

# Shapes and types of the operands, what is contracted and what is a batch, precision, result.
Product = tuple[tuple[tuple[int, ...], ...], tuple[str, ...], tuple, Any, Any]


def products_of(jaxpr: Any) -> collections.Counter:
  """How often a jaxpr has each product; what nothing reads does not count."""
  found: collections.Counter = collections.Counter()
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      operands = [x.aval for x in equation.invars]
      shapes, types = tuple(x.shape for x in operands), tuple(str(x.dtype) for x in operands)
      names = ('dimension_numbers', 'precision', 'preferred_element_type')
      found[shapes, types, *(equation.params[name] for name in names)] += 1
    if equation.primitive.name == 'cond':
      continue  # The mask is drawn anew in few steps.
    for value in jax.tree.leaves([*equation.params.values()]):
      inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
      if isinstance(inner, core.Jaxpr):
        found += products_of(inner)
  return found


def operations(product: Product) -> int:
  """A multiplication and its addition count two."""
  (left, right), _, ((contracted, _), (batch, _)), *_ = product
  inner = int(np.prod([left[axis] for axis in (*contracted, *batch)]))
  outer = int(np.prod(left)) // inner
  return 2 * int(np.prod(right)) * outer


def seconds_alone(product: Product) -> dict[str, float]:
  """Seconds of one product, by the program that computes it."""
  (shapes, types, numbers, precision, result), rng = product, np.random.default_rng(0)
  values = [rng.standard_normal(shape, np.float32) for shape in shapes]
  x, y = (jnp.asarray(value, kind) for value, kind in zip(values, types, strict=True))
  product_of = lambda x, y: lax.dot_general(
    x, y, numbers, precision=precision, preferred_element_type=result
  )
  compiled = jax.jit(product_of).lower(x, y).compile()
  programs = {'jax': lambda: jax.block_until_ready(compiled(x, y))}
  try:
    import torch
  except ImportError:
    torch = None
  if torch is not None and jax.default_backend() == 'cpu':
    formula = as_einsum(shapes, numbers)
    a, b = (torch.from_numpy(value) for value in values)
    programs['torch'] = lambda: torch.einsum(formula, a, b)
  return measure.in_turn(programs, rounds=5, repeats=4)


def as_einsum(shapes: tuple, numbers: tuple) -> str:
  """`lax.dot_general`'s dimension numbers as a formula of `einsum`."""
  letters = iter('abcdefghijklmnopqrstuvwxyz')
  (contracted, batch), (left, right) = numbers, shapes
  of_left = {axis: next(letters) for axis in range(len(left))}
  of_right = {
    axis: of_left[other]
    for pairs in (contracted, batch)
    for other, axis in zip(*pairs, strict=True)
  }
  of_right = {axis: of_right.get(axis) or next(letters) for axis in range(len(right))}
  out = [of_left[axis] for axis in batch[0]]
  for of, (inner, own) in (
    (of_left, (contracted[0], batch[0])), (of_right, (contracted[1], batch[1]))
  ):  # fmt: skip
    out += [letter for axis, letter in of.items() if axis not in (*inner, *own)]
  sides = (''.join(of[axis] for axis in range(len(of))) for of in (of_left, of_right))
  return f'{",".join(sides)}->{"".join(out)}'


def main(arguments: list[str]) -> int:
  """Prints the tables and writes the JSON."""
  parser = make_parser(__doc__)
  torch = 'eager' if importlib.util.find_spec('torch') else 'none'
  parser.set_defaults(methods=['masm', 'full'], torch=torch)
  args = parser.parse_args(arguments)
  jax.config.update('jax_numpy_dtype_promotion', 'standard')
  tables = {}
  for method in args.methods:
    counts = products_of(costs.trace(make_config(method, args)).train_step.jaxpr.jaxpr)
    rows = []
    for product, count in counts.items():
      alone = seconds_alone(product)
      rows.append(
        {
          'product': as_einsum(product[0], product[2]) + f' {product[0][0]} {product[0][1]}',
          'times': count,
          'gflop': count * operations(product) / 1e9,
          'ms': count * alone['jax'] * 1e3,
          'torch ms': count * alone['torch'] * 1e3 if 'torch' in alone else None,
        }
      )
    rows.sort(key=lambda row: -row['ms'])
    columns = [name for name in rows[0] if rows[0][name] is not None and name != 'product']
    total = {name: sum(row[name] for row in rows) for name in columns}
    step = bench(method, args)
    print(f'{method} on {args.backbone}, batches of {args.batch_size}: {step["ms"]:,.0f} ms a step')
    shown = [*rows[:_SHOWN], {'product': f'all {len(rows)} shapes'} | total]
    print(measure.table(shown, {'product': '', 'times': ',', 'gflop': ',.2f'} | {
      name: ',.1f' for name in columns if name.endswith('ms')
    }))  # fmt: skip
    print(f'share {total["ms"] / step["ms"]:.2f}; {step["x eager"] or float("nan"):.2f} x eager')
    tables[method] = {'rows': rows, 'all': total, 'step': step}
  measure.write(args.json, {'machine': measure.machine(), 'options': vars(args), 'methods': tables})
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
