"""Trained detectors in other forms: one file per format."""

# Name on the command line -> the module whose `write(request)` writes it, and what it is.
FORMATS = {
  'detector': ('masm_jax.export.detector', 'a folder that needs nothing else, for masm_jax'),
}
