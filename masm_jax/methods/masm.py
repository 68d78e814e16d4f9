"""MASM: artifact subspaces under a dynamic layer mask, and the classifier head.

arXiv 2601.01041v1. [paper: multi-artifact subspaces, selective layer masks, orthogonality and
spectral consistency] The equations of the paper are not known to us: what stands in for them is
marked where it is computed (`decompose`, `subspace`, `regularizers`, `masking`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections

from masm_jax import tree
from masm_jax.masking.groups import Granularity, Groups, subspace_groups
from masm_jax.methods.base import OnProgress, Parts
from masm_jax.subspaces import constraints, regularizers
from masm_jax.subspaces import layer as subspace
from masm_jax.subspaces.decompose import TARGETS, SubspaceConfig
from masm_jax.subspaces.regularizers import RegularizerConfig

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Masm:
  """Trains `U`, `S`, `V` of every decomposed kernel and the head; see `methods.base.Method`."""

  subspace: SubspaceConfig
  regularizer: RegularizerConfig
  granularity: Granularity = 'block_subspace'
  saves_memory: bool = False  # See `subspace.SubspaceDense`.
  on_progress: OnProgress = None
  name: str = 'masm'

  @property
  def dense_cls(self) -> Callable[..., nn.Module]:
    """Layers that multiply by the semantic kernel and the artifact factors apart."""
    return subspace.DenseFactory(self.subspace.forward, self.saves_memory)

  def init(self, params: Params, rng: jax.Array) -> Parts:
    """Decomposes the backbone; the head is trained as it is. No randomness is used."""
    del rng
    trainable, frozen, reference = subspace.split_params(params, self.subspace, self.on_progress)
    head, frozen = tree.partition(frozen, lambda path: path.startswith(tree.HEAD))
    return Parts(tree.combine(trainable, head), frozen, reference)

  def regularize(
    self, trainable: Params, frozen: Params, reference: Params
  ) -> dict[str, jax.Array]:
    """Orthogonality and spectral consistency."""
    return regularizers.regularize(trainable, frozen, reference, self.regularizer)

  def penalty_pull(self, reference: Params) -> float:
    """With `regularizer.mode = decoupled` each kernel's own penalties pull, not their mean."""
    if self.regularizer.mode != 'decoupled':
      return 0.0
    return float(sum(path.endswith('/energy') for path in tree.flatten(reference)))

  def constrain(self, trainable: Params, reference: Params, on: Params | None) -> dict:
    """Artifact bases orthogonal, where `regularizer.mode` is `exact`."""
    if self.regularizer.mode != 'exact' or not self.regularizer.orthogonality:
      return dict(trainable)
    return constraints.constrain(trainable, reference, self.regularizer, on)

  def merge(self, trainable: Params, frozen: Params) -> dict:
    """Plain dense kernels again: evaluation and export pay nothing for the subspaces."""
    return subspace.merge_params(trainable, frozen)

  def groups(self, trainable: Params) -> Groups:
    """(block, subspace) pairs, or what `granularity` says."""
    paths = [path for path in tree.flatten(trainable) if not path.startswith(tree.HEAD)]
    return subspace_groups(paths, self.subspace.num_subspaces, self.granularity)


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Masm:
  """MASM as `config.subspace`, `config.regularizer` and `config.mask` say; see `make_method`."""
  return Masm(**fields(config, cache_dir, on_progress))


def fields(
  config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress
) -> dict[str, Any]:
  """The fields of a `Masm` that a config describes."""
  subspaces = config.subspace.to_dict()
  targets = subspaces.pop('targets')
  subspaces |= {'targets': TARGETS.get(targets, (targets,)), 'cache_dir': cache_dir}
  return {
    'subspace': SubspaceConfig(**subspaces),
    'regularizer': RegularizerConfig(**config.regularizer.to_dict()),
    'granularity': config.mask.granularity,
    'saves_memory': config.backbone.remat,
    'on_progress': on_progress,
    'name': config.method,
  }
