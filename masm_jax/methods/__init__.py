"""Methods of adaptation, each in its file, behind the contract of `base.Method`."""

from collections.abc import Callable

import ml_collections

from masm_jax.errors import UserError
from masm_jax.methods import bitfit, bvg_ls, effort, fmsd, full, gend, linear, ln, lora, masm
from masm_jax.methods.base import ChoosesLayers, Method, OnProgress

# Each builds its method from (config, cache_dir, on_progress); see `make_method`.
METHODS: dict[str, Callable[[ml_collections.ConfigDict, str, OnProgress], Method]] = {
  'masm': masm.make,
  'fmsd': fmsd.make,
  'effort': effort.make,
  'effort_published': effort.make_published,
  'gend': gend.make,
  'ln': ln.make,
  'linear': linear.make,
  'bitfit': bitfit.make,
  'lora': lora.make,
  'full': full.make,
  'bvg_ls': bvg_ls.make,
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
    UserError: no such method, or a config that is not that method's.
  """
  if config.method not in METHODS:
    raise UserError(f'method = {config.method!r}: choose one of {", ".join(METHODS)}')
  method = METHODS[config.method](config, cache_dir, on_progress)
  wrong = 'dynamic' if isinstance(method, ChoosesLayers) else 'oneshot'
  if config.mask.kind == wrong:
    when = {'dynamic': 'once, before training', 'oneshot': 'during training, if at all'}[wrong]
    raise UserError(
      f'mask.kind = {wrong} is not for method = {config.method}, whose layers are chosen {when}: '
      f'start from configs/{config.method}.py or configs/ffpp.py:method={config.method}'
    )
  masks = config.mask.kind not in ('none', 'all')
  if masks and config.mask.select == 'per_layer' and isinstance(method, ChoosesLayers):
    raise UserError(
      f'mask.select = per_layer ranks the subspaces of each layer, but method = {config.method} '
      'chooses layers before they have any: use global'
    )
  return method
