"""Times the decomposition: the first time, and from the cache.

python -m benchmarks.decomposition --json=decomposition.json
python -m benchmarks.decomposition --backbone=augreg_b16

`factors` is `decompose`: the SVD of every kernel, or hashing the kernels and reading the factors
that belong to them. `model` is the method's whole `init`, which builds the frozen semantic kernels
and copies the trained leaves, too. Random kernels of the preset's shapes, float32; the cache is on
the disk of `--folder`, and has just been written.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import measure
from configs import common
from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.methods import make_method
from masm_jax.subspaces import decompose


def seconds_of(work: Callable[[], Any]) -> float:
  """Wall-clock seconds of a call, whose result is dropped."""
  start = time.perf_counter()
  jax.block_until_ready(work())
  return time.perf_counter() - start


def main(arguments: list[str]) -> int:
  """Prints the table and writes the JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--backbone', default='clip_l14')
  parser.add_argument(
    '--repeats', type=int, default=3, help='reads of the cache: the median counts'
  )
  parser.add_argument('--folder', default=None, help='where the cache lies while this runs')
  parser.add_argument('--json', default='', help='where the measurements go')
  args = parser.parse_args(arguments)
  config = common.get_config()
  config.backbone.name = args.backbone
  _, detector_config = detector_lib.from_config(config)
  params = jax.device_get(detector_lib.init_params(detector_config, jax.random.key(0)))
  flat = tree.flatten(params)
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    method = make_method(config, cache_dir=folder)
    owners = decompose.find_targets(params, method.subspace.targets)
    kernels = {owner: flat[f'{owner}/kernel'] for owner in owners}
    works = {
      'factors': lambda: decompose.decompose(kernels, method.subspace),
      'model': lambda: method.init(params, jax.random.key(0)),
    }
    first = seconds_of(works['factors'])
    cached = {name: [seconds_of(work) for _ in range(args.repeats)] for name, work in works.items()}
    size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
  rows = [{'what': 'factors, first time', 's': first}] + [
    {'what': f'{name}, from the cache', 's': sorted(values)[len(values) // 2]}
    for name, values in cached.items()
  ]
  print(
    f'{args.backbone}, {len(kernels)} kernels, {tree.param_bytes(kernels) / 1e6:,.0f} MB, '
    f'{measure.machine()["cores"]} cores; the cache has {size / 1e6:,.0f} MB'
  )
  print(measure.table(rows, {'what': '', 's': ',.2f'}))
  measure.write(
    args.json,
    {'machine': measure.machine(), 'options': vars(args), 'rows': rows, 'cache_bytes': size,
     'seconds': {'first': first, **cached}},
  )  # fmt: skip
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
