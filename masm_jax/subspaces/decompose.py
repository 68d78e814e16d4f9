"""SVD of dense kernels into a semantic and several artifact subspaces.

`docs/methods.md`, Decomposition. [paper: SVD of the weights into one stable semantic principal
subspace and several learnable artifact subspaces] [ours: disjoint artifact subspaces, how
components are dealt to them, the reserve between both, the disk cache]

A kernel has n = min(d_in, d_out) components. The first r' are semantic: frozen, and the artifact
subspaces are kept off them. The last K*q are the artifact subspaces. What lies between, the
*reserve*, is frozen too, but not protected: in two parts (r' = n - K*q) there is none, and then a
square kernel leaves the artifact subspaces no room to turn.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from masm_jax import tree
from masm_jax.errors import UserError
from masm_jax.subspaces import factor_cache
from masm_jax.subspaces.parametrization import Parametrization, artifact_kernel

Factors = factor_cache.Factors
OnProgress = Callable[[int, int], None] | None
Split = Literal['interleaved', 'contiguous']

# Presets of `subspace.targets`: patterns over the kernels' owners, `backbone/block_00/attn/q`.
TARGETS = {
  'attention': (r'backbone/block_\d+/attn/(q|k|v|out)',),
  'mlp': (r'backbone/block_\d+/mlp/(gate|fc1|fc2)',),
  'all': (r'backbone/block_\d+/(attn/(q|k|v|out)|mlp/(gate|fc1|fc2))',),
}


@dataclasses.dataclass(frozen=True)
class SubspaceConfig:
  """How kernels are decomposed; the fields are documented in `configs/common.py`."""

  num_subspaces: int = 4
  rank: int = 8
  split: Split = 'interleaved'
  targets: tuple[str, ...] = TARGETS['all']
  semantic_rank: int = 0
  semantic_energy: float = 1.0
  parametrization: Parametrization = 'svd'
  forward: Literal['auto', 'factored', 'materialized'] = 'auto'
  keep_factors: bool = False
  cache_dir: str = ''

  @property
  def has_reserve(self) -> bool:
    """Whether some components may be neither semantic nor artifact."""
    return bool(self.semantic_rank) or self.semantic_energy < 1.0


def find_targets(
  params: Mapping[str, Any], patterns: Iterable[str], field: str = 'subspace.targets'
) -> list[str]:
  """Paths of the dense layers that the patterns choose, in tree order.

  A pattern is a regular expression that matches the whole path of a dense layer, the `kernel` left
  out: `backbone/block_00/attn/q`. Errors call the patterns `field`.

  Raises:
    UserError: a pattern that matches nothing, or something that holds no 2-D kernel.
  """
  shapes = {path: leaf.shape for path, leaf in tree.flatten(params).items()}
  dense = [
    p.removesuffix('/kernel') for p, s in shapes.items() if p.endswith('/kernel') and len(s) == 2
  ]
  found = set()
  for pattern in patterns:
    try:
      hits = [path for path in dense if tree.match_any([pattern], path)]
    except re.error as error:
      raise UserError(f'{field}: {pattern!r} is no regular expression: {error}') from error
    if outside := [path for path in hits if not re.match(r'backbone/block_\d+/', path)]:
      raise UserError(
        f"{field}: {pattern!r} matches {outside[0]}, but only layers of the backbone's "
        'blocks can be targets: begin it with backbone/block_'
      )
    if not hits:
      others = [
        f'{p} {list(s)}'
        for p, s in shapes.items()
        if tree.match_any([pattern], p) or tree.match_any([pattern], p.rpartition('/')[0])
      ]
      why = (
        f'it matches {others[0]}, which is no dense kernel'
        if others
        else f'the dense layers are named like {dense[0] if dense else "(none)"}'
      )
      raise UserError(f'{field}: {pattern!r} matches no dense layer; {why}')
    found.update(hits)
  return [path for path in dense if path in found]


def component_order(num_components: int, config: SubspaceConfig) -> np.ndarray:
  """Which singular components each artifact subspace gets: int [K, q], of `n - K*q .. n - 1`.

  `interleaved` deals component r+j to subspace j mod K (about equal energy each), `contiguous`
  gives each subspace q neighbours. [ours]
  """
  count, rank = config.num_subspaces, config.rank
  tail = np.arange(num_components - count * rank, num_components)
  if config.split == 'interleaved':
    return tail.reshape(rank, count).T
  return tail.reshape(count, rank)


def check_ranks(path: str, shape: tuple[int, int], config: SubspaceConfig) -> None:
  """Raises a UserError unless a kernel `[d_in, d_out]` has room for K subspaces of rank q."""
  count, rank = config.num_subspaces, config.rank
  if count < 1 or rank < 1:
    raise UserError(
      f'subspace.num_subspaces = {count} and subspace.rank = {rank}: both must be at '
      f'least 1 ({path}, {list(shape)})'
    )
  if count * rank >= min(shape):
    raise UserError(
      f'{path} {list(shape)} has {min(shape)} singular components: {count} subspaces '
      f'of rank {rank} leave no semantic one; lower subspace.num_subspaces or '
      'subspace.rank'
    )
  if config.semantic_rank > min(shape) - count * rank:
    raise UserError(
      f'{path} {list(shape)} has {min(shape)} singular components, {count * rank} of them '
      f'artifact: subspace.semantic_rank = {config.semantic_rank} is more than the others'
    )


def semantic_rank(num_components: int, config: SubspaceConfig) -> int:
  """r', how many columns `U_sem` has: all but the artifact components, or `semantic_rank`.

  With `semantic_energy` each kernel uses the first of them, and the columns behind are 0.
  """
  return config.semantic_rank or num_components - config.num_subspaces * config.rank


def artifact_shapes(shape: tuple[int, int], config: SubspaceConfig) -> dict[str, tuple[int, ...]]:
  """Shapes of the artifact factors of a kernel `[d_in, d_out]`."""
  count, rank = config.num_subspaces, config.rank
  return {'U': (count, shape[0], rank), 'S': (count, rank), 'V': (count, rank, shape[1])}


@functools.partial(jax.jit, static_argnames=('config',))
def decompose_kernel(kernel: jax.Array, config: SubspaceConfig) -> dict[str, jax.Array]:
  """Splits one kernel by thin SVD, `W = U diag(S) V`, in float32.

  Args:
    kernel: W, float32 [d_in, d_out]; n = min(d_in, d_out), r = n - K*q.
    config: K, q and the split.

  Returns:
    Artifact factors `U [K, d_in, q]`, `S [K, q]`, `V [K, q, d_out]`; semantic factors
    `U_sem [d_in, r]`, `S_sem [r]`, `V_sem [r, d_out]`, with r = r'. In two parts `U_sem` only if
    d_in > n and `V_sem` only if d_out > n, unless `keep_factors`: the closed forms of the
    regularizers do without the others. By `semantic_energy` r is n - K*q for every kernel, and
    components behind the first whose energy reaches that share are 0: shapes do not depend on
    values.
  """
  if kernel.shape[0] >= kernel.shape[1]:
    u, s, vt = jnp.linalg.svd(kernel, full_matrices=False)
  else:  # LAPACK takes half the time for the tall one.
    v, s, ut = jnp.linalg.svd(kernel.T, full_matrices=False)
    u, vt = ut.T, v.T
  num_components = s.shape[0]
  order = component_order(num_components, config)
  num_semantic = semantic_rank(num_components, config)
  factors = {'U': u[:, order].transpose(1, 0, 2), 'S': s[order], 'V': vt[order]}
  on = jnp.ones(num_semantic, jnp.float32)
  if config.semantic_energy < 1.0:
    energy = jnp.cumsum(jnp.square(s)) / jnp.sum(jnp.square(s))
    before = jnp.concatenate([jnp.zeros(1, jnp.float32), energy])[:num_semantic]
    on = (before < config.semantic_energy).astype(jnp.float32)
  keeps_all = config.keep_factors or config.has_reserve
  if keeps_all or kernel.shape[0] > num_components:
    factors['U_sem'] = u[:, :num_semantic] * on[None]
  if keeps_all or kernel.shape[1] > num_components:
    factors['V_sem'] = vt[:num_semantic] * on[:, None]
  if config.keep_factors:
    factors['S_sem'] = s[:num_semantic] * on
  return factors


@jax.jit
def semantic_kernel(
  kernel: jax.Array, factors: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """What stays of W beside its initial artifact part, so that their sum is W; and `|W|_F^2`.

  Args:
    kernel: W, float32 [d_in, d_out].
    factors: `U`, `S`, `V`.

  Returns:
    `kernel_sem` [d_in, d_out] and the energy, a scalar.
  """
  return kernel - artifact_kernel(factors), jnp.sum(jnp.square(kernel))


def decompose(
  kernels: Mapping[str, jax.Array],
  config: SubspaceConfig,
  on_progress: OnProgress = None,
) -> dict[str, Factors]:
  """Splits many kernels, or reads the same split from the cache.

  A run keeps its cache in its own directory: a resumed run then has the very factors it started
  from, even where another machine's SVD would differ in rounding or in the basis it picks among
  equal singular values.

  Args:
    kernels: path -> W, float32 [d_in, d_out].
    config: the subspaces, and `cache_dir` ('' for no cache).
    on_progress: called with (kernels done, kernels in all).

  Returns:
    path -> factors, see `decompose_kernel`; on the host, for `sharding.place` to put them where
    they belong.

  Raises:
    UserError: a kernel too small for the subspaces; all kernels are checked first.
  """
  for path, kernel in kernels.items():
    check_ranks(path, kernel.shape, config)
  is_traced = any(isinstance(kernel, jax.core.Tracer) for kernel in kernels.values())
  cache = None
  if config.cache_dir and not is_traced:
    cache = factor_cache.FactorCache(
      config.cache_dir,
      kernels,
      fields=_cache_fields(config),
      shapes={path: artifact_shapes(kernel.shape, config) for path, kernel in kernels.items()},
    )
    if (cached := cache.read()) is not None:
      return cached
  config = dataclasses.replace(  # One compile key.
    config, cache_dir='', targets=(), forward='auto', parametrization='svd'
  )
  if is_traced:
    return {path: decompose_kernel(kernel, config) for path, kernel in kernels.items()}
  if jax.default_backend() == 'cpu':
    factors = _decompose_in_threads(kernels, config, on_progress)
  else:
    factors = decompose_by_shape(kernels, config, on_progress)
  if cache is not None:
    cache.write(factors)
  return factors


def _cache_fields(config: SubspaceConfig) -> tuple:
  """What of a config decides how kernels are split; in two parts as earlier versions had it."""
  fields = (config.num_subspaces, config.rank, config.split, config.keep_factors)
  if config.has_reserve:
    fields += (config.semantic_rank, config.semantic_energy)
  return fields


def on_host(values: Any) -> Any:
  """Arrays as NumPy's; what is traced, where shapes alone are asked for, as it is."""
  return jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x), values)


