"""Flips bits in all files of a run, and starts the same command again: same bytes, or found.

  python -m tests.fuzz_bits --count 300

For each flip a copy of a finished run (masm, two blocks, four steps, two checkpoints) is damaged,
and resumed in this process. It must end with the same bytes in every file that says what was
learned and measured. Where nothing was said of it, the flip lay in bytes that change nothing.
"""

import argparse
import collections
import logging
import pathlib
import shutil
import sys
import tempfile
import time

import jax

from configs import demo
from masm_jax.data import synthetic
from masm_jax.errors import UserError
from masm_jax.parallel import talk
from masm_jax.training.loop import train
from tests.bits import flip, places

# Throughput, event files and pictures are for looking: no command reads them.
_SHOWN = ('perf.jsonl', 'tensorboard', '.png')


def make_config(manifest: pathlib.Path):
  """A run of seconds, with factors, masks and two checkpoints."""
  config = demo.get_config('method=masm')
  for spec in (config.data.train, config.data.val, config.data.tests.known):
    spec.manifest = str(manifest)
  for name in ('checkerboard', 'poisson', 'regenerate'):
    config.data.tests[name].manifest = ''
  config.update_from_flattened_dict(
    {'train.batch_size': 8, 'train.duration': '4 steps', 'eval.every': '2 steps',
     'checkpoint.every': '2 steps', 'checkpoint.keep': 2, 'eval.batch_size': 16,
     'optim.warmup': '0 steps', 'mask.warmup_steps': 2, 'mask.refresh_steps': 1,
     'log.every_steps': 1, 'subspace.targets': r'backbone/block_0[01]/attn/(q|k)'}
  )  # fmt: skip
  return config


def results(workdir: pathlib.Path) -> dict[str, bytes]:
  """What must be the same: metrics, masks, results, scores, factors."""
  wanted = ('metrics.jsonl', 'masks.jsonl', 'results.json', 'scores/**/*.parquet')
  paths = [path for pattern in (*wanted, 'decomposition/*.safetensors')
           for path in workdir.glob(pattern)]  # fmt: skip
  return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


class _Said(logging.Handler):
  def __init__(self):
    super().__init__(logging.WARNING)
    self.lines: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.lines.append(record.getMessage())


def main() -> int:
  """Prints the count of each outcome; the status is 1 if any flip was believed."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  said = _Said()
  logging.getLogger('absl').addHandler(said)
  talk.drop_of_others()
  outcomes: collections.Counter = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    jax.config.update('jax_compilation_cache_dir', str(root / 'xla'))
    manifest = synthetic.materialize(
      root / 'set', num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1,
      progress=False,
    )  # fmt: skip
    config, workdir, whole = make_config(manifest), root / 'run', root / 'whole'
    train(config, workdir)
    expected = results(workdir)
    workdir.rename(whole)
    for number, (path, bit) in enumerate(places(whole, args.count, args.seed), 1):
      if any(part in str(path) for part in _SHOWN):
        outcomes['only shown'] += 1
        continue
      shutil.copytree(whole, workdir)
      flip(workdir / path, bit)
      said.lines.clear()
      begun = time.process_time()
      try:
        train(config, workdir)
        same = results(workdir) == expected
        told = any('damaged' in line or 'cannot be read' in line for line in said.lines)
        outcome = ('found, same bytes' if told else 'same bytes') if same else 'OTHER BYTES'
      except UserError as error:
        outcome = f'refused: {str(error)[:160]}'
      except Exception as error:  # What this program is for.
        outcome = f'TRACEBACK {type(error).__name__}: {error}'[:300]
      outcomes[outcome.partition(':')[0]] += 1
      if outcome.startswith(('OTHER', 'TRACE', 'refused')):
        print(f'{number}: {path} bit {bit}: {outcome}', file=sys.stderr, flush=True)
      if number % 25 == 0:
        seconds = time.process_time() - begun
        print(f'{number}: {dict(outcomes)} ({seconds:.1f} s)', file=sys.stderr, flush=True)
      shutil.rmtree(workdir)
  print(dict(outcomes))
  return int(any(outcome.startswith(('OTHER', 'TRACE')) for outcome in outcomes))


if __name__ == '__main__':
  sys.exit(main())
