"""An adapter: what a run trained, in one small file that needs the base weights.

See `convert.adapter` for what it holds; `python -m masm_jax.convert --from adapter` puts it on its
base weights again, and refuses others.
"""

import json

import jax
import numpy as np

from masm_jax import files, tree
from masm_jax.convert import adapter
from masm_jax.errors import UserError
from masm_jax.export import common
from masm_jax.export.detector import without_places
from masm_jax.export.request import Request
from masm_jax.inference import detector_file, detector_schema, trained
from masm_jax.parallel import sharding
from masm_jax.terminal import say


def write(request: Request) -> None:
  """Writes the file, puts it on the base weights again, and compares with the run.

  Raises:
    UserError: no such run, its base weights are not at hand, or the file cannot be written.
  """
  if detector_file.is_detector_file(request.run):
    raise UserError(f'{request.run} is a detector file, whose parts are merged: give a run')
  if request.out.is_dir():
    raise UserError(f'{request.out} is a folder: give the name of a file')
  if request.out.exists() and not (request.out.is_file() and adapter.is_adapter(request.out)):
    raise UserError(f'{request.out} is there and is no adapter: give the name of a new file')
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  run = trained.load_adapted(request.run, mesh, step=request.step, weights=request.base_weights)
  leaves = {
    path: np.asarray(leaf, np.float32)
    for path, leaf in tree.flatten(jax.device_get(run.trainable)).items()
  }
  logits = adapter.probe_logits(run.detector, run.method.merge(run.trainable, run.frozen))
  origin = {name: run.facts[name] for name in detector_schema.Origin.model_fields}
  note = {
    'format': adapter.FORMAT,
    'base_weights': run.facts['base_weights'],
    'method': run.facts['method'],
    'backbone': run.facts['backbone'],
    'config': without_places(files.to_json(run.config.to_dict())),
    'origin': origin,
    'crops': [way.to_json() for way in run.crops],
    'logits': logits.tolist(),
  }
  weights = request.base_weights or run.config.backbone.weights
  try:
    with files.replacing(request.out) as fresh:
      common.save(fresh, leaves, **{adapter.KEY: json.dumps(note)})
      found = adapter.read(fresh, weights)
      theirs = adapter.probe_logits(run.detector, found.params)
      between = 'the file on its base weights and the run'
      note['difference'] = common.difference(logits, theirs, between)
      common.save(fresh, leaves, **{adapter.KEY: json.dumps(note)})
  except OSError as error:
    raise UserError(f'cannot write {request.out}: {error.strerror or error}') from error
  say(f'{run.facts["method"]} on {run.facts["backbone"]}: {len(leaves)} arrays')
  say(f'  difference  {note["difference"]["logits"]:.1e} in logits, {between}')
  say(f'Adapter: {request.out}, {request.out.stat().st_size / 1e6:.2f} MB')
