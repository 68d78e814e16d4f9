"""Methods of adaptation, each behind the contract of `methods.base.Method`."""

from collections.abc import Callable

import ml_collections

from masm_jax.errors import UserError
from masm_jax.methods import selective
from masm_jax.methods.base import Method
from masm_jax.methods.decompose import TARGETS, SubspaceConfig
from masm_jax.methods.masm import Masm
from masm_jax.methods.regularizers import RegularizerConfig

OnProgress = Callable[[int, int], None] | None


def _masm(config: ml_collections.ConfigDict, cache_dir: str, on_progress: OnProgress) -> Method:
  fields = config.subspace.to_dict()
  targets = fields.pop('targets')
  fields |= {'targets': TARGETS.get(targets, (targets,)), 'cache_dir': cache_dir}
  return Masm(
    subspace=SubspaceConfig(**fields),
    regularizer=RegularizerConfig(**config.regularizer.to_dict()),
    on_progress=on_progress,
  )


METHODS: dict[str, Callable[[ml_collections.ConfigDict, str, OnProgress], Method]] = {
  'masm': _masm,
  'linear': lambda config, cache_dir, on_progress: selective.linear(),
  'full': lambda config, cache_dir, on_progress: selective.full(),
}


def make_method(
  config: ml_collections.ConfigDict, *, cache_dir: str = '', on_progress: OnProgress = None
) -> Method:
  """The method that `config.method` names.

  Args:
    config: the run's config.
    cache_dir: where decompositions are kept; '' keeps none.
    on_progress: told of (kernels decomposed, kernels in all).

  Raises:
    UserError: no such method.
  """
  if config.method not in METHODS:
    raise UserError(f'method = {config.method!r}: choose one of {", ".join(METHODS)}')
  return METHODS[config.method](config, cache_dir, on_progress)
