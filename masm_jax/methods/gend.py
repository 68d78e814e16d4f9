"""GenD (arXiv 2508.06248): LayerNorms and a head on features of length 1, under three losses.

[kin] throughout: it trains what `ln` trains; `configs/gend.py` sets the rest, which is there
for every method: `head.normalize_features`, `loss.alignment`, `loss.uniformity` and the recipe.
Paired real and fake faces of one video are its first finding: `data.sampler=paired`.
"""

import ml_collections

from masm_jax.methods import ln
from masm_jax.methods.base import OnProgress, check_definition
from masm_jax.methods.selective import Selective


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Selective:
  """Trains the LayerNorms and the head; see `make_method`.

  Raises:
    UserError: the config lacks what else makes GenD.
  """
  del cache_dir, on_progress
  check_definition(
    config,
    {
      'head.normalize_features': True,
      'loss.uniformity': 0.5,
      'loss.alignment': 0.1,
      'mask.kind': 'none',
    },
  )
  return Selective('gend', ln.PATTERNS)
