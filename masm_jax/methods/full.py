"""Full fine-tuning: every parameter of the backbone and the head."""

import ml_collections

from masm_jax.methods.base import OnProgress, check_definition
from masm_jax.methods.selective import Selective


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains everything; see `make_method`."""
  del cache_dir, on_progress
  check_definition(config, {'mask.kind': 'none'})
  return Selective('full', (r'.*',))
