"""Predictions on a Ray cluster: each actor holds a detector and answers one file after the other.

Files are read where the actors run: their paths must lead to them on every node.
"""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from masm_jax.parallel import ray_actors
from masm_jax.parallel.ray_actors import Cluster
from masm_jax.prediction import answers
from masm_jax.prediction.answers import Answer
from masm_jax.prediction.media import Source

Maps = Literal['', 'measured', 'always']


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
      Source(str(path), name=str(name), sha256=str(sha256))
      for path, name, sha256 in zip(batch['path'], batch['name'], batch['sha256'], strict=True)
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
    cluster: see `ray_actors`.
    loads: arguments of `predictor.load`, for each actor.
    predicts: arguments of `Engine`, for each actor.
    maps: see `_Reader`.

  Raises:
    UserError: see `ray_actors.run`.
  """
  items = [
    {
      'path': os.path.abspath(str(source.content)),  # Actors may run in another folder.
      'name': str(source.content),
      'sha256': source.sha256,
    }
    for source in sources
  ]
  loads = loads | {
    key: os.path.abspath(loads[key]) for key in ('source', 'weights') if loads.get(key)
  }
  arguments = {'loads': loads, 'predicts': predicts, 'maps': maps}
  for row in ray_actors.run(items, _Reader, arguments, cluster):
    yield answers.from_dict(json.loads(row['answer']))
