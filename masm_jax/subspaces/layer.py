"""Dense layers of a frozen semantic kernel and trainable artifact factors.

`y = x @ kernel_sem + sum_k ((x @ U_k) * S_k) @ V_k + b` (`docs/methods.md`). [paper: semantic
and artifact subspaces] [kin: Effort, arXiv 2411.15633, trains one residual in this form] [ours: the
factored forward pass, and when to leave it]
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from masm_jax import tree
from masm_jax.backbones import layers
from masm_jax.subspaces import decompose, factor_cache, parametrization

_ARTIFACT = ('U', 'S', 'V')
GATES = 'gates'  # The collection of them, see `SubspaceDense`.


@jax.custom_vjp
def matmul_f32(x: jax.Array, w: jax.Array) -> jax.Array:
  """`x @ w` of low-precision operands, with a float32 result.

  Plain `preferred_element_type=float32` would hand the backward pass a float32 cotangent, and so
  turn its two large products into float32 ones; here the cotangent is cast to the operands' type
  first, as after any other bfloat16 product.

  Args:
    x: [..., d].
    w: [d, f], of x's dtype.

  Returns:
    float32 [..., f].
  """
  return lax.dot_general(
    x, w, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )


def _matmul_f32_fwd(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return matmul_f32(x, w), (x, w)


def _matmul_f32_bwd(
  residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, w = residuals
  g = g.astype(x.dtype)
  batch = tuple(range(x.ndim - 1))
  dx = lax.dot_general(g, w, (((g.ndim - 1,), (1,)), ((), ())))
  # Formed only where w is trained: nothing reads it otherwise, and XLA drops it.
  dw = lax.dot_general(x, g, ((batch, batch), ((), ())))
  return dx, dw


matmul_f32.defvjp(_matmul_f32_fwd, _matmul_f32_bwd)


@jax.custom_vjp
def matmul_rebuilt(x: jax.Array, kernel_sem: jax.Array, us: jax.Array, v: jax.Array) -> jax.Array:
  """`x @ (kernel_sem + us @ v)`: the weight is rebuilt, its gradient never is.

  The backward pass needs four skinny products where the factored form needs six, and rebuilding
  costs as much for one token as for all: the fewest operations for many tokens. [ours]

  Args:
    x: [..., d_in], of the compute dtype.
    kernel_sem: float32 [d_in, d_out], frozen.
    us: `U * S`, float32 [d_in, m].
    v: float32 [m, d_out].

  Returns:
    float32 [..., d_out]. The sum of both parts is rounded to x's dtype as any dense kernel is.
  """
  return matmul_f32(x, _rebuild(kernel_sem, us, v, x.dtype))


def _rebuild(kernel_sem: jax.Array, us: jax.Array, v: jax.Array, dtype: Any) -> jax.Array:
  return (kernel_sem.astype(jnp.float32) + jnp.matmul(us, v)).astype(dtype)


def _matmul_rebuilt_fwd(x: jax.Array, *kernel: jax.Array) -> tuple[jax.Array, tuple]:
  return matmul_rebuilt(x, *kernel), (x, *kernel)


def _matmul_rebuilt_bwd(residuals: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
  return _rebuilt_gradients(*residuals, g)[0]


def _rebuilt_gradients(
  x: jax.Array, kernel_sem: jax.Array, us: jax.Array, v: jax.Array, g: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Gradients of the operands, and `<inner, its gradient>` of each component, [..., m]."""
  dtype = x.dtype
  # W is rebuilt when its gradient arrives: kept from the forward pass, it would be as much memory
  # as the frozen weights of all layers together.
  kernel_sem, us, v, g = lax.optimization_barrier((kernel_sem, us, v, g.astype(dtype)))
  tokens = tuple(range(x.ndim - 1))
  over_tokens = ((tokens, tokens), ((), ()))
  over_outputs = (((g.ndim - 1,), (1,)), ((), ()))
  dx = lax.dot_general(g, _rebuild(kernel_sem, us, v, dtype), over_outputs)
  g_inner = lax.dot_general(g, v.astype(dtype), over_outputs)  # [..., m]
  # The narrow operand first: it is the one that is transposed.
  d_us = lax.dot_general(g_inner, x, over_tokens, preferred_element_type=jnp.float32).T
  inner = matmul_f32(x, us.astype(dtype)).astype(dtype)  # [..., m]
  dv = lax.dot_general(inner, g, over_tokens, preferred_element_type=jnp.float32)
  # Nothing reads the frozen kernel's gradient, and XLA drops it.
  d_sem = lax.dot_general(x, g, over_tokens, preferred_element_type=jnp.float32)
  return (dx, d_sem, d_us, dv), inner.astype(jnp.float32) * g_inner.astype(jnp.float32)


matmul_rebuilt.defvjp(_matmul_rebuilt_fwd, _matmul_rebuilt_bwd)


