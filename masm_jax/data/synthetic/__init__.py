"""The built-in data set: procedurally drawn portraits, and forgeries of them.

A stand-in so that everything can be run without a download. Metrics on it say nothing about real
deepfakes.
"""

from masm_jax.data.synthetic.dataset import CODE_VERSION, materialize
from masm_jax.data.synthetic.forgeries import HELD_OUT_METHODS, METHODS, TRAINING_METHODS
from masm_jax.data.synthetic.portraits import portrait_sample

__all__ = [
  'CODE_VERSION',
  'HELD_OUT_METHODS',
  'METHODS',
  'TRAINING_METHODS',
  'materialize',
  'portrait_sample',
]
