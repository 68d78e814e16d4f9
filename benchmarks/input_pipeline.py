"""How fast training images are made: presets, files against ArrayRecord, workers, slow storage.

python -m benchmarks.input_pipeline --workers 0 1 2 --json=input_pipeline.json
python -m benchmarks.input_pipeline --manifest=crops/manifest.parquet --presets gend
python -m benchmarks.input_pipeline --presets gend --latency_ms 0 1 5 20 --threads 4 16 64

Without --manifest the crops are drawn portraits, 256 px, as JPEG of quality 95. `images/s` is what
arrives; `per core` divides by the processor time that was spent (all of it: reading, decoding,
augmenting, batching), which other load on the machine does not change. `cores for R` are the cores
that keep up with an accelerator of R images/s, and `waits at R` is the share of each of its steps
that it would wait for these workers, loading and computing side by side. With --latency_ms images
come through `benchmarks.slow_storage`, from a mount that is new for each run: nothing of them is in
the page cache, as in the first epoch of a set larger than memory.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import PIL

from benchmarks.slow_storage import mounted
from masm_jax.data.importers.folder import import_folder
from masm_jax.data.manifest import Manifest, load_manifest
from masm_jax.data.pipeline import train_iterator
from masm_jax.data.presets import PRESETS, SBI
from masm_jax.data.samplers import make_sampler
from masm_jax.data.storage import is_remote
from masm_jax.data.synthetic import materialize
from masm_jax.data.tfds_builder import build

_WARM_UP_STEPS = 2
_BATCHES_AHEAD = 2  # At least; otherwise one for each thread.


def drawn_crops(folder: pathlib.Path, size_px: int, count: int) -> Manifest:
  """`count` crops or a few more, of 18 drawn videos, a third of them real, as JPEG.

  Each video is there as often as it takes, in a folder each time, as `preprocess` lays crops out.
  """
  path = materialize(
    folder / 'drawn',
    size_px=size_px,
    num_identities=6,
    videos_per_identity=1,
    num_processes=1,
    progress=False,
  )
  made = load_manifest(path)
  copies = math.ceil(count / len(made))
  for label, name in enumerate(('real', 'fake')):
    some = made.select(label=label)
    for path, video in zip(some.paths, some.video_ids, strict=True):
      content = cv2.imencode('.jpg', cv2.imread(path), (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
      for i in range(copies):
        target = folder / 'crops' / name / f'{video}-{i}' / f'{pathlib.Path(path).stem}.jpg'
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
  shutil.rmtree(folder / 'drawn')
  return import_folder(folder / 'crops', split='train')


@contextlib.contextmanager
def late(manifest: Manifest, latency_ms: float) -> Iterator[Manifest]:
  """The same images, each request to their storage late; without latency, as they are."""
  if not latency_ms:
    yield manifest
    return
  with tempfile.TemporaryDirectory() as mount, mounted('/', mount, latency_ms):
    root = pathlib.Path(mount + os.path.abspath(manifest.root))
    if manifest.shards:
      yield load_manifest(root)
    else:
      yield dataclasses.replace(manifest, root=root)


def measure(
  manifest: Manifest, preset: str, workers: int, threads: int, args: argparse.Namespace
) -> tuple[float, float]:
  """Images per second, and per second of this process' own time."""
  kind = 'paired' if preset == SBI else 'uniform'
  sampler = make_sampler(kind, manifest.table, 0, self_blending=preset == SBI)
  manifest.images.read(0)  # Opens shards, and imports what reads them.
  timed, steps = num_steps(args, threads)
  iterator = train_iterator(
    manifest,
    batch_size=args.batch_size,
    image_size=args.image_size,
    sampler=sampler,
    augment=preset,
    seed=0,
    num_steps=steps,
    num_workers=workers,
    num_threads=threads,
  )
  # Batches are read ahead before the clock starts, so processor time counts from the start to the
  # end, and as many are read ahead when the clock stops.
  spent = time.process_time()
  for _ in range(_WARM_UP_STEPS):
    next(iterator)
  start = time.perf_counter()
  for _ in range(timed):
    next(iterator)
  rate = timed * args.batch_size / (time.perf_counter() - start)
  for _ in iterator:
    pass
  per_core = steps * args.batch_size / (time.process_time() - spent)
  iterator.close()
  return rate, per_core


def num_steps(args: argparse.Namespace, threads: int) -> tuple[int, int]:
  """The batches that are timed, and all: those before, and those that are read ahead at the end.

  Threads that wait for the same storage end their batches together, so that whole rounds count.
  """
  timed = math.ceil(args.steps / max(threads, 1)) * max(threads, 1)
  return timed, _WARM_UP_STEPS + timed + max(threads, _BATCHES_AHEAD)


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--manifest', help='own crops (all splits of it)')
  parser.add_argument('--root')
  parser.add_argument('--presets', nargs='+', choices=list(PRESETS), default=list(PRESETS))
  parser.add_argument('--workers', nargs='+', type=int, default=[0])
  parser.add_argument('--threads', nargs='+', type=int, default=[1], help='of each process')
  parser.add_argument('--latency_ms', nargs='+', type=float, default=[0.0], help='of storage')
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--steps', type=int, default=30, help='timed; a multiple of the threads')
  parser.add_argument('--repeats', type=int, default=3, help='of which the best counts')
  parser.add_argument('--accelerator', type=float, default=2000, metavar='R', help='images/s')
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    if args.manifest:
      files = load_manifest(args.manifest, args.root)
    else:
      most = max(num_steps(args, threads)[1] for threads in args.threads)
      files = drawn_crops(folder, 256, most * args.batch_size)
    if any(args.latency_ms) and (files.shards or is_remote(files.root)):
      parser.error('--latency_ms needs a manifest of local files')
    shards = load_manifest(build(files, folder / 'tfds', 'crops'))
    speed = f'{args.accelerator:g}'
    header = ('preset', 'storage', 'latency', 'workers', 'threads', 'images/s', 'per core')
    header += (f'cores for {speed}', f'waits at {speed}')
    print('{:14} {:13} {:>8} {:>7} {:>7} {:>9} {:>9} {:>15} {:>14}'.format(*header))
    manifests = {'files': files, 'array_record': shards}
    for preset, latency_ms, storage, workers, threads in itertools.product(
      args.presets, args.latency_ms, manifests, args.workers, args.threads
    ):
      best = []
      for _ in range(args.repeats):
        with late(manifests[storage], latency_ms) as manifest:
          best.append(measure(manifest, preset, workers, threads, args))
      rate, per_core = (max(values) for values in zip(*best, strict=True))
      rows.append(
        {
          'preset': preset,
          'storage': storage,
          'latency_ms': latency_ms,
          'workers': workers,
          'threads': threads,
          'images_per_second': rate,
          'per_core': None if workers else per_core,
          'cores_needed': None if workers else args.accelerator / per_core,
          'waiting_share': max(1 - rate / args.accelerator, 0.0),
        }
      )
      known = ['', ''] if workers else [f'{per_core:.0f}', f'{args.accelerator / per_core:.1f}']
      print(
        f'{preset:14} {storage:13} {latency_ms:5g} ms {workers:7} {threads:7} {rate:9.0f}'
        f' {known[0]:>9} {known[1]:>15} {rows[-1]["waiting_share"]:14.0%}',
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
      'batch_size': args.batch_size,
      'repeats': args.repeats,
    }
    args.json.write_text(json.dumps({**facts, 'rows': rows}, indent=2) + '\n')
    print(f'wrote {args.json}')


if __name__ == '__main__':
  main()
