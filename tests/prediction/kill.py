"""Kills `predict` at random, again and again: its lines end as those of an undisturbed run.

python -m tests.prediction.kill --model runs/demo/masm --kills 30 --videos 40
"""

import argparse
import importlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.prediction.clips import write_clip

_WAIT_SECONDS = 300


def predict_main():
  """The command, its compiled programs kept between starts."""
  from masm_jax import predict

  return predict.main()


def main():
  """Prints what came of it; returns 1 if the lines differ."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', required=True)
  parser.add_argument('--kills', type=int, default=30)
  parser.add_argument('--videos', type=int, default=40)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('more', nargs='*', help='flags of predict, behind --')
  args = parser.parse_args()
  folder = pathlib.Path(tempfile.mkdtemp())
  rng, choose = np.random.default_rng(args.seed), random.Random(args.seed)
  (folder / 'videos').mkdir()
  for i in range(args.videos):
    frames = rng.integers(0, 256, (rng.integers(8, 40), 64, 64, 3), dtype=np.uint8)
    write_clip(folder / 'videos' / f'{i:02d}.mkv', frames)
  words = [f'--model={args.model}', '--faces=whole', f'--source={folder / "videos"}', *args.more]
  # Imported once: a start then takes seconds less. Nothing here starts jax or a thread.
  for module in ('predict', 'prediction.engine', 'prediction.report', 'prediction.pictures'):
    importlib.import_module(f'masm_jax.{module}')

  def start(out):
    if pid := os.fork():
      return pid
    with open(folder / 'log.txt', 'ab') as log:
      os.dup2(log.fileno(), 1)
      os.dup2(log.fileno(), 2)
    sys.argv = ['predict', *words, f'--out={folder / out}']
    status = predict_main()
    sys.stdout.flush()
    os._exit(status)

  def ended(pid, options=0):
    done, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if done else None

  assert ended(start('whole')) == 0, (folder / 'log.txt').read_text()[-2000:]
  lines = folder / 'killed' / 'predictions.jsonl'
  count = lambda: lines.read_bytes().count(b'\n') if lines.exists() else 0
  kills = 0
  while kills < args.kills:
    # Kills are spread over the work: the next one comes when so many lines are there.
    wanted = min(count() + (choose.random() < args.videos / args.kills), args.videos - 1)
    pid = start('killed')
    began = time.monotonic()
    status = None
    while count() < wanted and status is None:
      assert time.monotonic() - began < _WAIT_SECONDS
      time.sleep(0.002)
      status = ended(pid, os.WNOHANG)
    time.sleep(choose.random() * choose.choice((0.02, 0.3)))
    if status is None:
      os.kill(pid, signal.SIGKILL)
      status = ended(pid)
    if status != -signal.SIGKILL:
      print(f'it ended with {status} before it was killed')
      break
    kills += 1
    data = lines.read_bytes() if lines.exists() else b''
    state = 'cut' if data and not data.endswith(b'\n') else 'whole'
    print(f'kill {kills}: {data.count(bytes([10]))} lines, the last one {state}', flush=True)
  assert ended(start('killed')) == 0
  time.sleep(2)
  orphans = subprocess.run(['pgrep', '-f', str(folder)], capture_output=True, text=True).stdout
  equal = (folder / 'whole' / 'predictions.jsonl').read_bytes() == lines.read_bytes()
  print(f'{kills} kills; {count()} lines; equal: {equal}; processes left: {orphans.split() or 0}')
  shutil.rmtree(folder)
  return int(not equal)


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  sys.exit(main())
