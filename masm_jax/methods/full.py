"""Full fine-tuning: every parameter of the backbone and the head."""

import ml_collections

from masm_jax.methods.base import OnProgress
from masm_jax.methods.selective import Selective


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains everything; see `make_method`."""
  del config, cache_dir, on_progress
  return Selective('full', (r'.*',))
