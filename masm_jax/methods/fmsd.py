"""FMSD: artifact subspaces in the layers that a probe finds forgery-sensitive, and the head.

arXiv 2601.01041v3. [paper: the bias-variance characteristics of layer-wise gradients pick the
layers, and only those are decomposed and updated] [ours: what is a layer, the
score's form, the share kept]
The layers are chosen once, before anything is decomposed (`selection.py`); every other layer stays
plain and frozen. What is trained is then a static tree: the frozen leaves have no gradient and no
optimizer state, and the backward pass ends at the lowest chosen block, since nothing below it is
trained.
"""

import dataclasses
import re
from collections.abc import Iterable

import ml_collections

from masm_jax.masking.groups import Groups, layer_groups
from masm_jax.methods import masm
from masm_jax.methods.base import OnProgress, Params
from masm_jax.subspaces.decompose import find_targets

_KERNEL = '/kernel'


@dataclasses.dataclass(frozen=True)
class Fmsd(masm.Masm):
  """As `Masm`, on chosen layers alone and without a mask; see `methods.base.ChoosesLayers`."""

  def candidates(self, params: Params) -> Groups:
    """The kernels that may be decomposed: a layer is a block, or a kernel (`granularity`)."""
    owners = find_targets(params, self.subspace.targets)
    return layer_groups((owner + _KERNEL for owner in owners), self.granularity)

  def with_layers(self, params: Params, layers: Iterable[str]) -> 'Fmsd':
    """The same method on some rows of `candidates(params)`."""
    candidates, layers = self.candidates(params), set(layers)
    targets = tuple(
      re.escape(path.removesuffix(_KERNEL))
      for path, row in candidates.rows.items()
      if candidates.names[row] in layers
    )
    return dataclasses.replace(self, subspace=dataclasses.replace(self.subspace, targets=targets))

  def groups(self, trainable: Params) -> None:
    """Nothing: what is trained was chosen before."""
    del trainable


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Fmsd:
  """FMSD as `config.subspace`, `config.regularizer` and `config.mask` say; see `make_method`."""
  return Fmsd(**masm.fields(config, cache_dir, on_progress))
