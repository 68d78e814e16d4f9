"""StableHLO: the detector as a program for CPUs, CUDA GPUs and TPUs, with its weights beside it.

    model.stablehlo       of `jax.export`, for any batch: (weights, uint8 [B, S, S, 3]) -> [B, 2]
    weights.safetensors   its first argument, `{path: array}`
    export.json           the input, versions, the difference

StableHLO is read by later versions for six months and by earlier ones for some weeks: the weights
are the archive, the program is for use.
"""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from masm_jax import detector as detector_lib
from masm_jax import files, plain_files, tree
from masm_jax.export import common
from masm_jax.export.request import Request

MODEL = 'model.stablehlo'
WEIGHTS = 'weights.safetensors'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(request: Request) -> None:
  """Writes the program and its weights, and compares what it computes with JAX.

  Raises:
    UserError: no such run, or the folder cannot be written.
  """
  run = common.load(request)
  size = run.detector.backbone.image_size
  model = detector_lib.Detector(run.detector)
  weights = common.flat_params(run)

  def logits(flat: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    return model.apply({'params': tree.unflatten(flat)}, images).logits

  (batch,) = jax.export.symbolic_shape('b')
  shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in weights.items()}
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
  exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(shapes, images)
  with common.folder(request, run, 'stablehlo') as (out, note):
    files.write_bytes(out / MODEL, exported.serialize())
    common.save(out / WEIGHTS, weights)
    probe = common.probe_images(size)
    read_back = jax.export.deserialize(
      bytearray(plain_files.read_bytes(out / MODEL, max_bytes=plain_files.MAX_ARRAYS_BYTES))
    )
    theirs = np.asarray(read_back.call(weights, probe))
    ours = common.logits(run)
    note['platforms'] = list(PLATFORMS)
    note['difference'] = common.difference(ours, theirs, 'the program read back and JAX')
