"""Converts one detector by jax2onnx, in a process of its own: see `onnx`.

The folder that it is given holds `weights.safetensors` and `detector.json`; it gets `model.onnx`.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any


def _without_gradient(
  function: Callable[..., Any], nondiff_argnums: Sequence[int] = ()
) -> Callable[..., Any]:
  """`jax.custom_vjp` where nothing is differentiated: the function as it stands.

  jax traces such a function once for all layers that call it, and jax2onnx then gives the same
  names to the results of each.
  """
  del nondiff_argnums
  function.defvjp = lambda *rules: None  # type: ignore[attr-defined]
  return function


def main(folder: pathlib.Path) -> None:
  """Writes `model.onnx`."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax
  import jax2onnx
  import numpy as np
  import safetensors.numpy

  jax.custom_vjp = _without_gradient  # type: ignore[assignment, misc]
  from masm_jax import detector as detector_lib
  from masm_jax import tree
  from masm_jax.inference import detector_schema

  about = json.loads((folder / 'detector.json').read_text())
  backbone = detector_schema.build(
    detector_schema.Backbone(
      preset='exported',
      family=about['family'],
      architecture=about['architecture'],
      dtype='float32',
    )
  )
  model = detector_lib.Detector(detector_lib.DetectorConfig(backbone, about['normalize_features']))
  params = tree.unflatten(safetensors.numpy.load_file(folder / 'weights.safetensors'))
  size = backbone.image_size
  jax2onnx.to_onnx(
    lambda images: model.apply({'params': params}, images).logits,
    [jax.ShapeDtypeStruct(('B', size, size, 3), np.uint8)],
    model_name='masm_jax',
    input_names=['images'],
    output_names=['logits'],
    return_mode='file',
    output_path=str(folder / 'model.onnx'),
  )


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
