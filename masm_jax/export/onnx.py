"""ONNX, by jax2onnx: `model.onnx`, from `images` uint8 [B, S, S, 3] to `logits` float32 [B, 2].

It is for programs that cannot run JAX; onnxruntime is slower than JAX on CPUs. jax2onnx changes
functions of jax and flax where it is imported, hence it runs in a process of its own.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

from masm_jax import files, plain_files
from masm_jax.errors import UserError
from masm_jax.export import common
from masm_jax.export.request import Request
from masm_jax.inference import detector_schema

MODEL = 'model.onnx'


def write(request: Request) -> None:
  """Writes the model, and compares what onnxruntime computes by it with JAX.

  Raises:
    UserError: no such run, jax2onnx is not installed or fails, or the folder cannot be written.
  """
  missing = [name for name in ('jax2onnx', 'onnxruntime') if not importlib.util.find_spec(name)]
  if missing:
    raise UserError(f'{missing[0]} is not installed: pip install "masm_jax[onnx]"')
  run = common.load(request)
  with common.folder(request, run, 'onnx') as (out, note):
    with tempfile.TemporaryDirectory() as scratch:
      place = pathlib.Path(scratch)
      common.save(place / 'weights.safetensors', common.flat_params(run))
      family, fields = detector_schema.describe(run.detector.backbone)
      about = {
        'family': family,
        'architecture': files.to_json(fields),
        'normalize_features': run.detector.normalize_features,
      }
      (place / 'detector.json').write_text(json.dumps(about))
      command = [sys.executable, '-m', 'masm_jax.export.onnx_worker', scratch]
      found = subprocess.run(command, capture_output=True, text=True, check=False)
      if found.returncode:
        raise UserError(f'jax2onnx failed: {(found.stderr.strip().splitlines() or ["?"])[-1]}')
      model = plain_files.read_bytes(place / MODEL, max_bytes=plain_files.MAX_ARRAYS_BYTES)
      files.write_bytes(out / MODEL, model)
      del model
      probe = common.probe_images(run.detector.backbone.image_size)
      import onnxruntime

      # The same file as in `out`, whose path need not be UTF-8.
      session = onnxruntime.InferenceSession(str(place / MODEL), providers=['CPUExecutionProvider'])
      (theirs,) = session.run(['logits'], {'images': probe})
    ours = common.logits(run)
    note['jax2onnx'] = importlib.metadata.version('jax2onnx')
    between = f'onnxruntime {onnxruntime.__version__} and JAX'
    note['difference'] = common.difference(ours, theirs, between)
