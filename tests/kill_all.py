"""Kills every command at random moments: same bytes, no orphan after two seconds, nothing left.

  python -m tests.kill_all --count 100
  python -m tests.kill_all --count 20 --only synthetic,tfds

Half of the kills come within a moment of the first file that the command makes, in a new folder;
the others at any time of its life, and the same command then resumes. After every fifth kill it
runs to its end, and what it has made is compared with what an undisturbed one makes.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import skimage

from masm_jax.data import synthetic
from masm_jax.data.manifest import load_manifest
from tests.disks import leftovers

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
_ORPHAN_S = 2.0


@dataclasses.dataclass(frozen=True)
class Command:
  """What is killed: its arguments, given its output folder, and what must be the same."""

  words: Callable[[pathlib.Path], Sequence[object]]
  files: Sequence[str]
  more: Callable[[pathlib.Path], dict[str, bytes]] = lambda out: {}


def make_commands(folder: pathlib.Path, names: Sequence[str] = ()) -> dict[str, Command]:
  """The commands, all or those of some names, on small inputs that are made in a folder."""
  manifest = synthetic.materialize(
    folder / 'set', num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1,
    progress=False,
  )  # fmt: skip
  astronaut = cv2.imread(str(pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'))
  noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
  for kind, image in (('faces', astronaut[16:208, 128:320]), ('noise', noise)):
    (folder / kind).mkdir()
    for i in range(12):
      cv2.imwrite(str(folder / kind / f'{i}.png'), image)
  fields = {
    'data.train.manifest': manifest, 'data.val.manifest': manifest,
    'data.tests.known.manifest': manifest, 'data.tests.checkerboard.manifest': '',
    'data.tests.poisson.manifest': '', 'data.tests.regenerate.manifest': '',
    'train.batch_size': 8, 'train.duration': '20 steps', 'log.every_steps': 2,
    'eval.every': '10 steps', 'eval.batch_size': 16, 'checkpoint.every': '4 steps',
  }  # fmt: skip
  flags = [f'--config.{field}={value}' for field, value in fields.items()]
  cache = f'--compilation_cache={folder / "xla"}'
  run = folder / 'run'
  train = lambda out: ['main', '--config=demo:method=linear', f'--workdir={out}', cache, *flags]
  if not names or 'evaluate' in names:  # It needs a run.
    subprocess.run(_argv(train(run)), cwd=REPOSITORY, env=_environment(), check=True,
                   capture_output=True)  # fmt: skip
  trained = ('metrics.jsonl', 'results.json', 'scores/**/*.parquet')
  sweeps = folder / 'sweeps.py'
  sweeps.write_text(
    "BASE, BASE_FIELDS = 'configs/demo.py:method=linear', {}\n"
    "SWEEPS = {'one': {'about': 'A rate.', 'rows': {'slow': {'optim.learning_rate': 1e-4}}}}\n"
  )
  commands = {
    'synthetic': Command(
      lambda out: ['data', 'synthetic', '--output', out / 'set', '--identities', 6, '--videos', 1,
                   '--size', 48, '--processes', 2],
      ('set/**/*.png', 'set/manifest.parquet', 'set/synthetic.json'),
    ),
    'tfds': Command(
      lambda out: ['data', 'tfds', manifest, '--output', out, '--name', 'known'],
      ('face_crops/**/features.json',),
      _records,
    ),
    'perturb_videos': Command(
      lambda out: ['perturb_videos', '--input', folder / 'noise', '--output', out, '--key', 'GB',
                   '--level', 1, '--processes', 2],
      ('**/*.png', 'perturbation.json'),
    ),
    'preprocess': Command(
      lambda out: ['preprocess', '--input', folder / 'faces', '--output', out, '--label', 'real',
                   '--split', 'test', '--detector', 'haar', '--size', 96, '--processes', 2],
      ('crops/**/*', 'manifest.parquet', 'outcomes.jsonl', 'preprocess.json'),
    ),
    'train': Command(train, trained),
    'evaluate': Command(
      lambda out: ['evaluate', f'--checkpoint={run}', f'--out={out}', cache,
                   '--suite=cross_eval:protocol=run', '--suite.bootstrap.draws=20'],
      ('results.json', 'scores/*.parquet'),
    ),
    'sweep': Command(
      lambda out: ['sweep', 'one', f'--sweeps={sweeps}', '--seeds=0', f'--workdir={out}', cache,
                   '--jobs=1', *flags],
      ('table.json', 'table.csv', 'runs/slow/seed0/results.json', 'runs/slow/seed0/metrics.jsonl'),
    ),
  }  # fmt: skip
  return {name: commands[name] for name in names or commands}


def _records(out: pathlib.Path) -> dict[str, bytes]:
  """A TFDS set's rows and images: protobuf orders the fields of a record anew each time."""
  manifest = load_manifest(out / 'face_crops' / 'known' / '1.0.0')
  images = {f'image {i}': manifest.images.read(i) for i in range(len(manifest))}
  return images | {'manifest': manifest.sha256.encode()}


def _argv(words: Sequence[object]) -> list[str]:
  return [sys.executable, '-m', 'masm_jax', *map(str, words)]


