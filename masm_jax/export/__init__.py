"""Trained detectors in other forms: one file per format."""

# Name on the command line -> the module whose `write(request)` writes it, and what it is.
FORMATS = {
  'detector': ('masm_jax.export.detector', 'a folder that needs nothing else, for masm_jax'),
  'huggingface': (
    'masm_jax.export.huggingface',
    'the backbone for transformers, the head beside it',
  ),
  'gend': ('masm_jax.export.gend', "the layout of GenD, for its authors' class"),
  'adapter': ('masm_jax.export.adapter', 'what was trained alone, for the base weights'),
  'stablehlo': ('masm_jax.export.stablehlo', 'a program for CPU, CUDA and TPU, weights beside it'),
  'onnx': ('masm_jax.export.onnx', 'a model for onnxruntime and its kin, by jax2onnx'),
}
