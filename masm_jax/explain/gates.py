"""Where in the picture the learned changes act: a path integral over gates for each token.

Every token, layer and kernel has a gate for each of the K changes. From all gates at 0 (the
pretrained backbone) to all at 1 (the detector), `A = int_0^1 dm/dgate(a) da` says what of
`m(1) - m(0)` goes through each gate; the sum over layers and kernels is a signed map per change.
[ours] [kin: integrated gradients, arXiv 1703.01365, of which this is the form over weights]

The gates are never built into the model: at a point of the path the derivative needs each layer's
input, its change, and the gradient at its output, which `backbones.intercept_layers` gives.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.inference.changes import Changes, Dense, LowRank, apply

Owners = dict[str, dict[str, LowRank | Dense]]


class Slots(NamedTuple):
  """The places that a gate may belong to: tokens, the pooled token, and anything else.

  Attributes:
    num_tokens: T, of which the last `grid^2` are the patches in rows.
    grid: patches along one side.
  """

  num_tokens: int
  grid: int

  @property
  def total(self) -> int:
    """T + 2: behind the tokens the pooled one, and what has no place."""
    return self.num_tokens + 2

  def of_rows(self, gates: jax.Array, rows: int) -> jax.Array:
    """The gates [rows, K] of a layer's output rows, out of all gates [T + 2, K]."""
    tokens, patches = self.num_tokens, self.grid**2
    if rows == tokens:
      return gates[:tokens]
    if rows == patches:
      return gates[tokens - patches : tokens]
    if rows == 1:
      return gates[tokens : tokens + 1]
    return jnp.broadcast_to(gates[tokens + 1 :], (rows, gates.shape[-1]))


class Attribution(NamedTuple):
  """What of the logit goes through which change and which place, for B pictures.

  Attributes:
    maps: float64 [B, K, G, G]: patches of the picture, in rows; positive speaks for fake.
    tokens: float64 [B, K]: class and other tokens that are no place in the picture.
    elsewhere: float64 [B, K]: parameters that belong to no token, as position embeddings.
    off: m(0), float64 [B]: the logit of the pretrained backbone under the trained head.
    on: m(1), float64 [B]: the detector's logit.
  """

  maps: np.ndarray
  tokens: np.ndarray
  elsewhere: np.ndarray
  off: np.ndarray
  on: np.ndarray

  @property
  def completeness_error(self) -> np.ndarray:
    """`sum of everything - (m(1) - m(0))`, float64 [B]: what the quadrature missed."""
    parts = self.maps.sum((1, 2, 3)) + self.tokens.sum(1) + self.elsewhere.sum(1)
    return parts - (self.on - self.off)

  @property
  def token_share(self) -> np.ndarray:
    """Share of `tokens` in the absolute sum over places, float64 [B]."""
    tokens = np.abs(self.tokens).sum(1)
    total = tokens + np.abs(self.maps).sum((1, 2, 3)) + np.abs(self.elsewhere).sum(1)
    return tokens / np.maximum(total, 1e-30)


