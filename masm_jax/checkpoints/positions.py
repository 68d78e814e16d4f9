"""Where the data iterators of all processes stand, in a checkpoint."""

import json
import pathlib
from typing import Any

import grain
import jax

from masm_jax import files, plain_files


class Sealed:
  """A data iterator as Orbax saves it: its state holds the digest of its content.

  Args:
    iterator: whose state is JSON types.
  """

  def __init__(self, iterator: grain.DatasetIterator):
    self._iterator = iterator

  def get_state(self) -> bytes:
    """The state, as the file holds it."""
    return json.dumps(files.seal(self._iterator.get_state()), indent=4).encode()


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Where this process's data iterator resumes.

  Every process has written its own. With as many processes as then, each takes its own again;
  otherwise the position, which is the same in all, and the undecodable records that any has met.

  Args:
    folder: of a checkpoint's positions.

  Raises:
    ValueError: a file is damaged; OSError, TypeError or KeyError: likewise.
  """
  own = folder / f'process_{jax.process_index()}-of-{jax.process_count()}.json'
  if own.exists():
    return _read(own)
  states = [_read(file) for file in sorted(folder.glob('process_*.json'))]
  (next_step,) = {state['next_step'] for state in states}
  met = dict.fromkeys(record for state in states for record in state['undecodable'])
  return {'next_step': next_step, 'undecodable': list(met)}


def _read(file: pathlib.Path) -> dict[str, Any]:
  return files.unseal(files.parse_object(plain_files.read_text(file)))
