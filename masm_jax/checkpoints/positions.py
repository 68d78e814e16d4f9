"""Where the data iterators of all processes stand, in a checkpoint.

Each holds the digest of what stands beside the state, so that those of another checkpoint, which
are sound in themselves, are not taken for its own.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import grain
import jax

from masm_jax import files, plain_files

_CHECKPOINT = 'checkpoint'  # The key of the digest of what stands beside the state.


class Sealed:
  """A data iterator as Orbax saves it: its state holds the digest of its content.

  Args:
    iterator: whose state is JSON types.
    meta: what stands beside the state of the checkpoint, the same on every process.
  """

  def __init__(self, iterator: grain.DatasetIterator, meta: Mapping[str, Any]):
    self._iterator = iterator
    self._meta = meta

  def get_state(self) -> bytes:
    """The state, as the file holds it."""
    state = self._iterator.get_state() | {_CHECKPOINT: _name(self._meta)}
    return json.dumps(files.seal(state), indent=4).encode()


def read(folder: pathlib.Path, step: int, meta: Mapping[str, Any]) -> dict[str, Any]:
  """Where this process's data iterator resumes.

  Every process has written its own. With as many processes as then, each takes its own again;
  otherwise the position, which is the same in all, and the undecodable records that any has met.

  Args:
    folder: of a checkpoint's positions.
    step: of the checkpoint.
    meta: what stands beside its state.

  Raises:
    ValueError: a file is damaged, or of another checkpoint.
    OSError, TypeError, KeyError: a file is damaged.
  """
  own = folder / f'process_{jax.process_index()}-of-{jax.process_count()}.json'
  if own.exists():
    return _read(own, step, meta)
  states = [_read(file, step, meta) for file in sorted(folder.glob('process_*.json'))]
  (next_step,) = {state['next_step'] for state in states}
  met = dict.fromkeys(record for state in states for record in state['undecodable'])
  return {'next_step': next_step, 'undecodable': list(met)}


def _read(file: pathlib.Path, step: int, meta: Mapping[str, Any]) -> dict[str, Any]:
  found = files.unseal(files.parse_object(plain_files.read_text(file)))
  # Earlier versions did not write what checkpoint they are of; a batch is a step in all of them.
  if found.pop(_CHECKPOINT, _name(meta)) != _name(meta) or found['next_step'] != step:
    raise ValueError('its data positions are those of another checkpoint')
  return found


def _name(meta: Mapping[str, Any]) -> str:
  return files.seal(meta)['digest']
