"""BitFit (arXiv 2106.10199): every bias of the backbone, and the head.

Biases of LayerNorms and, where there is one, of the patch embedding are biases too.
"""

import ml_collections

from masm_jax.methods.base import OnProgress, check_definition
from masm_jax.methods.selective import Selective


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains the biases and the head; see `make_method`."""
  del cache_dir, on_progress
  check_definition(config, {'mask.kind': 'none'})
  return Selective('bitfit', (r'.*/bias', r'head/.*'))
