"""BVG-LS (ACCV 2024): full fine-tuning in which each step updates one layer, the head aside.

[kin: the layer is the one whose gradient has the highest bias-variance ratio] [ours: a layer is a
block, everything before the first one a layer too, and the last LayerNorm part of the last block;
the ratio is taken of the exponential averages of `masking.grad_stats`; the head moves in every
step, and before the first mask, `mask.warmup_steps`, everything does]
"""

import dataclasses

import ml_collections

from masm_jax import tree
from masm_jax.masking.groups import Granularity, Groups, layer_groups
from masm_jax.methods.base import OnProgress, Params, check_definition
from masm_jax.methods.selective import Selective


@dataclasses.dataclass(frozen=True)
class BvgLs(Selective):
  """As `Selective`, with a layer mask over what it trains."""

  granularity: Granularity = 'block'

  def groups(self, trainable: Params) -> Groups:
    """The layers, `[L, 1]`."""
    paths = [path for path in tree.flatten(trainable) if not path.startswith(tree.HEAD)]
    return layer_groups(paths, self.granularity)


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> BvgLs:
  """BVG-LS; see `make_method`.

  Raises:
    UserError: the config is not BVG-LS's.
  """
  del cache_dir, on_progress
  definition = {
    'mask.kind': 'dynamic',
    'mask.score': 'bvr',
    'mask.select': 'global',
    'mask.keep_count': 1,
    'mask.refresh_steps': 1,
  }
  check_definition(config, definition)
  return BvgLs('bvg_ls', (r'.*',), config.mask.granularity)
