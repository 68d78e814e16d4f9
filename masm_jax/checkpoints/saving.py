"""Checkpoints through Orbax: the train state, the data iterator, and what they belong to.

Only what training changes is stored: trainable leaves, moments, mask, statistics, running metrics.
Frozen leaves are rebuilt from the base weights and, for decomposed kernels, the cached factors.
Beside each state stands a digest of its content, which reading verifies: see `reading.verify`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from masm_jax import config as config_lib
from masm_jax import files, places, tree
from masm_jax.checkpoints import positions, reading
from masm_jax.errors import UserError, first_line
from masm_jax.parallel import agreement, peers


class State(Protocol):
  """A tree of arrays that knows its step; the trained leaves are `trainable`."""

  step: jax.Array
  trainable: Any


_OTHER_PARTS = 'tree structures do not match'  # As Orbax says it.
_HALF_WRITTEN = '.orbax-checkpoint-tmp'  # In the name of a checkpoint that is being written.


@dataclasses.dataclass
class _KeepNewestAndBest:
  """Preservation policy: the newest `keep` checkpoints, and the best one so far."""

  keep: int
  best_step: int = -1

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    newest = len(checkpoints) - self.keep
    return [i >= newest or info.step == self.best_step for i, info in enumerate(checkpoints)]


@dataclasses.dataclass(frozen=True)
class Best:
  """The best validation so far: `step` 0 if there was none."""

  step: int = 0
  value: float = float('-inf')


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: the run's directory; they lie in `workdir/checkpoints`.
    config: the run's config; stored, and compared on restore.
    base_hash: hash of the pretrained weights.
    manifest_hash: hash of the training manifest.
    val_hash: hash of the validation manifest, which chooses the best checkpoint.

  Raises:
    UserError: there are checkpoints already, of another config, other base weights or other data;
      or the processes see different directories.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    config: ml_collections.ConfigDict,
    base_hash: str,
    manifest_hash: str,
    val_hash: str,
  ):
    self._config = config
    self._identity = {
      'base_weights': base_hash,
      'train_manifest': manifest_hash,
      'val_manifest': val_hash,
    }
    self._policy = _KeepNewestAndBest(config.checkpoint.keep)
    self._manager = self._managed(places.real_folder(workdir) / 'checkpoints')
    steps = self._newest_first()
    self._check_same_directory(steps)
    self._check_identity(steps)
    # What a kill left half-written has no final name and is never read. Orbax would remove it in a
    # thread of its own, before the check, and with a traceback where the check ends the program.
    if jax.process_index() == 0:
      for path in pathlib.Path(self._manager.directory).glob(f'*{_HALF_WRITTEN}*'):
        shutil.rmtree(path, ignore_errors=True)

  def save(self, state: State, iterator: grain.DatasetIterator, best: Best) -> None:
    """Saves in the background, unless this step is saved already."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self._policy.best_step = best.step
    meta = {
      'config': self._config.to_dict(),
      **self._identity,
      'best_step': best.step,
      'best_value': str(best.value),
      'digests': tree.digests(state),
    }
    with self._storage_errors():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=grain.checkpoint.CheckpointSave(positions.Sealed(iterator, meta)),
          meta=ocp.args.JsonSave(files.seal(meta)),
        ),
      )

  def wait(self) -> None:
    """Returns when everything saved is on the disk."""
    with self._storage_errors():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the directory."""
    with self._storage_errors():
      self._manager.close()

  def latest_step(self) -> int | None:
    """The newest complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def restore(
    self, state: State, iterator: grain.DatasetIterator
  ) -> tuple[State, grain.DatasetIterator, Best]:
    """Restores the newest checkpoint that can be read; newer ones are moved out of the way.

    It may be of another number of devices or processes. Without any, all stays as it is. Where the
    one that validation chose is damaged, the run resumes before it and makes it again: the results
    would be others without it.

    Args:
      state: a state of the right shapes, placed as the restored one shall be.
      iterator: the data iterator, which is set to where it was.

    Raises:
      UserError: none can be read.
    """
    steps = self._newest_first()
    if not steps:
      return state, iterator, Best()
    damaged: dict[int, str] = {}
    found = None
    for step in steps:
      if step in damaged:
        continue
      found, damaged[step] = agreement.together(functools.partial(self._read, step, state))
      if not found:
        continue
      best_step = found[0]['best_step']
      problem = self._problem_of_best(best_step, step, state)
      if not problem:
        del damaged[step]
        break
      found = None
      after = f'it follows the one of step {best_step}, which validation chose'
      damaged |= {other: after for other in steps if other > best_step} | {best_step: problem}
    if not found and any(problem.startswith('it follows') for problem in damaged.values()):
      self._set_aside(damaged)
      return state, iterator, Best()
    if not found:
      if all(_OTHER_PARTS in problem for problem in damaged.values()):
        raise UserError(
          f'{self._manager.directory} holds a run of another version of this program, whose state '
          'has other parts: it can be evaluated as it is; train anew in a new --workdir'
        )
      listing = '; '.join(f'step {step}: {problem}' for step, problem in damaged.items())
      raise UserError(
        f'no checkpoint in {self._manager.directory} can be read ({listing}); put a copy of one '
        'back, or train anew: in a new --workdir, or in this one without that folder'
      )
    meta, position, restored = found
    self._set_aside(damaged)
    iterator.set_state(position)
    iterator.start_prefetch()
    logging.info('resuming from step %d', step)
    best = Best(meta['best_step'], float(meta['best_value']))
    if best.step and best.step not in self._manager.all_steps():
      best = Best()  # Gone with what was damaged: a later validation chooses.
    self._policy.best_step = best.step
    kept = {*self._newest_first()[: self._policy.keep], best.step}
    for extra in set(self._newest_first()) - kept:  # A kill came before its removal.
      self._manager.delete(extra)
    return restored, iterator, best

  def _newest_first(self) -> list[int]:
    return sorted(self._manager.all_steps(), reverse=True)

  # Read without the manager: it makes the processes meet after each item that it has read, and one
  # that could not read it would stay away.

  def _read(self, step: int, state: State) -> tuple[dict[str, Any], dict[str, Any], State]:
    """What was stored beside the state, the iterator's state, and the state, placed as `state`."""
    meta = self._meta(step)
    position = positions.read(self._folder(step) / 'data', step, meta)
    return meta, position, self._state(step, state, meta)

  def _problem_of_best(self, best: int, step: int, state: State) -> str:
    """Why the checkpoint that validation chose before `step` cannot be used; '' if it can."""
    if best == step or best not in self._manager.all_steps():
      return ''
    return agreement.together(lambda: self._state(best, state, self._meta(best)))[1]

  def _managed(self, folder: pathlib.Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._policy,
      step_format_fixed_length=8,
      # Orbax' own notes of each checkpoint decide nothing here, and may be damaged.
      lightweight_initialize=True,
    )
    return ocp.CheckpointManager(folder, options=options)

  def _meta(self, step: int) -> dict[str, Any]:
    return reading.read_meta(self._folder(step))

  def _state(self, step: int, state: State, meta: dict[str, Any]) -> State:
    reading.check_state(self._folder(step) / 'state')
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      found = handler.restore(
        self._folder(step) / 'state', args=ocp.args.StandardRestore(_like(state))
      )
    reading.verify(found, meta)
    if int(found.step) != step:  # Version 0.1 stored no digest of it.
      raise ValueError(reading.OTHER_STEP)
    return found

  def _folder(self, step: int) -> pathlib.Path:
    return pathlib.Path(self._manager.directory) / f'{step:08d}'

  def _set_aside(self, damaged: dict[int, str]) -> None:
    """Moves checkpoints to `damaged_checkpoints`, so that the run can save those steps again."""
    if not damaged:
      return
    target = pathlib.Path(self._manager.directory).parent / 'damaged_checkpoints'
    for step, problem in damaged.items():
      logging.warning(
        'the checkpoint of step %d cannot be read (%s); it is in %s now, and the run resumes from '
        'an older one',
        step,
        problem,
        target,
      )
      if jax.process_index() == 0:
        target.mkdir(exist_ok=True)
        shutil.rmtree(target / self._folder(step).name, ignore_errors=True)
        self._folder(step).rename(target / self._folder(step).name)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged checkpoints are moved')
    self._manager.close()  # Its `reload` would read the notes.
    self._manager = self._managed(target.parent / 'checkpoints')

  def _check_same_directory(self, steps: Sequence[int]) -> None:
    if jax.process_count() == 1:
      return
    listing = ' '.join(map(str, steps))
    seen = [max(steps, default=0), len(steps), zlib.crc32(listing.encode())]
    found = multihost_utils.process_allgather(np.array(seen, np.uint32))
    if (found != found[0]).any():
      raise UserError(
        f'the processes see different checkpoints in {self._manager.directory} (newest: '
        f'{", ".join(map(str, found[:, 0]))}; in number: {", ".join(map(str, found[:, 1]))}): '
        '--workdir must be on storage that all hosts share'
      )

  @contextlib.contextmanager
  def _storage_errors(self) -> Iterator[None]:
    """What goes wrong in writing is the storage's fault: the user's to mend, not a crash.

    Writing ends in the background, so that the error may come up at the next save or at the end.
    """
    try:
      yield
    except Exception as error:
      if peers.is_lost(error):
        raise
      complete = reading.complete_steps(pathlib.Path(self._manager.directory))
      good = f'step {max(complete)}' if complete else 'none'
      raise UserError(
        f'a checkpoint could not be written to {self._manager.directory}: {first_line(error)}; '
        f'last complete one: {good}; the same command resumes from there'
      ) from error

  def restore_trainable(self, state: State, step: int) -> Any:
    """The trainable leaves alone of one checkpoint, placed like those of `state`."""
    found, problem = agreement.together(lambda: self._state(step, state, self._meta(step)))
    if found is None:
      raise UserError(
        f'the checkpoint of step {step} in {self._manager.directory}, which validation chose, '
        f'cannot be read: {problem}'
      )
    return found.trainable

  def _check_identity(self, steps: Sequence[int]) -> None:
    """Refuses the checkpoints of another run; the newest one that says what it is speaks for all.

    Early, so that a command with the wrong --workdir or config leaves everything as it was.
    """
    for step in steps:
      meta, _ = agreement.together(functools.partial(self._meta, step))
      if meta:  # Otherwise it is damaged: `restore` says so.
        break
    else:
      return
    if refusal := agreement.first_problem(self._refusal(meta)):
      raise UserError(refusal)

  def _refusal(self, meta: dict[str, Any]) -> str:
    """Why checkpoints that say this of themselves are not this run's, '' if they are."""
    where = f'{self._manager.directory} holds a run of another'
    remedy = 'use a new --workdir, or that config'
    if changed := config_lib.differences(meta['config'], self._config):
      shown = '; '.join(changed[:4]) + (f'; and {len(changed) - 4} more' if changed[4:] else '')
      return f'{where} config ({shown}): {remedy}'
    for name, value in self._identity.items():
      if (stored := meta.get(name, '')) != value:
        return (
          f'{where} {name.replace("_", " ")} (hash {stored[:12]}, now '
          f'{value[:12]}): use a new --workdir, or the files it was started with'
        )
    return ''


def _like(state: Any) -> Any:
  """Shapes, types and places of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