class Explainer:
  """The compiled functions of one detector and its changes.

  Args:
    config: of the detector; computes in float32 whatever it says.
    changes: what training added.
  """

  def __init__(self, config: detector_lib.DetectorConfig, changes: Changes):
    self.config = dataclasses.replace(config, dtype=jnp.float32, remat=False)
    self.changes = changes
    self._model = detector_lib.Detector(self.config)
    self._base, self._parts = jax.device_put((changes.base, changes.parts))
    self._owners = _owners(changes)
    self.slots = self._find_slots()
    self._logits = jax.jit(self._logits_at)
    self._slopes = jax.jit(self._slopes_at)

  def logits(self, images: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """m(g): the log-odds of fake with change k switched to `gates_k`.

    Args:
      images: uint8 [B, S, S, 3].
      gates: [K].

    Returns:
      float64 [B].
    """
    gates = jnp.asarray(gates, jnp.float32)
    return np.asarray(self._logits(self._base, self._parts, images, gates), np.float64)

  def attribute(self, images: np.ndarray, *, points: int = 8) -> Attribution:
    """The path integral, by Gauss-Legendre quadrature.

    Args:
      images: uint8 [B, S, S, 3].
      points: of the quadrature; 8 miss about 3e-3 of a logit on a small ViT, 16 about 1e-5.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = np.zeros((len(images), self.slots.total, self.changes.num_parts))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
      slopes = self._slopes(self._base, self._parts, images, jnp.float32(node))
      total += weight * np.asarray(slopes, np.float64)
    ends = [self.logits(images, np.full(self.changes.num_parts, end)) for end in (0.0, 1.0)]
    num_tokens, grid = self.slots
    places = total.transpose(0, 2, 1)  # [B, K, T + 2]
    prefix = num_tokens - grid**2
    return Attribution(
      maps=places[..., prefix:num_tokens].reshape(*places.shape[:2], grid, grid),
      tokens=places[..., :prefix].sum(-1) + places[..., num_tokens],
      elsewhere=places[..., num_tokens + 1],
      off=ends[0],
      on=ends[1],
    )

  def _logits_at(self, base: Any, parts: Any, images: jax.Array, gates: jax.Array) -> jax.Array:
    return log_odds(self._model.apply({'params': apply(base, parts, gates)}, images).logits)

  def _slopes_at(self, base: Any, parts: Any, images: jax.Array, at: jax.Array) -> jax.Array:
    """`dm/dgate` at gates `at`, summed over layers: float32 [B, T + 2, K]."""
    num_parts = self.changes.num_parts
    params = apply(base, parts, jnp.full((num_parts,), at))
    owners = _owners(self.changes._replace(parts=parts))
    unplaced = {
      f'{owner}/{name}': part
      for owner, leaves in owners.items()
      for name, part in leaves.items()
      if owner not in self._owners_of_tokens
    }

    def logit(gates: jax.Array, image: jax.Array) -> jax.Array:
      # These gates are 0: they are the step off the path, by which the logit is differentiated.
      moved = apply(params, unplaced, gates[-1]) if unplaced else params
      interceptor = functools.partial(_add_gated, owners, self._owners_of_tokens, self.slots, gates)
      with backbones.intercept_layers(interceptor):
        return log_odds(self._model.apply({'params': moved}, image[None]).logits)[0]

    zero = jnp.zeros((self.slots.total, num_parts), jnp.float32)
    return jax.vmap(jax.grad(logit), (None, 0))(zero, images)

  def _find_slots(self) -> Slots:
    """Traces the model once: which layers work on tokens, and how many tokens there are."""
    rows: dict[str, int] = {}

    def record(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
      y = next_fun(*args, **kwargs)
      if context.method_name == '__call__' and isinstance(y, jax.Array):
        rows['/'.join(context.module.path)] = math.prod(y.shape[:-1])
      return y

    size = self.config.backbone.image_size

    def trace(images: jax.Array) -> jax.Array:
      with backbones.intercept_layers(record):
        return self._model.apply({'params': self._base}, images).logits

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))
    leaves = _leaf_modules(self.changes.base)
    self._owners_of_tokens = frozenset(path for path in rows if path in leaves)
    in_blocks = [count for path, count in rows.items() if tree.block_of(path)]
    num_tokens = max(in_blocks)
    grid = getattr(self.config.backbone, 'grid', None) or math.isqrt(num_tokens)
    return Slots(num_tokens, grid)


def log_odds(logits: jax.Array) -> jax.Array:
  """Fake minus real, [B], of logits [B, 2]."""
  return logits[:, detector_lib.FAKE] - logits[:, 1 - detector_lib.FAKE]


def _owners(changes: Changes) -> Owners:
  """The changes by the module that owns the parameter."""
  owners: Owners = {}
  for path, part in changes.parts.items():
    owner, _, name = path.rpartition('/')
    owners.setdefault(owner, {})[name] = part
  return owners


def _leaf_modules(params: Any) -> set[str]:
  """Paths of modules all of whose parameters are their own."""
  owners = {path.rpartition('/')[0] for path in tree.flatten(params)}
  return {path for path in owners if not any(other.startswith(f'{path}/') for other in owners)}


def _add_gated(
  owners: Owners,
  on_tokens: frozenset[str],
  slots: Slots,
  gates: jax.Array,
  next_fun: Callable,
  args: tuple,
  kwargs: dict,
  context: Any,
) -> Any:
  """A layer's output, plus what each change would add to it times its gate (all of which are 0)."""
  y = next_fun(*args, **kwargs)
  path = '/'.join(context.module.path)
  if context.method_name != '__call__' or path not in owners or path not in on_tokens:
    return y
  added = _added(context.module, owners[path], *args, **kwargs)  # [rows, D, K]
  # Its own dependence on the input is of second order in the gates.
  added = jax.lax.stop_gradient(added)
  of_rows = slots.of_rows(gates, added.shape[0])
  return y + jnp.einsum('rdk,rk->rd', added, of_rows).reshape(y.shape).astype(y.dtype)


def _added(
  module: nn.Module, leaves: dict[str, LowRank | Dense], x: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
  """What each change adds to a layer's output, float32 [rows, D, K].

  A layer of a transformer is linear in its parameters: its output with a change in their place is
  what the change adds.
  """
  low_rank = {name: part for name, part in leaves.items() if isinstance(part, LowRank)}
  dense = {name: part.values for name, part in leaves.items() if isinstance(part, Dense)}
  added = []
  if low_rank:
    (kernel,) = low_rank.values()
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    inner = jnp.einsum('rd,kdm->rkm', rows, kernel.left)
    added.append(jnp.einsum('rkm,kmf->rfk', inner, kernel.right))
  if dense:
    fresh = module.clone(parent=None, name=None)
    shapes = {name: leaf for name, leaf in module.variables['params'].items()}
    num_parts = next(iter(dense.values())).shape[0]
    for_each = []
    for k in range(num_parts):
      params = {
        name: dense[name][k] if name in dense else jnp.zeros_like(leaf)
        for name, leaf in shapes.items()
      }
      y = fresh.apply({'params': params}, x, *args, **kwargs)
      for_each.append(y.reshape(-1, y.shape[-1]).astype(jnp.float32))
    added.append(jnp.stack(for_each, axis=-1))
  return sum(added[1:], start=added[0])
