"""Reads the checkpoints of a run without changing them, for evaluation and analysis."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from masm_jax import files, places, plain_files, tree
from masm_jax.checkpoints import chunks
from masm_jax.errors import UserError
from masm_jax.parallel import agreement

T = TypeVar('T')

OTHER_STEP = 'it is of another step than its folder says'
_MAX_KEPT = 256  # Checkpoints that processes tell one another of.
# Orbax' manager would make and tidy up, and read a note of its own about each checkpoint, which
# decides nothing here: a damaged one would end the program.
_NAMES = ocp.path.step.standard_name_format(step_format_fixed_length=8)


def check_files(folder: pathlib.Path) -> None:
  """Refuses a checkpoint in which Orbax would wait for ever, or read what no memory holds.

  Raises:
    OSError: a pipe or a device lies in it, or a note of Orbax' that is none by its size.
  """
  for parent, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(FileNotFoundError):  # A link may lead nowhere.
        status = plain_files.refuse_odd(os.path.join(parent, name))
        if os.path.basename(parent) != 'd':  # There the arrays lie.
          plain_files.refuse_size(status.st_size, plain_files.MAX_DOCUMENT_BYTES)


def check_state(folder: pathlib.Path) -> None:
  """As `check_files`, of the folder of a state, and what its arrays claim.

  Raises:
    OSError: as `check_files`.
    ValueError: as `chunks.check`.
  """
  check_files(folder)
  chunks.check(folder)


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
  """What was stored beside the state of a checkpoint.

  Args:
    folder: of the checkpoint, named by its step.

  Raises:
    ValueError: it is damaged, or of another step; and what else Orbax raises of files that it
      cannot read.
  """
  check_files(folder / 'meta')
  found = ocp.JsonCheckpointHandler().restore(folder / 'meta')
  if not isinstance(found, dict):
    raise ValueError('its metadata are no JSON object')
  if type(found.get('best_step')) is not int:
    raise ValueError('its metadata name no best step')
  meta = files.unseal(found)
  step = tree.digests({'step': np.int32(folder.name)})['step']
  if meta.get('digests', {}).get('step', step) != step:
    raise ValueError(OTHER_STEP)
  return meta


def verify(state: Any, meta: dict[str, Any]) -> None:
  """Holds what was read of a state to what was saved.

  The digests are of values, types and shapes, so that it does not matter how many devices or
  processes have written or read them.

  Args:
    state: a tree of arrays, or some of its parts: each part has its own digest.
    meta: what stands beside the state.

  Raises:
    ValueError: a part is not what was saved, or a trained leaf or moment is not finite.
  """
  if 'digests' not in meta:
    _say_unverified()
  for name, digest in tree.digests(state).items() if 'digests' in meta else ():
    if meta['digests'].get(name) != digest:
      raise ValueError(f'{name}: its content does not match its digest')
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  for path, leaf in leaves:
    text = jax.tree_util.keystr(path, simple=True, separator='/')
    if text.split('/')[0] in ('trainable', 'opt_state') and not tree.is_finite(leaf):
      raise ValueError(f'{text} holds values that are not finite')


@functools.cache
def _say_unverified() -> None:
  logging.warning(
    'the checkpoints are of an earlier version, which stored no digests: damage of their arrays '
    'goes unnoticed'
  )


def complete_steps(folder: pathlib.Path) -> list[int]:
  """The steps of the complete checkpoints that lie in a folder now, rising."""
  return sorted({found.step for found in _NAMES.find_all(folder)})


class SavedRun:
  """The checkpoints of a run, to read from: nothing in its directory is changed.

  Args:
    workdir: the run's directory.

  Raises:
    UserError: there is no complete checkpoint in it.
  """

  def __init__(self, workdir: pathlib.Path):
    self._directory = places.real_folder(workdir) / 'checkpoints'
    if not self._directory.is_dir():
      raise UserError(f'{workdir} is no run: it has no checkpoints; give the --workdir of a run')
    self.steps = self._kept()
    if not self.steps:
      raise UserError(
        f'{workdir} has no complete checkpoint yet: wait for its first one '
        '(--config.checkpoint.every), or resume the run by the command that started it'
      )

  def meta(self, step: int) -> dict[str, Any]:
    """What was stored beside the state: config, hashes, best step and value.

    Raises:
      UserError: it cannot be read, by this process or another one.
    """
    return self._read(step, lambda: read_meta(self._folder(step)))

  def choose(self, which: str) -> tuple[int, dict[str, Any]]:
    """The step that `best`, `last` or a number names now, and what was stored beside its state.

    The run may be training: what it has removed meanwhile is not asked for again.

    Raises:
      UserError: as of `find_step` and `meta`.
    """

    def read() -> tuple[int, dict[str, Any]]:
      step = self.find_step(which)
      return step, self.meta(step)

    return self._up_to_date(read)

  def chosen(self, which: str, target: Any) -> tuple[int, dict[str, Any], Any]:
    """As `choose`, and the trainable leaves of that step, see `trainable`."""

    def read() -> tuple[int, dict[str, Any], Any]:
      step, meta = self.choose(which)
      return step, meta, self.trainable(step, target)

    return self._up_to_date(read)

  def find_step(self, which: str) -> int:
    """The step that `best` (by validation), `last` or a number names.

    Before the first validation `best` is the last one, which is said.

    Raises:
      UserError: it is none of these, or not kept.
    """
    last = self.steps[-1]
    best = self.meta(last)['best_step']
    if which == 'best' and not best:
      logging.warning(
        '%s: no validation has chosen a checkpoint yet: it is the newest one, of step %d',
        self._directory,
        last,
      )
      best = last
    named = {'last': last, 'best': best}
    if which not in named and not which.isdecimal():
      raise UserError(f'no checkpoint {which!r}: give best, last or the number of a step')
    step = named[which] if which in named else int(which)
    if step not in self.steps:
      kept = ', '.join(map(str, self.steps))
      raise UserError(f'{self._directory} does not hold step {step}; it keeps {kept}')
    return step

  def trainable(self, step: int, target: Any) -> Any:
    """The trainable leaves alone.

    Args:
      step: one of `steps`.
      target: a tree of `jax.ShapeDtypeStruct`s with shardings.

    Raises:
      UserError: as of `meta`.
    """
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(
      item={'trainable': target},
      restore_args={'trainable': restore_args},
      partial_restore=True,
    )

    def read() -> Any:
      check_state(self._folder(step) / 'state')
      with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        found = handler.restore(self._folder(step) / 'state', args=args)['trainable']
      verify({'trainable': found}, read_meta(self._folder(step)))
      return found

    return self._read(step, read)

  def _kept(self) -> list[int]:
    """The complete checkpoints that there are now, the same on every process."""
    steps = complete_steps(self._directory)
    if jax.process_count() == 1:
      return steps
    listing = np.zeros(_MAX_KEPT, np.int32)
    listing[: len(steps)] = steps[-_MAX_KEPT:]
    return [int(step) for step in multihost_utils.broadcast_one_to_all(listing) if step]

  def _up_to_date(self, read: Callable[[], T]) -> T:
    """What `read` gives; again, if it fails and the run has saved or removed a checkpoint since."""
    while True:
      try:
        return read()
      except UserError:
        before, self.steps = self.steps, self._kept()
        if not self.steps or self.steps == before:
          raise

  def _folder(self, step: int) -> pathlib.Path:
    return self._directory / f'{step:08d}'

  def _read(self, step: int, read: Callable[[], T]) -> T:
    # Without the manager, which makes the processes meet after each item: see `checkpoint.py`.
    found, problem = agreement.together(read)
    if problem:
      others = ', '.join(str(other) for other in self.steps if other != step)
      raise UserError(
        f'the checkpoint of step {step} in {self._directory} cannot be read: {problem}'
        + (f'; there are also those of steps {others}: --step=NUMBER' if others else '')
      )
    return found
