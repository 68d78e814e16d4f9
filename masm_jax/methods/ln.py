"""LayerNorm tuning: scale and bias of every LayerNorm, and the head."""

import ml_collections

from masm_jax.methods.base import OnProgress, check_definition
from masm_jax.methods.selective import Selective

# The last part of a LayerNorm's path is ln_pre, ln_1, ln_2 or ln_post.
PATTERNS = (r'(.*/)?ln_[a-z0-9]+/(scale|bias)', r'head/.*')


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains the LayerNorms and the head; see `make_method`."""
  del cache_dir, on_progress
  check_definition(config, {'mask.kind': 'none'})
  return Selective('ln', PATTERNS)
