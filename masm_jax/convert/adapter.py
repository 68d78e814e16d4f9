"""An adapter file: what a run trained, without the base weights that it belongs to.

One safetensors file: the trainable leaves by their paths, float32, and in its metadata, below
`masm_jax`, a JSON object with `format`, `base_weights` (the hash that they have to have), `config`
and `origin` of the run, `crops`, and `logits` of `probe_images`, by which a reader knows that it
has put the same detector together.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors

from masm_jax import detector as detector_lib
from masm_jax import files, tree
from masm_jax.convert import states
from masm_jax.convert.formats import Converted
from masm_jax.data import crop_settings
from masm_jax.errors import UserError
from masm_jax.inference import detector_schema, stored
from masm_jax.methods import Method, chosen_layers, make_method

FORMAT = 'masm_jax adapter 1'
KEY = 'masm_jax'  # Of the metadata.

_TOLERANCE = 1e-3  # Of logits; another machine's SVD differs in rounding.


def probe_images(image_size: int, count: int = 3) -> np.ndarray:
  """The images that exports are compared on: patches of colour, uint8 [count, S, S, 3]."""
  coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
  places = np.arange(image_size) * 8 // image_size
  return np.ascontiguousarray(coarse[:, places][:, :, places])


def probe_logits(config: detector_lib.DetectorConfig, params: Any) -> np.ndarray:
  """Of plain parameters on `probe_images`, in float32: [3, 2]."""
  exact = dataclasses.replace(config, dtype=np.dtype('float32'), remat=False)
  images = probe_images(config.backbone.image_size)
  model = detector_lib.Detector(exact)
  return np.asarray(jax.jit(model.apply)({'params': params}, images).logits)


def read(path: pathlib.Path, base_weights: str) -> Converted:
  """Puts an adapter on its base weights.

  Args:
    path: the adapter file.
    base_weights: the file of base weights; '' for what ships with the preset.

  Returns:
    The whole detector, merged.

  Raises:
    UserError: no adapter file, or one of another version, other base weights (both hashes are
      named), or leaves that are not those of its method.
  """
  note, leaves = _open(path)
  config = stored.read_config(note['config'], path)
  try:
    origin = detector_schema.parse_origin(note['origin'])
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  preset, detector_config = detector_lib.from_config(config)
  params, base_hash = detector_lib.load_params(
    preset, base_weights or config.backbone.weights, detector_config, jax.random.key(config.seed)
  )
  if base_hash != note['base_weights']:
    raise UserError(
      f'{path} belongs to base weights with the hash {note["base_weights"]}, these have'
      f' {base_hash}: give the file that it was trained on as --base-weights'
    )
  stored.check_patterns(config, params, path)
  method = _with_layers(make_method(config), params, config, leaves)
  initial, frozen, _ = method.init(params, jax.random.key(config.seed))
  wanted = {name: np.shape(leaf) for name, leaf in tree.flatten(initial).items()}
  found = {name: leaf.shape for name, leaf in leaves.items()}
  if found != wanted:
    wrong = sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
    raise UserError(
      f'{path} does not hold what {config.method} trains: {len(wrong)} arrays differ, the first is'
      f' {wrong[0]}'
    )
  merged = jax.device_get(method.merge(tree.unflatten(leaves), frozen))
  if not _are_close(probe_logits(detector_config, merged), note['logits']):
    raise UserError(f'{path}: the detector computes other logits than when it was exported')
  return Converted(
    method=config.method,
    backbone=dataclasses.replace(preset, config=detector_config.backbone),
    normalize_features=detector_config.normalize_features,
    params=merged,
    trainable_parameters=tree.param_count(initial),
    crops=crop_settings.read_record(note['crops']),
    origin=origin,
    config=note['config'],
  )


def _are_close(logits: np.ndarray, noted: Any) -> bool:
  """Whether logits are those of the note, which may hold anything."""
  try:
    return bool(np.abs(logits - np.asarray(noted, np.float64)).max() <= _TOLERANCE)
  except (TypeError, ValueError, OverflowError):  # No numbers, or of another shape.
    return False


def is_adapter(path: pathlib.Path) -> bool:
  """Whether a file says that it is an adapter: no more than its header is read."""
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      return KEY in (file.metadata() or {})
  except (OSError, safetensors.SafetensorError):
    return False


def _open(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  metadata, leaves = states.read_arrays(path)
  try:
    note = files.parse_object(metadata.get(KEY, '{}'))
  except ValueError as error:
    raise UserError(f'{path} is no whole adapter file: {error}') from error
  if note.get('format') != FORMAT:
    raise UserError(f'{path} is no adapter file of this version ({FORMAT})')
  fields = {'base_weights', 'config', 'origin', 'crops', 'logits'}
  if missing := sorted(fields - note.keys()):
    raise UserError(f'{path} does not say its {missing[0]}: it is damaged')
  if broken := [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]:
    raise UserError(f'{path}: {broken[0]} holds values that are not finite')
  return note, {name: leaf.astype(np.float32) for name, leaf in leaves.items()}


def _with_layers(method: Method, params: Any, config: Any, leaves: dict[str, Any]) -> Method:
  """The method on the layers that its run chose, which are those that the file has leaves of."""
  if not chosen_layers.has_choice(method, config):
    return method
  groups = method.candidates(params)
  owners = {name.rpartition('/')[0] for name in leaves}
  layers = [
    groups.names[row] for path, row in groups.rows.items() if path.rpartition('/')[0] in owners
  ]
  return method.with_layers(params, layers)