def _decompose_in_threads(
  kernels: Mapping[str, jax.Array], config: SubspaceConfig, on_progress: OnProgress
) -> dict[str, Factors]:
  """One kernel per core at a time."""

  def work(kernel: jax.Array) -> Factors:
    return jax.device_get(decompose_kernel(jnp.asarray(kernel, jnp.float32), config))

  import scipy.linalg  # noqa: F401  jax's LAPACK: a limit holds for libraries that are loaded.

  factors = {}
  # LAPACK's SVD hardly uses more than one core, and its threads stand in the way of ours.
  with threadpoolctl.threadpool_limits(1, user_api='blas'):
    for done, (path, result) in enumerate(
      zip(kernels, factor_cache.each_kernel(work, kernels.values()), strict=True), start=1
    ):
      factors[path] = result
      if on_progress:
        on_progress(done, len(kernels))
  return factors


def decompose_by_shape(
  kernels: Mapping[str, jax.Array], config: SubspaceConfig, on_progress: OnProgress = None
) -> dict[str, Factors]:
  """All kernels of a shape in one program: what an accelerator does best.

  Args:
    kernels: path -> W, float32 [d_in, d_out].
    config: K, q and the split.
    on_progress: called with (kernels done, kernels in all).

  Returns:
    path -> factors, as of `decompose_kernel`, on the host.
  """
  paths_of: dict[tuple[int, ...], list[str]] = {}
  for path, kernel in kernels.items():
    paths_of.setdefault(kernel.shape, []).append(path)
  batched = jax.jit(jax.vmap(functools.partial(decompose_kernel, config=config)))
  factors: dict[str, Factors] = {}
  for paths in paths_of.values():
    stacked = np.stack([np.asarray(kernels[path], np.float32) for path in paths])
    results = jax.device_get(batched(stacked))
    for i, path in enumerate(paths):
      factors[path] = {name: value[i] for name, value in results.items()}
    if on_progress:
      on_progress(len(factors), len(kernels))
  return {path: factors[path] for path in kernels}
