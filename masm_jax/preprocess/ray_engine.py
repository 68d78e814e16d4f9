"""Crops on a Ray cluster: each actor reads one video after the other, in a process beside it.

Videos are read, and their crops are committed, where the actors run: the paths of both folders must
lead to them on every node.
"""

import collections
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from masm_jax.errors import UserError
from masm_jax.parallel import ray_actors
from masm_jax.parallel.ray_actors import Cluster
from masm_jax.preprocess import pool


class _Reader:
  """An actor.

  Args:
    make: as of `pool.run`.
    args: as of `pool.run`.
    max_memory_bytes: as of `pool.run`.
  """

  def __init__(
    self, make: Callable[..., Callable[[Any], Any]], args: tuple[Any, ...], max_memory_bytes: int
  ):
    self._given: collections.deque[Any] = collections.deque()
    # One process, to which a video may do what it does to one of the local engine.
    self._done = pool.run(
      iter(self._given.popleft, None), make, args,
      num_processes=1, max_memory_bytes=max_memory_bytes,
    )  # fmt: skip

  def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    (task,) = batch['task']
    self._given.append(pickle.loads(task))
    try:
      _, found = next(self._done)
    except UserError as error:  # Ray would wrap it.
      found = error
    return {'number': list(batch['number']), 'result': [pickle.dumps(found)]}


def run(
  tasks: Sequence[Any],
  make: Callable[..., Callable[[Any], Any]],
  args: tuple[Any, ...],
  cluster: Cluster,
  *,
  max_memory_bytes: int,
) -> Iterator[tuple[Any, Any]]:
  """As `pool.run`, on a cluster.

  Raises:
    UserError: what a task or `make` raised; see `ray_actors.run` too.
  """
  items = [item(number, task) for number, task in enumerate(tasks)]
  arguments = {'make': make, 'args': args, 'max_memory_bytes': max_memory_bytes}
  for row in ray_actors.run(items, _Reader, arguments, cluster):
    yield tasks[row['number']], result(row)


def item(number: int, task: Any) -> dict[str, Any]:
  """A task as a row."""
  return {'number': number, 'task': pickle.dumps(task)}


def result(row: Mapping[str, Any]) -> Any:
  """What came of a task.

  Raises:
    UserError: that is what came of it.
  """
  found = pickle.loads(row['result'])
  if isinstance(found, UserError):
    raise found
  return found
