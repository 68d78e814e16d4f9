"""Orthogonality and spectral-consistency losses of one decomposed kernel: pure `jax.numpy`.

`docs/methods.md`, Regularizers. Array shapes: K artifact subspaces of rank q beside r semantic
components; `U [K, d_in, q]`, `S [K, q]`, `V [K, q, d_out]`, float32 throughout. [paper: less
redundancy across artifact subspaces, and the overall spectral structure of the weights kept] [kin:
both losses in Effort, arXiv 2411.15633] [ours: the parts and their weights, the relative form, the
closed forms] How orthogonality is kept, as a loss or exactly, is `regularizer.mode`: see
`constraints`.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from masm_jax import tree
from masm_jax.subspaces import parametrization

_ENERGY_RESOLUTION = 1e-6  # Of |W|^2: a few roundings of a float32 sum.
# Of a norm of a Gram matrix, per row: the roundings of a float32 SVD.
_NORM_RESOLUTION = 1e-5


@dataclasses.dataclass(frozen=True)
class RegularizerConfig:
  """Weights of the regularizers; the fields are documented in `configs/common.py`."""

  orthogonality: float = 1.0
  spectral: float = 1.0
  w_self: float = 1.0
  w_cross: float = 2.0
  w_sem: float = 2.0
  spectral_kind: Literal['energy', 'singular_values'] = 'energy'
  relative_energy: bool = True
  energy_of: Literal['artifact', 'kernel'] = 'kernel'
  squared: bool = True
  mode: Literal['loss', 'decoupled', 'exact'] = 'loss'


def subspace_gram(basis: jax.Array) -> tuple[jax.Array, jax.Array]:
  """How far K bases are from orthonormal, each in itself and between each other.

  Args:
    basis: Q, [K, d, q]: subspace k is spanned by the columns of `Q_k`.

  Returns:
    `sum_k |Q_k^T Q_k - I|^2` and `sum_{i<j} |Q_i^T Q_j|^2`, squared Frobenius norms, scalars.
  """
  num_subspaces, _, rank = basis.shape
  gram = jnp.einsum('idp,jdq->ijpq', basis, basis)
  own = jnp.arange(num_subspaces)
  own_gram = gram[own, own]  # [K, q, q]
  self_part = jnp.sum(jnp.square(own_gram - jnp.eye(rank, dtype=gram.dtype)[None]))
  between = 1.0 - jnp.eye(num_subspaces, dtype=gram.dtype)
  cross_part = 0.5 * jnp.sum(jnp.square(gram) * between[:, :, None, None])
  return self_part, cross_part


def semantic_overlap(
  basis: jax.Array, *, semantic: jax.Array | None, initial: jax.Array | None
) -> jax.Array:
  """`sum_k |Q_sem^T Q_k|^2`: how much of the semantic subspace the artifact bases use.

  Args:
    basis: Q, [K, d, q].
    semantic: `Q_sem [d, r]`, or None to use the closed form.
    initial: for the closed form, the artifact bases at the start, `Q_0 [K, d, q]`. Where Q_sem and
      Q_0 together span all d dimensions (a square factor of the SVD), `Q_sem Q_sem^T = I - Q_0
      Q_0^T`, hence `|Q_sem^T Q_k|^2 = |Q_k - Q_0 Q_0^T Q_k|^2`.

  Returns:
    A scalar.
  """
  if semantic is not None:
    return jnp.sum(jnp.square(jnp.einsum('dr,kdq->krq', semantic, basis)))
  # The residual, not the difference of the squares: that would round away what is small.
  inside = jnp.einsum('idp,kdq->ikpq', initial, basis)
  return jnp.sum(jnp.square(basis - jnp.einsum('idp,ikpq->kdq', initial, inside)))


def semantic_overlaps(layer: Mapping[str, jax.Array]) -> jax.Array:
  """`semantic_overlap` of the columns of U and of the rows of V, float32 [2].

  Args:
    layer: see `orthogonality`.
  """
  transpose = lambda x: None if x is None else jnp.swapaxes(x, -1, -2)
  sides = (
    (layer['U'], layer.get('U_sem'), layer['U_init']),
    (transpose(layer['V']), transpose(layer.get('V_sem')), transpose(layer['V_init'])),
  )
  return jnp.stack([semantic_overlap(q, semantic=sem, initial=q_0) for q, sem, q_0 in sides])


def orthogonality(
  layer: Mapping[str, jax.Array],
  *,
  w_self: float = 1.0,
  w_cross: float = 2.0,
  w_sem: float = 2.0,
  squared: bool = True,
  overlaps: jax.Array | None = None,
) -> jax.Array:
  """`L_orth` of one kernel; 0 at the start, where all bases come from one SVD.

  `w_self sum_k (|U_k^T U_k - I|^2 + |V_k V_k^T - I|^2) + w_cross sum_{i<j} (|U_i^T U_j|^2 + |V_i
  V_j^T|^2) + w_sem sum_k (|U_sem^T U_k|^2 + |V_sem V_k^T|^2)`. With the default weights this is
  `|U^^T U^ - I|^2 + |V^^T V^ - I|^2` for `U^ = [U_sem, U_1 .. U_K]` (the semantic block's own part
  is 0): Effort's published loss for K subspaces [kin]. In three parts (`decompose`) the semantic
  bases hold fewer components, so that the others are free to be used [ours].

  Without squares it is half the sum of both sides' norms, `|U^^T U^ - I| / 2 + |V^^T V^ - I| / 2`,
  as Effort's authors compute it. A norm has a slope of length 1 wherever it is not 0, and at the
  start it holds rounding errors alone: below `_NORM_RESOLUTION sqrt(d)` it counts as 0 [ours].

  Args:
    layer: `U`, `V`, `U_init`, `V_init`, and `U_sem [d_in, r]`, `V_sem [r, d_out]`; where one is
      left out, the initial bases and it span that side, and the closed form needs K*q columns.
    w_self: weight of each basis being orthonormal.
    w_cross: weight of the overlap between artifact subspaces.
    w_sem: weight of the overlap with the semantic subspace.
    squared: whether norms are squared.
    overlaps: `semantic_overlaps(layer)`, where it is known.

  Returns:
    A scalar.
  """
  if w_sem and overlaps is None:
    overlaps = semantic_overlaps(layer)
  loss = jnp.zeros((), jnp.float32)
  for i, basis in enumerate((layer['U'], jnp.swapaxes(layer['V'], -1, -2))):
    self_part, cross_part = subspace_gram(basis)
    side = w_self * self_part + w_cross * cross_part
    if w_sem:
      side += w_sem * overlaps[i]
    if not squared:
      floor = _NORM_RESOLUTION**2 * basis.shape[1]
      side = jnp.where(side > floor, 0.5 * jnp.sqrt(jnp.maximum(side, floor)), 0.0)
    loss += side
  return loss


def semantic_projection(layer: Mapping[str, jax.Array]) -> jax.Array:
  """`(U_k diag(S_k))^T kernel_sem`, float32 [K, q, d_out].

  Args:
    layer: see `energy_gap`.
  """
  scaled = parametrization.left_factor(layer)
  return jnp.einsum('kdq,df->kqf', scaled, layer['kernel_sem'].astype(jnp.float32))


def energy_gap(
  layer: Mapping[str, jax.Array],
  *,
  relative: bool = True,
  of: str = 'kernel',
  projected: jax.Array | None = None,
) -> jax.Array:
  """`| |W(theta)|_F^2 - |W|_F^2 | / |W|_F^2`, without building W(theta).

  The artifact part holds a thousandth of `|W|^2`: relative to all of it the loss has no force that
  would be felt. `of = artifact` divides by the artifact part's energy at the start, `|S_0|^2`.
  [ours]

  With A = sum_k U_k diag(S_k) V_k and its start A_0, which is orthogonal to `kernel_sem`:
  `|W(theta)|^2 - |W|^2 = 2 <kernel_sem, A> + |A|^2 - |A_0|^2`. Taken so, the difference of two
  large numbers is never formed. [kin: Effort's keep-singular-values loss; ours: relative]

  A gap below `_ENERGY_RESOLUTION * |W|^2` counts as none. [ours] Every run starts at a gap of 0,
  where the slope of `|x|` is the sign of a rounding error, which Adam turns into whole steps: runs
  on other devices or shardings would part at the first step.

  Args:
    layer: `U`, `S`, `V`, `S_init`, `kernel_sem [d_in, d_out]`, `energy = |W|_F^2`.
    relative: divide by an energy; False gives Effort's own form.
    of: whose: `kernel`, all of `|W|_F^2`, or `artifact`, `|S_0|^2`.
    projected: `semantic_projection(layer)`, where it is known: `kernel_sem` is not read then.

  Returns:
    A scalar, 0 at the start.
  """
  scaled = parametrization.left_factor(layer)  # [K, d_in, q]
  if projected is None:
    projected = semantic_projection(layer)
  inner = jnp.sum(projected * layer['V'])
  gram_u = jnp.einsum('idp,jdq->ipjq', scaled, scaled)
  gram_v = jnp.einsum('ipf,jqf->ipjq', layer['V'], layer['V'])
  gap = 2.0 * inner + jnp.sum(gram_u * gram_v) - jnp.sum(jnp.square(layer['S_init']))
  gap = jnp.where(jnp.abs(gap) > _ENERGY_RESOLUTION * layer['energy'], gap, jnp.zeros_like(gap))
  if not relative:
    return jnp.abs(gap)
  start = jnp.sum(jnp.square(layer['S_init'])) if of == 'artifact' else layer['energy']
  return jnp.abs(gap) / jnp.maximum(start, jnp.finfo(jnp.float32).tiny)


def singular_value_drift(layer: Mapping[str, jax.Array]) -> jax.Array:
  """`sum_k |S_k - S_k0|^2 / |S_0|^2`, S_0 being all artifact singular values at the start. [ours]

  Args:
    layer: `S [K, q]` and `S_init [K, q]`. Of balanced factors S is the product of the lengths of
      a column of U and a row of V, of a core its diagonal.

  Returns:
    A scalar, 0 at the start.
  """
  drift = jnp.sum(jnp.square(layer['S'] - layer['S_init']))
  return drift / jnp.maximum(jnp.sum(jnp.square(layer['S_init'])), jnp.finfo(jnp.float32).tiny)


def regularize(
  trainable: Mapping[str, Any],
  frozen: Mapping[str, Any],
  reference: Mapping[str, Any],
  config: RegularizerConfig,
) -> dict[str, jax.Array]:
  """The weighted regularizers, each a mean over all decomposed kernels.

  Args:
    trainable: holds `U`, `S`, `V` of each decomposed layer, or what of them is trained.
    frozen: holds `kernel_sem` of each, and the factors that are not trained.
    reference: the initial factors and the energy of each, see `layer.split_params`.
    config: weights; a weight of 0 leaves its regularizer out of the program.

  Returns:
    `{'orthogonality': ..., 'spectral': ...}`, float32 scalars.
  """
  # Small differences of products near 1: accelerators must not round them to TF32 or bfloat16.
  with jax.default_matmul_precision('float32'):
    return _regularize(trainable, frozen, reference, config)


def _regularize(
  trainable: Mapping[str, Any],
  frozen: Mapping[str, Any],
  reference: Mapping[str, Any],
  config: RegularizerConfig,
) -> dict[str, jax.Array]:
  trained, fixed, start = (tree.flatten(part) for part in (trainable, frozen, reference))
  # Kept exactly, orthogonality is measured alone: its slope is rounding errors alone.
  measured = jax.lax.stop_gradient if config.mode == 'exact' else lambda layer: layer
  # In one order, however the trees were built: a program is found in the cache by its text.
  owners = sorted(
    path.removesuffix('/kernel_sem') for path in fixed if path.endswith('/kernel_sem')
  )
  is_balanced = any(f'{owner}/S' in fixed for owner in owners)
  layers = [_layer(trained, fixed, start, owner) for owner in owners]
  in_form = functools.partial(in_orthonormal_form, is_balanced=is_balanced)
  losses = {}
  if config.orthogonality:
    weights = {name: getattr(config, name) for name in ('w_self', 'w_cross', 'w_sem', 'squared')}

    def read(layer: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
      layer = in_form(measured(layer))
      small = {'U': layer['U'], 'V': layer['V']}
      return small | ({'overlaps': semantic_overlaps(layer)} if config.w_sem else {})

    losses['orthogonality'] = config.orthogonality * _mean(
      lambda layer: orthogonality(layer, overlaps=layer.get('overlaps'), **weights), read, layers
    )
  if config.spectral and config.spectral_kind == 'energy':
    keep = ('U', 'S', 'V', 'M', 'S_init', 'energy')
    measure = functools.partial(energy_gap, relative=config.relative_energy, of=config.energy_of)
    losses['spectral'] = config.spectral * _mean(
      lambda layer: measure(layer, projected=layer['projected']),
      lambda layer: (
        {name: layer[name] for name in keep if name in layer}
        | {'projected': semantic_projection(layer)}
      ),
      layers,
    )
  elif config.spectral:
    losses['spectral'] = config.spectral * _mean(
      singular_value_drift,
      lambda layer: {name: in_form(layer)[name] for name in ('S', 'S_init')},
      layers,
    )
  return losses


def _mean(
  loss: Callable[[dict[str, jax.Array]], jax.Array],
  read: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
  layers: Sequence[Mapping[str, jax.Array]],
) -> jax.Array:
  """The mean of `loss(read(layer))`, taken of all kernels of one shape at once.

  ViT-L has 144 kernels of three shapes. What is large, and frozen, is read of each kernel by itself
  (`read`, which is traced once for a shape); what is read of them is small, and lies side by side.
  """
  read = jax.jit(read)
  alike = collections.defaultdict(list)
  for layer in layers:
    alike[tuple((name, x.shape) for name, x in layer.items())].append(read(layer))
  parts = [
    jax.vmap(loss)({name: jnp.stack([layer[name] for layer in group]) for name in group[0]})
    for group in alike.values()
  ]
  return jnp.mean(jnp.concatenate(parts))


def in_orthonormal_form(
  layer: Mapping[str, jax.Array], *, is_balanced: bool = False
) -> dict[str, jax.Array]:
  """A layer's factors on the scale of the SVD's: bases that begin orthonormal, and S beside them.

  Balanced factors are divided by `sqrt(S_init)`, with which they began; S of a core is its
  diagonal.

  Args:
    layer: what `orthogonality` and `singular_value_drift` read, as it is trained.
    is_balanced: whether the factors are.
  """
  layer = dict(layer)
  if 'M' in layer:
    return layer | {'S': jnp.diagonal(layer['M'], axis1=1, axis2=2)}
  if is_balanced:
    root = jnp.sqrt(jnp.maximum(layer['S_init'], jnp.finfo(jnp.float32).tiny))
    lengths = jnp.linalg.norm(layer['U'], axis=1) * jnp.linalg.norm(layer['V'], axis=2)
    return layer | {
      'U': layer['U'] / root[:, None, :], 'V': layer['V'] / root[:, :, None], 'S': lengths
    }  # fmt: skip
  return layer


def _layer(
  trainable: Mapping[str, jax.Array],
  frozen: Mapping[str, jax.Array],
  start: Mapping[str, jax.Array],
  owner: str,
) -> dict[str, jax.Array]:
  """What the losses of one kernel read, by the names that they use."""
  flat = {**trainable, **frozen}
  names = [name for name in ('U', 'S', 'V', 'M', 'kernel_sem') if f'{owner}/{name}' in flat]
  layer = {name: flat[f'{owner}/{name}'] for name in names}
  layer |= {f'{name}_init': start[f'{owner}/{name}'] for name in ('U', 'S', 'V')}
  layer |= {
    name: start[f'{owner}/{name}']
    for name in ('U_sem', 'V_sem', 'energy')
    if f'{owner}/{name}' in start
  }
  return layer
