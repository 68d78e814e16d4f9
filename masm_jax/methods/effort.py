"""Effort (arXiv 2411.15633): one rank-1 residual of each attention kernel, and the head.

[kin] It is the decomposition of `masm` with K = 1 and q = 1, on q, k, v and out, without a layer
mask. As its authors released it, it has no regularizer. As published, it adds two losses,
orthogonality and kept singular values, with weight 1 each and averaged over the kernels. In the
first norms are not squared, as in the authors' code. What is a few roundings of float32 counts as 0
in both, with no slope [ours]: see `regularizers.orthogonality` and `energy_gap`.
"""

import ml_collections

from masm_jax.methods import masm
from masm_jax.methods.base import OnProgress, check_definition

_DEFINITION = {
  'subspace.num_subspaces': 1,
  'subspace.rank': 1,
  'subspace.targets': 'attention',
  'subspace.parametrization': 'svd',
  'subspace.semantic_rank': 0,
  'subspace.semantic_energy': 1.0,
  'mask.kind': 'none',
}
_PUBLISHED = {
  'regularizer.orthogonality': 1.0,
  'regularizer.spectral': 1.0,
  'regularizer.spectral_kind': 'energy',
  'regularizer.relative_energy': False,
  'regularizer.squared': False,
  'regularizer.mode': 'loss',
}


def make(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> masm.Masm:
  """Effort as its authors released it; see `make_method`.

  Raises:
    UserError: the config is not Effort's.
  """
  check_definition(
    config, _DEFINITION | {'regularizer.orthogonality': 0.0, 'regularizer.spectral': 0.0}
  )
  return masm.make(config, cache_dir, on_progress)


def make_published(
  config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress
) -> masm.Masm:
  """Effort as published: with both losses; see `make_method`.

  Raises:
    UserError: the config is not Effort's.
  """
  check_definition(config, _DEFINITION | _PUBLISHED)
  return masm.make(config, cache_dir, on_progress)
