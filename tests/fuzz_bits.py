"""Flips bits in all files of a run, and starts the same command again: same bytes, or found.

  python -m tests.fuzz_bits --count 300

For each flip a copy of a finished run (masm, two blocks, four steps, two checkpoints) is damaged,
and resumed in this process. It must end with the same bytes in every file that says what was
learned and measured. A flip that the run says nothing of lies in bytes that change nothing, which
is looked up for each: whether the file was read at all (its time of access tells, whoever reads),
and whether it decodes to what it was before, or holds its sound bytes again. What is left has no
explanation, and fails as other bytes do. A table at the end has all outcomes by file.
"""

import argparse
import collections
import contextlib
import functools
import io
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from configs import demo
from masm_jax import files
from masm_jax.checkpoints import positions, reading
from masm_jax.data import synthetic
from masm_jax.errors import UserError
from masm_jax.parallel import talk
from masm_jax.training.loop import train
from tests.bits import flip, places

# Throughput, event files and pictures are for looking: no result is made of them.
_SHOWN = ('perf.jsonl', 'tensorboard', '.png')
_FOUND = 'found, same bytes'
_NO_REASON = 'SAME BYTES, BUT WHY?'


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


class Attack:
  """One finished run, damaged again and again.

  Args:
    root: an empty folder.
  """

  def __init__(self, root: pathlib.Path):
    self.said = _Said()
    logging.getLogger('absl').addHandler(self.said)
    manifest = synthetic.materialize(
      root / 'set', num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1,
      progress=False,
    )  # fmt: skip
    self._root, self._config = root, make_config(manifest)
    self.workdir, self.whole = root / 'run', root / 'whole'
    self._run()
    self._expected = results(self.workdir)
    self.workdir.rename(self.whole)
    shutil.copytree(self.whole, self.workdir)
    self._run()  # What a run says of itself when nothing is damaged.
    self._usual = set(self.said.lines)
    shutil.rmtree(self.workdir)

  def _run(self) -> None:
    self.said.lines.clear()
    with contextlib.redirect_stdout(io.StringIO()):
      train(self._config, self.workdir)

  def flip(self, path: pathlib.Path, bit: int) -> str:
    """The outcome of one flip in a copy of the run."""
    shutil.copytree(self.whole, self.workdir)
    target, held = self.workdir / path, self._root / 'held'
    flip(target, bit)
    held.unlink(missing_ok=True)
    os.link(target, held)  # Whatever becomes of the name, the file stays.
    os.utime(held, (0, held.stat().st_mtime))
    try:
      self._run()
      was_read = held.stat().st_atime > 0
      if results(self.workdir) != self._expected:
        return 'OTHER BYTES'
      if any(line not in self._usual for line in self.said.lines):
        return _FOUND
      return f'same bytes: {self._reason(path, bit, was_read)}'
    except UserError as error:
      return f'REFUSED: {str(error)[:160]}'
    except Exception as error:  # What this program is for.
      return f'TRACEBACK {type(error).__name__}: {error}'[:300]
    finally:
      shutil.rmtree(self.workdir)

  def _reason(self, path: pathlib.Path, bit: int, was_read: bool) -> str:
    """Why a flip that nothing was said of has changed nothing."""
    how = 'read' if was_read else 'not read'
    if path.parts[0] == 'checkpoints':
      step = pathlib.Path(*path.parts[:2])
      copy = self._root / 'decoded' / step.name
      shutil.copytree(self.whole / step, copy)
      flip(copy / path.relative_to(step), bit)
      try:
        if _decoded(copy) == self._sound(step):
          return f'{how}, and the checkpoint decodes to the same arrays, position and record'
      except Exception:  # What whoever needs the file will meet.
        if not was_read:
          return 'not read, and found as damaged where it is read'
        # Training asks for the arrays that it knows, not for those that a description names.
        with contextlib.suppress(Exception):
          if _decoded(copy, names=self.whole / step) == self._sound(step):
            return 'read, and what training asks for decodes to the same arrays'
        return _NO_REASON
      finally:
        shutil.rmtree(copy)
      return _NO_REASON
    sound, now = (folder / path for folder in (self.whole, self.workdir))
    if now.exists() and now.read_bytes() == sound.read_bytes():
      return f'{how}, and written anew: the file has its sound bytes again'
    if _document(now) is not None and _document(now) == _document(sound):
      return f'{how}, and the document says the same'
    if any(part in str(path) for part in _SHOWN):
      return f'{how}: times or a picture, of which nothing is made'
    return _NO_REASON

  @functools.cache  # noqa: B019 (it lives as long as the program)
  def _sound(self, step: pathlib.Path) -> Any:
    return _decoded(self.whole / step)


def _decoded(step: pathlib.Path, names: pathlib.Path | None = None) -> Any:
  """All that a checkpoint holds: its arrays, the place in the data, and what stands beside.

  Args:
    step: folder of the checkpoint.
    names: folder of another one, of whose arrays it is asked; None for its own.
  """
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata((names or step) / 'state').item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    state = checkpointer.restore(step / 'state', restore_args=as_numpy)
  leaves = [
    (
      jax.tree_util.keystr(path),
      str(np.asarray(leaf).dtype),
      np.shape(leaf),
      np.asarray(leaf).tobytes(),
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  ]
  meta = reading.read_meta(step)
  return leaves, positions.read(step / 'data', int(step.name), meta), meta


def _document(path: pathlib.Path) -> Any:
  """What a file of JSON says; None for any other."""
  try:
    return files.parse_json(path.read_bytes())
  except (OSError, ValueError):
    return None


def _kind(path: pathlib.Path) -> str:
  """A file's name without what tells it from others of its kind."""
  name = re.sub(r'[0-9a-f]{16,}', 'HEX', str(path))
  return re.sub(r'events\..*', 'events', re.sub(r'\d{8}', 'STEP', name))


def main() -> int:
  """Prints the count of each outcome by file; the status is 1 if any flip was believed."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  talk.drop_of_others()
  outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(folder, 'xla')))
    attack = Attack(pathlib.Path(folder))
    for number, (path, bit) in enumerate(places(attack.whole, args.count, args.seed), 1):
      begun = time.process_time()
      outcome = attack.flip(path, bit)
      outcomes[_kind(path), outcome] += 1
      if _is_bad(outcome):
        print(f'{number}: {path} bit {bit}: {outcome}', file=sys.stderr, flush=True)
      if number % 25 == 0:
        print(f'{number} ({time.process_time() - begun:.1f} s)', file=sys.stderr, flush=True)
  for (name, outcome), count in sorted(outcomes.items()):
    print(f'{count:4d}  {name}  {outcome}')
  totals: collections.Counter[str] = collections.Counter()
  for (_, outcome), count in outcomes.items():
    totals[outcome] += count
  print()
  for outcome, count in totals.most_common():
    print(f'{count:4d}  {outcome}')
  return int(any(_is_bad(outcome) for outcome in totals))


def _is_bad(outcome: str) -> bool:
  return outcome != _FOUND and (_NO_REASON in outcome or not outcome.startswith('same bytes'))


if __name__ == '__main__':
  sys.exit(main())
