"""How fast training images are made: presets, files against ArrayRecord, workers.

python -m benchmarks.input_pipeline --workers 0 1 2 --json=input_pipeline.json
python -m benchmarks.input_pipeline --manifest=crops/manifest.parquet --presets gend

Without --manifest the crops are drawn portraits, 256 px, as JPEG of quality 95. `images/s` is what
arrives; `per core` divides by the processor time that was spent (all of it: reading, decoding,
augmenting, batching), which other load on the machine does not change. `cores for R` are the cores
that keep up with an accelerator of R images/s, and `waits at R` is the share of each of its steps
that it would wait for these workers, loading and computing side by side.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
import time
from typing import Any

import cv2
import numpy as np
import PIL

from masm_jax.data.importers.folder import import_folder
from masm_jax.data.manifest import Manifest, load_manifest
from masm_jax.data.pipeline import train_iterator
from masm_jax.data.presets import PRESETS, SBI
from masm_jax.data.samplers import make_sampler
from masm_jax.data.synthetic import materialize
from masm_jax.data.tfds_builder import build

_WARM_UP_STEPS = 2


def drawn_crops(folder: pathlib.Path, size_px: int) -> Manifest:
  """The crops of 18 drawn videos, a third of them real, as JPEG."""
  path = materialize(
    folder / 'drawn',
    size_px=size_px,
    num_identities=6,
    videos_per_identity=1,
    num_processes=1,
    progress=False,
  )
  made = load_manifest(path)
  for label, name in enumerate(('real', 'fake')):
    (folder / 'crops' / name).mkdir(parents=True)
    for i, path in enumerate(made.select(label=label).paths):
      target = folder / 'crops' / name / f'{i}.jpg'
      cv2.imwrite(str(target), cv2.imread(path), (cv2.IMWRITE_JPEG_QUALITY, 95))
  return import_folder(folder / 'crops', split='train')


def measure(manifest: Manifest, preset: str, workers: int, args: argparse.Namespace) -> dict:
  """The best of several runs: images per second, and per second of this process' own time."""
  kind = 'paired' if preset == SBI else 'uniform'
  sampler = make_sampler(kind, manifest.table, 0, self_blending=preset == SBI)
  manifest.images.read(0)  # Opens shards, and imports what reads them.
  rates, per_core = [], []
  for _ in range(args.repeats):
    iterator = train_iterator(
      manifest,
      batch_size=args.batch_size,
      image_size=args.image_size,
      sampler=sampler,
      augment=preset,
      seed=0,
      num_steps=_WARM_UP_STEPS + args.steps,
      num_workers=workers,
      num_threads=args.threads,
    )
    # Some batches are read ahead before the clock starts, so processor time counts from the start.
    spent = time.process_time()
    for _ in range(_WARM_UP_STEPS):
      next(iterator)
    start = time.perf_counter()
    for _ in range(args.steps):
      next(iterator)
    rates.append(args.steps * args.batch_size / (time.perf_counter() - start))
    spent = time.process_time() - spent
    per_core.append((_WARM_UP_STEPS + args.steps) * args.batch_size / spent)
    iterator.close()
  return {'images_per_second': max(rates), 'per_core': None if workers else max(per_core)}


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--manifest', help='own crops (all splits of it)')
  parser.add_argument('--root')
  parser.add_argument('--presets', nargs='+', choices=list(PRESETS), default=list(PRESETS))
  parser.add_argument('--workers', nargs='+', type=int, default=[0])
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--steps', type=int, default=30)
  parser.add_argument('--repeats', type=int, default=3, help='of which the best counts')
  parser.add_argument('--accelerator', type=float, default=2000, metavar='R', help='images/s')
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    files = load_manifest(args.manifest, args.root) if args.manifest else drawn_crops(folder, 256)
    shards = load_manifest(build(files, folder / 'tfds', 'crops'))
    speed = f'{args.accelerator:g}'
    header = ('preset', 'storage', 'workers', 'images/s', 'per core')
    header += (f'cores for {speed}', f'waits at {speed}')
    print('{:14} {:13} {:>7} {:>9} {:>9} {:>15} {:>14}'.format(*header))
    for preset in args.presets:
      for storage, manifest in (('files', files), ('array_record', shards)):
        for workers in args.workers:
          row = {'preset': preset, 'storage': storage, 'workers': workers}
          row |= measure(manifest, preset, workers, args)
          per_core, rate = row['per_core'], row['images_per_second']
          row['cores_needed'] = per_core and args.accelerator / per_core
          row['waiting_share'] = max(1 - rate / args.accelerator, 0.0)
          rows.append(row)
          known = [f'{per_core:.0f}', f'{row["cores_needed"]:.1f}'] if per_core else ['', '']
          print(
            f'{preset:14} {storage:13} {workers:7} {rate:9.0f} {known[0]:>9} {known[1]:>15}'
            f' {row["waiting_share"]:14.0%}',
            flush=True,
          )
    sizes = [len(files.images.read(i)) for i in range(min(len(files), 100))]
  if args.json:
    facts = {
      'machine': platform.processor() or platform.machine(),
      'cores': len(os.sched_getaffinity(0)),
      'python': platform.python_version(),
      'numpy': np.__version__,
      'opencv': cv2.__version__,
      'pillow': PIL.__version__,
      'images': len(files),
      'mean_bytes': float(np.mean(sizes)),
      'accelerator_images_per_second': args.accelerator,
      'image_size': args.image_size,
      'threads': args.threads,
      'batch_size': args.batch_size,
      'repeats': args.repeats,
    }
    args.json.write_text(json.dumps({**facts, 'rows': rows}, indent=2) + '\n')
    print(f'wrote {args.json}')


if __name__ == '__main__':
  main()
