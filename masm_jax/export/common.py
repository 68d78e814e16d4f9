"""What every export to another format does: load the detector, run both, note the difference."""

import contextlib
import dataclasses
import datetime
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import masm_jax
from masm_jax import files, places, tree
from masm_jax.convert import adapter
from masm_jax.errors import UserError
from masm_jax.export.request import Request
from masm_jax.inference import detector_file
from masm_jax.inference.trained import TrainedRun
from masm_jax.metrics import text_tables
from masm_jax.parallel import sharding
from masm_jax.terminal import say

NOTE = 'export.json'
# What the formats write: an export in the place of another format's leaves none of its files.
_FILES = (
  *('model.safetensors', 'head.safetensors', 'config.json', 'model.stablehlo'),
  *('weights.safetensors', 'model.onnx'),
)


def load(request: Request) -> TrainedRun:
  """The detector of a run or a detector file, that computes in float32.

  In bfloat16 a GPU would have its own kernels for attention, which no other program has.
  """
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  # A detector file needs them for nothing but the positions of `gend`.
  weights = '' if detector_file.is_detector_file(request.run) else request.base_weights
  run = detector_file.load_detector(request.run, mesh, step=request.step, weights=weights)
  exact = dataclasses.replace(run.detector, dtype=jnp.dtype('float32'), remat=False)
  return dataclasses.replace(run, detector=exact, params=jax.device_get(run.params))


def probe_images(image_size: int) -> np.ndarray:
  """The images that both are compared on: uint8 [3, S, S, 3]."""
  return adapter.probe_images(image_size)


def logits(run: TrainedRun) -> np.ndarray:
  """Of JAX on them: float32 [3, 2]."""
  return adapter.probe_logits(run.detector, run.params)


@contextlib.contextmanager
def folder(
  request: Request, run: TrainedRun, export_format: str
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """The folder of an export, replaced as a whole, with its note last.

  Yields where the files are to be written, and a dict for what else the note says; `difference`
  has to be there at the end.

  Raises:
    UserError: the folder holds other files or cannot be written.
  """
  out = request.out
  try:
    with places.folder_of(NOTE, out, what='the export', parts=_FILES) as fresh:
      extra: dict[str, Any] = {}
      yield fresh, extra
      note = describe(request, run, export_format) | extra
      files.write_json(fresh / NOTE, note)
  except OSError as error:
    raise UserError(f'cannot write to {out}: {error.strerror or error}') from error
  say(f'{note["name"]}: {note["method"]} on {note["backbone"]}, as {export_format}')
  found = note['difference']
  say(f'  difference  {found["logits"]:.1e} in logits, {found["between"]}')
  say(f'Export: {out}')


def describe(request: Request, run: TrainedRun, export_format: str) -> dict[str, Any]:
  """What every note says: what is needed to give the model its input, and where it comes from."""
  config = run.detector.backbone
  name = request.name or run.facts.get('detector_file') or request.run.absolute().name
  return {
    'format': f'masm_jax {export_format} 1',
    'name': text_tables.one_line(str(name)),
    'licence_note': text_tables.one_line(request.licence_note),
    'version': masm_jax.__version__,
    'jax': jax.__version__,
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'method': run.facts['method'],
    'backbone': run.facts['backbone'],
    'trained_weights': run.facts['trained_weights'],
    'base_weights': run.facts['base_weights'],
    'input': {
      'image_size': config.image_size,
      'mean': list(config.mean),
      'std': list(config.std),
      'crops': [way.to_json() for way in run.crops],
    },
    'normalize_features': run.detector.normalize_features,
    'classes': ['real', 'fake'],
  }


def difference(ours: np.ndarray, theirs: np.ndarray, between: str) -> dict[str, Any]:
  """For the note: the largest difference of logits, and between what.

  Raises:
    UserError: it is too large for the same model.
  """
  found = float(np.abs(ours - theirs).max())
  if not found <= 1e-3 * max(1.0, float(np.abs(ours).max())):
    raise UserError(f'the export computes other logits, by {found:.3g} ({between}): it is not kept')
  return {'logits': found, 'between': between}


def save(path: pathlib.Path, arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
  """Writes a safetensors file whole."""
  files.write_arrays(path, arrays, metadata)


def flat_params(run: TrainedRun) -> dict[str, np.ndarray]:
  """Merged parameters by their paths, float32."""
  return {path: np.asarray(leaf, np.float32) for path, leaf in tree.flatten(run.params).items()}
