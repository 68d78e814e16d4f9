"""A trained detector as a model of Scenic (google-research/scenic), for Scenic's own trainers.

Only this file imports Scenic, and nothing imports this file: `docs/formats.md` says how to get it.
(`scenic` of the package registry is another project.)
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from scenic.model_lib.base_models import classification_model

from masm_jax import detector as detector_lib
from masm_jax.errors import UserError
from masm_jax.inference import detector_file
from masm_jax.parallel import sharding


class FlaxDetector(nn.Module):
  """A detector as Scenic's trainers call it. Its initial parameters are the trained ones.

  Attributes:
    detector: what the parameters belong to.
    trained: gives plain (merged) parameters, `{'backbone': ..., 'head': ...}`.
  """

  detector: detector_lib.DetectorConfig
  trained: Callable[[], Mapping[str, Any]]

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False, debug: bool = False) -> jax.Array:
    """Scores images.

    Args:
      images: [B, S, S, 3], RGB: uint8, or floats from 0 to 1.
      train: changes nothing, a detector computes the same in training.
      debug: changes nothing.

    Returns:
      Logits, float32 [B, 2]; index 1 is fake.
    """
    del train, debug
    params = {
      part: self.param(part, lambda _, part=part: jax.tree.map(jnp.asarray, self.trained()[part]))
      for part in ('backbone', 'head')
    }
    if jnp.issubdtype(images.dtype, jnp.floating):
      images = images * 255.0  # Not in place: it may be an array of the caller.
    return detector_lib.Detector(self.detector).apply({'params': params}, images).logits


class DetectorModel(classification_model.ClassificationModel):
  """A detector as a Scenic `BaseModel`; loss and metrics are those of Scenic's classification.

  It trains the merged parameters, all of them, from where they are: what Scenic's own
  `freeze_params_reg_exp` names stays. Fields of Scenic's config that it reads:

    model.detector: the folder of a run or a detector file.
    model.step: of a run: 'best' (default), 'last' or a number.
    model.weights: the file of base weights, where `masm_jax.evaluate` would ask for it.
  """

  def build_flax_model(self) -> FlaxDetector:
    """Loads the detector.

    Raises:
      UserError: no detector, or one that does not fit the data set's `num_classes` or
        `input_shape`.
    """
    fields = self.config.get('model', {})
    folder = fields.get('detector', '')
    if not folder:
      raise UserError('config.model.detector is empty: give the folder of a run or a detector file')
    run = detector_file.load_detector(
      pathlib.Path(folder),
      sharding.make_mesh(devices=jax.local_devices()[:1]),
      step=fields.get('step', 'best'),
      weights=fields.get('weights', ''),
    )
    self._check(run.detector.backbone.image_size)
    params = jax.device_get(run.params)
    return FlaxDetector(run.detector, lambda: params)

  def default_flax_model_config(self) -> ml_collections.ConfigDict:
    """The fields that are read, with their defaults."""
    return ml_collections.ConfigDict({'model': {'detector': '', 'step': 'best', 'weights': ''}})

  def _check(self, size: int) -> None:
    """Holds what the data set says of itself to what the detector takes."""
    classes = self.dataset_meta_data.get('num_classes', detector_lib.NUM_CLASSES)
    if classes != detector_lib.NUM_CLASSES:
      raise UserError(f'the data set has {classes} classes, a detector has 2: real and fake')
    shape = tuple(self.dataset_meta_data.get('input_shape', ()))[-3:]
    if shape and shape != (size, size, 3):
      raise UserError(f'the data set gives images {shape}, the detector takes {(size, size, 3)}')
