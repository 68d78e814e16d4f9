"""How the artifact factors of a kernel are trained, and what their product is.

[ours: which forms there are] However it is parametrized, the artifact part begins as the same
matrix, so that the adapted kernel begins as the pretrained one.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Parametrization = Literal['svd', 'balanced', 'core']


def split_factors(
  factors: Mapping[str, Any], parametrization: Parametrization
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The artifact factors of a kernel as they are trained; their product stays what it was.

  Args:
    factors: `U [K, d_in, q]`, `S [K, q]`, `V [K, q, d_out]` of the SVD.
    parametrization: `svd` trains all three [kin: Effort]. `balanced` trains `U sqrt(S)` and
      `sqrt(S) V`, on which gradients act alike, and freezes S at 1. `core` trains the matrix M [K,
      q, q] between U and V, which are frozen, from `diag(S)` on [kin: LoRA-XS, arXiv 2405.17604].

  Returns:
    (trained, frozen): `U`, `S`, `V` or `M` by name.
  """
  u, s, v = (factors[name] for name in ('U', 'S', 'V'))
  if parametrization == 'balanced':
    root = s**0.5
    return {'U': u * root[:, None, :], 'V': root[:, :, None] * v}, {'S': s * 0 + 1}
  if parametrization == 'core':
    return {'M': s[:, :, None] * np.eye(s.shape[-1], dtype=np.float32)[None]}, {'U': u, 'V': v}
  return {'U': u, 'S': s, 'V': v}, {}


def left_factor(factors: Mapping[str, jax.Array]) -> jax.Array:
  """What multiplies `V` in the artifact part: `U_k diag(S_k)`, or `U_k M_k` where there is a core.

  Args:
    factors: `U [K, d_in, q]` and `S [K, q]`, or `U` and `M [K, q, q]`; see `split_factors`.

  Returns:
    float32 [K, d_in, q].
  """
  if 'M' in factors:
    return jnp.einsum('kdp,kpq->kdq', factors['U'], factors['M'], precision='highest')
  return factors['U'] * factors['S'][:, None, :]


def artifact_kernel(factors: Mapping[str, jax.Array]) -> jax.Array:
  """The artifact part of a kernel, float32 [d_in, d_out]; factors as of `left_factor`, and `V`."""
  return jnp.einsum('kdq,kqf->df', left_factor(factors), factors['V'], precision='highest')
