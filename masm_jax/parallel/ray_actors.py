"""Work on a Ray cluster: actors that take one item after the other.

An item is a block of its own, so that an actor or a node that dies loses only what it had open: Ray
starts another one, and gives it that item again. Ray itself is imported only here, by `run`.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from masm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Where and how widely.

  Attributes:
    address: of a cluster, `auto` for the one of this machine; '' starts one for this call.
    num_actors: at work; more than there is room for wait.
    cpus: of each actor.
    gpus: of each actor.
  """

  address: str = ''
  num_actors: int = 1
  cpus: float = 1.0
  gpus: float = 0.0


def run(
  items: Sequence[Mapping[str, Any]],
  actor: type,
  arguments: Mapping[str, Any],
  cluster: Cluster,
) -> Iterator[dict[str, Any]]:
  """Gives each item to an actor; yields the rows that come of them, in any order.

  Args:
    items: rows of plain values; none starts no cluster.
    actor: a class whose objects take a row as a batch of one (column -> array of length 1), and
      return one.
    arguments: of the class, by name; pickled.
    cluster: see there.

  Raises:
    UserError: Ray is not installed, or there is no cluster at the address.
  """
  try:
    import ray
    import ray.data
  except ImportError as error:
    raise UserError('--engine ray needs Ray: pip install masm_jax[ray]') from error
  if not items:
    return
  starts_here = not ray.is_initialized()
  if starts_here:
    try:
      if cluster.address.startswith('ray://'):  # A client: nothing is added there.
        ray.init(address=cluster.address, log_to_driver=False)
      elif cluster.address:
        ray.init(address=cluster.address, log_to_driver=False, job_config=_job())
      else:
        ray.init(include_dashboard=False, log_to_driver=False, job_config=_job())
    except ConnectionError as error:
      raise UserError(f'no Ray cluster at {cluster.address}: start one with `ray start`') from error
  try:
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = ray.data.from_items(
      [dict(item) for item in items], override_num_blocks=len(items)
    ).map_batches(
      actor,
      fn_constructor_kwargs=dict(arguments),
      batch_size=1,
      compute=ray.data.ActorPoolStrategy(size=max(1, min(cluster.num_actors, len(items)))),
      num_cpus=cluster.cpus,
      num_gpus=cluster.gpus or None,
    )
    yield from found.iter_rows()
  finally:
    if starts_here:
      ray.shutdown()


def _job() -> Any:
  """A job whose workers import from no folder that this process does not.

  Ray puts the working folder first on their path, where a stranger's `numpy.py` may lie.
  """
  from ray.job_config import JobConfig

  class Job(JobConfig):
    def _serialize(self) -> Any:
      known = {os.path.abspath(path) for path in sys.path}
      self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in known]
      return super()._serialize()

  return Job()
