"""The weights of a detector file as an adapter: the head, and what training added to a backbone."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.errors import UserError
from masm_jax.inference import array_file
from masm_jax.inference import changes as changes_lib
from masm_jax.inference.changes import Changes, Dense, LowRank
from masm_jax.inference.detector_schema import DetectorFile

_TOLERANCE = 1e-5  # Of a parameter put together again, in units of the largest one in its array.


def arrays(added: Changes, merged: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of an adapter: the leaves of the head, and one change of each other parameter.

  Args:
    added: what training added; its parts are summed.
    merged: the detector's plain parameters by path, float32.

  Raises:
    UserError: base weights and changes do not make these parameters again.
  """
  whole = {path: _joined(part) for path, part in added.parts.items()}
  again = tree.flatten(changes_lib.apply(added.base, whole, jnp.ones(1, jnp.float32)))
  for path, leaf in merged.items():
    if np.abs(again[path] - leaf).max() > _TOLERANCE * max(np.abs(leaf).max(), 1e-3):
      raise UserError(
        f'an adapter of this detector would change {path} by more than rounding: export it with'
        ' --weights=merged'
      )
  head = {path: leaf for path, leaf in merged.items() if path.startswith(tree.HEAD)}
  return head | changes_lib.to_arrays(whole)


def _joined(part: LowRank | Dense) -> LowRank | Dense:
  """All K changes as one."""
  if isinstance(part, Dense):
    return Dense(np.sum(part.values, axis=0, keepdims=True))
  left = np.concatenate(list(np.asarray(part.left)), axis=1)
  return LowRank(left[None], np.concatenate(list(np.asarray(part.right)), axis=0)[None])


def read(
  path: pathlib.Path, note: DetectorFile, config: detector_lib.DetectorConfig, weights: str
) -> dict[str, Any]:
  """Merged parameters, on the host.

  Args:
    path: of the adapter's arrays.
    note: the detector file.
    config: of the detector that it describes.
    weights: the file of base weights; '' for what ships with the backbone.

  Raises:
    UserError: a damaged file, a backbone that this version does not have so, other base weights.
  """
  name = note.backbone.preset
  preset = backbones.get_preset(name).with_image_size(config.backbone.image_size)
  if preset.config != config.backbone:
    raise UserError(f'backbone.architecture is not the one of {name}, which the adapter changes')
  base, found_hash = detector_lib.load_params(
    preset, weights, config, jax.random.key(note.origin.seed)
  )
  if found_hash != note.origin.base_weights:
    raise UserError(
      f'it is an adapter of the base weights {note.origin.base_weights[:12]}, not of'
      f' {found_hash[:12]}: give the file that it was trained on'
    )
  flat = tree.flatten(base)
  with array_file.opened(path, note.weights) as (found, tensor):
    shapes = {name: shape for name, (_, shape) in found.items()}
    wanted = changes_lib.array_shapes(shapes, base, 1)
    wanted |= {p: leaf.shape for p, leaf in flat.items() if p.startswith(tree.HEAD)}
    array_file.check_shapes(path, found, {p: ('F32', shape) for p, shape in wanted.items()})
    values = {name: array_file.finite(path, name, tensor(name)) for name in wanted}
  flat |= {p: value for p, value in values.items() if p.startswith(tree.HEAD)}
  parts = changes_lib.parts_of(values)
  merged = changes_lib.apply(tree.unflatten(flat), parts, jnp.ones(1, jnp.float32))
  return jax.device_get(merged)
