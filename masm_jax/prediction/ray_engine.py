"""Predictions on a Ray cluster: each actor holds a detector and answers one file after the other.

A file is a block of its own, so that an actor or a node that dies loses only what it had open: Ray
starts another one, and gives it that file again. Files are read where the actors run: their paths
must lead to them on every node.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from masm_jax.errors import UserError
from masm_jax.prediction import answers
from masm_jax.prediction.answers import Answer
from masm_jax.prediction.media import Source

Maps = Literal['', 'measured', 'always']


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Where and how widely.

  Attributes:
    address: of a cluster, `auto` for the one of this machine; '' starts one for this call.
    num_actors: detectors at work; more than there is room for wait.
    cpus: of each actor.
    gpus: of each actor.
  """

  address: str = ''
  num_actors: int = 1
  cpus: float = 1.0
  gpus: float = 0.0


class _Reader:
  """An actor.

  Args:
    loads: arguments of `predictor.load`.
    predicts: arguments of `Engine`.
    maps: explanations, see `explaining.FaceExplainer`; '' for none.
  """

  def __init__(self, loads: dict[str, Any], predicts: dict[str, Any], maps: Maps):
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_deterministic_ops=true'
    from masm_jax.prediction.engine import Engine
    from masm_jax.prediction.predictor import load

    explainer = None
    if maps:
      from masm_jax.prediction.explaining import FaceExplainer

      explainer = FaceExplainer(
        loads['source'], step=loads['step'], weights=loads['weights'], maps=maps
      )
    self._engine = Engine(load(**loads), explainer=explainer, **predicts)

  def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
    sources = [
      Source(str(name), name=str(name), sha256=str(sha256))
      for name, sha256 in zip(batch['name'], batch['sha256'], strict=True)
    ]
    return {'answer': [json.dumps(one.to_dict()) for one in self._engine.predict(sources)]}


def predict(
  sources: Iterable[Source],
  cluster: Cluster,
  *,
  loads: dict[str, Any],
  predicts: dict[str, Any],
  maps: Maps = '',
) -> Iterator[Answer]:
  """Answers in any order.

  Args:
    sources: paths, with their hashes.
    cluster: see there.
    loads: arguments of `predictor.load`, for each actor.
    predicts: arguments of `Engine`, for each actor.
    maps: see `_Reader`.

  Raises:
    UserError: Ray is not installed, or there is no cluster at the address.
  """
  try:
    import ray
    import ray.data
  except ImportError as error:
    raise UserError('--engine ray needs Ray: pip install masm_jax[ray]') from error
  items = [{'name': str(source.content), 'sha256': source.sha256} for source in sources]
  if not items:
    return
  starts_here = not ray.is_initialized()
  if starts_here:
    try:
      if cluster.address:
        ray.init(address=cluster.address, log_to_driver=False)
      else:
        ray.init(include_dashboard=False, log_to_driver=False)
    except ConnectionError as error:
      raise UserError(f'no Ray cluster at {cluster.address}: start one with `ray start`') from error
  try:
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
      _Reader,
      fn_constructor_kwargs={'loads': loads, 'predicts': predicts, 'maps': maps},
      batch_size=1,
      compute=ray.data.ActorPoolStrategy(size=min(cluster.num_actors, len(items))),
      num_cpus=cluster.cpus,
      num_gpus=cluster.gpus or None,
    )
    for row in found.iter_rows():
      yield answers.from_dict(json.loads(row['answer']))
  finally:
    if starts_here:
      ray.shutdown()
