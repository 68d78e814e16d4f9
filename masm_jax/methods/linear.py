"""Linear probe: the classifier head alone, on frozen features."""

import ml_collections

from masm_jax.methods.base import OnProgress
from masm_jax.methods.selective import Selective


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains the head; see `make_method`."""
  del config, cache_dir, on_progress
  return Selective('linear', (r'head/.*',))