@jax.custom_vjp
def matmul_gated(
  x: jax.Array, kernel_sem: jax.Array, us: jax.Array, v: jax.Array, gates: jax.Array
) -> jax.Array:
  """`matmul_rebuilt` with gates of 1, whose gradient the backward pass has at hand. [ours]

  Args:
    x: [B, ..., d_in]; for the other operands see `matmul_rebuilt`.
    gates: float32 [B, m], of each row's components; all 1, which is not looked at.
  """
  del gates
  return matmul_rebuilt(x, kernel_sem, us, v)


def _matmul_gated_fwd(*operands: jax.Array) -> tuple[jax.Array, tuple]:
  return matmul_gated(*operands), operands[:-1]


def _matmul_gated_bwd(residuals: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
  gradients, moved = _rebuilt_gradients(*residuals, g)
  return *gradients, moved.sum(axis=tuple(range(1, moved.ndim - 1)))


matmul_gated.defvjp(_matmul_gated_fwd, _matmul_gated_bwd)


@jax.custom_vjp
def with_gradients_together(*values: jax.Array) -> tuple[jax.Array, ...]:
  """The values as they are; none of their gradients is passed on before all of them are there.

  Around the input and the factors of a layer it makes the layers below wait for the factors'
  gradients. Otherwise a scheduler may put these off to the end of the step, and hold the input and
  the output's gradient of every layer until then: all that rematerialisation had saved.
  """
  return values


with_gradients_together.defvjp(
  lambda *values: (values, None), lambda _, gradients: lax.optimization_barrier(gradients)
)


def extra_operations(num_tokens: int, d_in: int, d_out: int, num_components: int) -> dict[str, int]:
  """What each form of the layer costs in a training step, beyond a frozen dense layer. [ours]

  With m = K*q components: `factored` adds six skinny products of `num_tokens * m` multiplications
  per input or output unit; `rebuilt` (`matmul_rebuilt`) four, and W's reconstruction; `dense` W's
  reconstruction, its gradient `x^T g`, and the factors' gradients from that.

  Returns:
    Operations by form, a multiplication and its addition counting two.
  """
  skinny = 2 * num_tokens * (d_in + d_out) * num_components  # A pair: into m components and out.
  rebuild = 2 * d_in * d_out * num_components
  return {
    'factored': 3 * skinny,
    'rebuilt': 2 * skinny + rebuild,
    'dense': 2 * num_tokens * d_in * d_out + 3 * rebuild,
  }


class SubspaceDense(layers.Dense):
  """A dense layer that is decomposed where its parameters are.

  With the leaves `kernel_sem [d_in, d_out]`, `U [K, d_in, q]`, `S [K, q]` (or a core `M [K, q,
  q]`), `V [K, q, d_out]` and `bias [d_out]` it computes the adapted layer; with a plain `kernel` it
  is `layers.Dense`.

  Where the collection `gates` has `artifact [B, K]`, ones, the artifact part of example b in
  subspace k is multiplied by them: their gradient says what that part does to the example's loss.

  Attributes:
    forward: `factored` (never build W), `materialized` (build W first) or `auto`: whichever costs
      fewer operations for the shapes at hand, decided at trace time.
    saves_memory: see `with_gradients_together`. On several devices each layer then waits for the
      sum of its gradients over all of them, too.
  """

  forward: str = 'auto'
  saves_memory: bool = False

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., d_in] -> [..., d_out]."""
    if not self.has_variable('params', 'kernel_sem'):
      return super().__call__(x)
    leaf = lambda name: self.get_variable('params', name)
    kernel_sem, u, v = leaf('kernel_sem'), leaf('U'), leaf('V')
    has_core = self.has_variable('params', 'M')
    s = leaf('M') if has_core else leaf('S')
    if self.saves_memory:
      x, u, s, v = with_gradients_together(x, u, s, v)
    if has_core:
      u, s = parametrization.left_factor({'U': u, 'M': s}), jnp.ones(s.shape[:2], jnp.float32)
    num_subspaces, d_in, rank = u.shape
    num_components = num_subspaces * rank
    # The K subspaces side by side: one pair of skinny products.
    u = u.transpose(1, 0, 2).reshape(d_in, num_components)
    s = s.reshape(num_components).astype(jnp.float32)
    v = v.reshape(num_components, self.features)

    costs = extra_operations(x.size // d_in, d_in, self.features, num_components)
    if self.forward != 'auto':
      costs = {
        form: n for form, n in costs.items() if (form == 'factored') == (self.forward == 'factored')
      }
    gates = self.get_variable(GATES, 'artifact')
    if gates is not None:
      # Of each component, and each token where examples and tokens are one axis.
      gates = jnp.repeat(jnp.repeat(gates, rank, axis=1), len(x) // len(gates), axis=0)
      costs.pop('dense', None)  # It never forms what the gates multiply.
    form = min(costs, key=costs.get)
    x = x.astype(self.dtype)
    if form == 'factored':
      inner = matmul_f32(x, u.astype(self.dtype))
      inner *= s.reshape((1,) * (x.ndim - 1) + s.shape)
      if gates is not None:
        inner *= gates.reshape(len(x), *(1,) * (x.ndim - 2), num_components)
      # The artifact part is a hundredth of the output: it is added before the rounding to bfloat16.
      y = matmul_f32(x, kernel_sem.astype(self.dtype)) + matmul_f32(
        inner.astype(self.dtype), v.astype(self.dtype)
      )
    elif form == 'rebuilt' and gates is not None:
      y = matmul_gated(x, kernel_sem, u * s[None], v, gates)
    elif form == 'rebuilt':
      y = matmul_rebuilt(x, kernel_sem, u * s[None], v)
    else:
      y = matmul_f32(x, _rebuild(kernel_sem, u * s[None], v, self.dtype))
    if self.has_variable('params', 'bias'):
      bias = leaf('bias').astype(jnp.float32)
      y += bias.reshape((1,) * (y.ndim - 1) + bias.shape)
    return y.astype(self.dtype)


def split_params(
  params: Mapping[str, Any],
  config: decompose.SubspaceConfig,
  on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict, dict, dict]:
  """Decomposes the target layers of plain parameters.

  Args:
    params: `{'backbone': ..., 'head': ...}`.
    config: which layers, and into what.
    on_progress: see `decompose.decompose`.

  Returns:
    `(trainable, frozen, reference)`. For a target layer, trainable holds `U`, `S`, `V`, or what
    `config.parametrization` trains in their place (`parametrization.split_factors`; frozen has the
    rest); frozen holds `kernel_sem` and the bias; reference holds what the regularizers compare
    with: the initial `U`, `S`, `V`, the scalar `energy = |W|_F^2`, and what of `U_sem`, `S_sem`,
    `V_sem` is needed or asked for. Every other leaf is frozen.
  """
  owners = decompose.find_targets(params, config.targets)
  flat = tree.flatten(params)
  kernels = {owner: flat[f'{owner}/kernel'] for owner in owners}
  trainable: dict[str, Any] = {}
  frozen = {p: x for p, x in flat.items() if p.removesuffix('/kernel') not in kernels}
  reference: dict[str, Any] = {}
  factors_of = decompose.decompose(kernels, config, on_progress)
  artifacts = [{name: factors[name] for name in _ARTIFACT} for factors in factors_of.values()]

  def rest(kernel: Any, artifact: Mapping[str, Any]) -> tuple[Any, Any]:
    # Back on the host at once: no device ever holds the whole model, unless it is its place.
    return decompose.on_host(decompose.semantic_kernel(jnp.asarray(kernel, jnp.float32), artifact))

  rests = factor_cache.each_kernel(rest, (kernels[owner] for owner in factors_of), artifacts)
  for (owner, factors), artifact, (kernel_sem, energy) in zip(
    factors_of.items(), artifacts, rests, strict=True
  ):
    frozen[f'{owner}/kernel_sem'] = kernel_sem
    reference[f'{owner}/energy'] = energy
    reference |= {f'{owner}/{name}': value for name, value in factors.items()}
    trained, fixed = parametrization.split_factors(artifact, config.parametrization)
    trainable |= {f'{owner}/{name}': value.copy() for name, value in trained.items()}
    frozen |= {f'{owner}/{name}': value for name, value in fixed.items()}
  return tree.unflatten(trainable), tree.unflatten(frozen), tree.unflatten(reference)


def merge_params(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
  """Plain parameters again: `kernel = kernel_sem + sum_k U_k diag(S_k) V_k`, all else as it is."""
  flat = {**tree.flatten(trainable), **tree.flatten(frozen)}
  owners = decomposed_layers(frozen)
  merged = {}
  for path, leaf in flat.items():
    owner, _, name = path.rpartition('/')
    if owner not in owners or name == 'bias':
      merged[path] = leaf
  for owner in owners:
    artifact = parametrization.artifact_kernel(layer_factors(flat, owner))
    merged[f'{owner}/kernel'] = flat[f'{owner}/kernel_sem'] + artifact
  return tree.unflatten(merged)


def layer_factors(flat: Mapping[str, Any], owner: str) -> dict[str, Any]:
  """The artifact factors of one layer among all leaves: `U`, `S`, `V`, and `M` of a core."""
  names = (*_ARTIFACT, 'M')
  return {name: flat[f'{owner}/{name}'] for name in names if f'{owner}/{name}' in flat}


def decomposed_layers(frozen: Mapping[str, Any]) -> dict[str, None]:
  """Paths of the decomposed layers, in tree order."""
  return {
    path.removesuffix('/kernel_sem'): None
    for path in tree.flatten(frozen)
    if path.endswith('/kernel_sem')
  }


@dataclasses.dataclass(frozen=True)
class DenseFactory:
  """Builds `SubspaceDense` layers; hashable, so that it can be a static field of a module."""

  forward: str
  saves_memory: bool = False

  def __call__(self, **kwargs: Any) -> nn.Module:
    """Same keyword arguments as `layers.Dense`."""
    return SubspaceDense(forward=self.forward, saves_memory=self.saves_memory, **kwargs)