def _environment() -> dict[str, str]:
  flags = {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}
  return os.environ | flags


class Killer:
  """Kills one command again and again.

  Args:
    command: which one.
    folder: to work in.
    rng: the moments.
  """

  def __init__(self, command: Command, folder: pathlib.Path, rng: random.Random):
    self._command, self._folder, self._rng = command, folder, rng
    self.counts: collections.Counter = collections.Counter()
    self.problems: list[str] = []
    begun = time.monotonic()
    self._expected = self._finish(self._out('same'))
    self._seconds = time.monotonic() - begun
    shutil.rmtree(self._folder / 'same')

  def _out(self, name: str) -> pathlib.Path:
    return self._folder / name / 'out'

  def _content(self, out: pathlib.Path) -> dict[str, bytes]:
    found = {path for pattern in self._command.files for path in out.glob(pattern)}
    content = {str(path.relative_to(out)): path.read_bytes() for path in found if path.is_file()}
    return content | self._command.more(out)

  def _finish(self, out: pathlib.Path) -> dict[str, bytes]:
    out.parent.mkdir(parents=True, exist_ok=True)
    argv = _argv(self._command.words(out))
    result = subprocess.run(
      argv, cwd=REPOSITORY, env=_environment(), capture_output=True, text=True
    )
    if result.returncode or 'Traceback' in result.stderr:
      self.problems.append(f'status {result.returncode}: {result.stderr[-400:]}')
    return self._content(out)

  def kill(self, count: int) -> None:
    """Kills it so many times; counts what came of it, and notes problems."""
    out = self._out('same')  # The same path as undisturbed: some files name it.
    for number in range(count):
      at_first_write = number % 2 == 0
      if at_first_write:
        shutil.rmtree(out.parent, ignore_errors=True)
      out.parent.mkdir(parents=True, exist_ok=True)
      process = subprocess.Popen(
        _argv(self._command.words(out)), cwd=REPOSITORY, env=_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
      )  # fmt: skip
      if at_first_write:
        while process.poll() is None and not any(out.parent.rglob('*')):
          time.sleep(0.0005)
        time.sleep(self._rng.choice((0, 0.001, 0.01, 0.1)) * self._rng.random())
      else:
        time.sleep(self._rng.uniform(0, self._seconds))
      was_running = process.poll() is None
      process.send_signal(signal.SIGKILL)
      process.wait()
      self.counts['killed' if was_running else 'done before'] += 1
      self.counts['at a first write'] += was_running and at_first_write
      deadline = time.monotonic() + _ORPHAN_S
      while (orphans := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
      if orphans:
        said = '; '.join(map(_describe, orphans))
        self.problems.append(f'kill {number}: {len(orphans)} orphans after {_ORPHAN_S} s: {said}')
        for orphan in orphans:
          os.kill(orphan, signal.SIGKILL)
      if number % 5 == 4 or number == count - 1:
        self._compare(out, number)

  def _compare(self, out: pathlib.Path, number: int) -> None:
    found = self._finish(out)
    self.counts['run to the end'] += 1
    if found != self._expected:
      names = [n for n in {**found, **self._expected} if found.get(n) != self._expected.get(n)]
      self.problems.append(f'after kill {number}: other bytes in {sorted(names)[:5]}')
    if left := leftovers(out.parent):
      self.problems.append(f'after kill {number}: left behind: {left[:5]}')


def members(session: int) -> list[int]:
  """The processes of a session that have not ended."""
  members = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      state, _, _, its_session = stat.read_text().rpartition(')')[2].split()[:4]
    except (OSError, ValueError):
      continue
    if int(its_session) == session and state not in 'ZX':
      members.append(int(stat.parent.name))
  return members


def _describe(pid: int) -> str:
  """Command, parent and age of a process; '' if it is gone."""
  place = pathlib.Path('/proc', str(pid))
  try:
    command = place.joinpath('cmdline').read_bytes().replace(b'\0', b' ').decode()[-120:]
    fields = place.joinpath('stat').read_text().rpartition(')')[2].split()
    up = float(pathlib.Path('/proc/uptime').read_text().split()[0])
  except (OSError, ValueError):
    return 'gone'
  ticks = os.sysconf('SC_CLK_TCK')
  computed = (int(fields[11]) + int(fields[12])) / ticks
  return (
    f'{command} (parent {fields[1]}, {fields[17]} threads, {up - int(fields[19]) / ticks:.1f} s'
    f' old, computed {computed:.1f} s)'
  )


def main() -> int:
  """Prints the counts of each command; the status is 1 if anything went wrong."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--count', type=int, default=100)
  parser.add_argument('--only', default='')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  failed = False
  with tempfile.TemporaryDirectory() as folder:
    names = args.only.split(',') if args.only else ()
    for name, command in make_commands(pathlib.Path(folder), names).items():
      killer = Killer(command, pathlib.Path(folder, 'work', name), random.Random(args.seed))
      killer.kill(args.count)
      failed |= bool(killer.problems)
      print(name, dict(killer.counts), f'{len(killer.problems)} problems', flush=True)
      for problem in killer.problems:
        print(f'  {problem}', flush=True)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
