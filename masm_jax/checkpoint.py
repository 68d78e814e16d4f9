"""Checkpoints through Orbax: the train state, the data iterator, and what they belong to.

Only what training changes is stored: trainable leaves, moments, mask, statistics, running metrics.
Frozen leaves are rebuilt from the base weights and, for decomposed kernels, the cached factors.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import grain
import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging

from masm_jax import config as config_lib
from masm_jax.errors import UserError
from masm_jax.state import TrainState


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
    self._manager = ocp.CheckpointManager(
      workdir.absolute() / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._policy,
        step_format_fixed_length=8,
        # What a kill left half-written has no final name; it is never read, and removed here.
        cleanup_tmp_directories=True,
      ),
    )

  def save(self, state: TrainState, iterator: grain.DatasetIterator, best: Best) -> None:
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
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain.checkpoint.CheckpointSave(iterator),
        meta=ocp.args.JsonSave(meta),
      ),
    )

  def wait(self) -> None:
    """Returns when everything saved is on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the directory."""
    self._manager.close()

  def latest_step(self) -> int | None:
    """The newest complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def restore(
    self, state: TrainState, iterator: grain.DatasetIterator
  ) -> tuple[TrainState, grain.DatasetIterator, Best]:
    """Restores the newest checkpoint.

    Args:
      state: a state of the right shapes, placed as the restored one shall be.
      iterator: the data iterator, which is set to where it was.

    Raises:
      UserError: the checkpoint belongs to another config, other base weights or other data.
    """
    step = self._manager.latest_step()
    self._check(step)
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(target),
        data=grain.checkpoint.CheckpointRestore(iterator),
        meta=ocp.args.JsonRestore(),
      ),
    )
    best = Best(restored.meta['best_step'], float(restored.meta['best_value']))
    self._policy.best_step = best.step
    return restored.state, restored.data, best

  def restore_trainable(self, state: TrainState, step: int) -> Any:
    """The trainable leaves alone of one checkpoint, placed like those of `state`."""
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    return self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
    ).state.trainable

  def _check(self, step: int) -> None:
    meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    where = f'{self._manager.directory} holds a run of another'
    remedy = 'use a new --workdir, or that config'
    if changed := config_lib.differences(meta['config'], self._config):
      shown = '; '.join(changed[:4]) + (f'; and {len(changed) - 4} more' if changed[4:] else '')
      raise UserError(f'{where} config ({shown}): {remedy}')
    for name, value in self._identity.items():
      if meta[name] != value:
        raise UserError(
          f'{where} {name.replace("_", " ")} (hash {meta[name][:12]}, now '
          f'{value[:12]}): use a new --workdir, or the files it was started with'
        )
    logging.info('resuming from step %d', step)
