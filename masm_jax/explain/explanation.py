"""The explanation of one picture: how much each learned change adds, and where."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from masm_jax.explain.gates import Explainer
from masm_jax.explain.shapley import shapley_values

_DIGITS = 5


@dataclasses.dataclass(frozen=True)
class Explanation:
  """Why a detector gave one picture its logit.

  Attributes:
    base_logit: m(0), of the pretrained backbone under the trained head.
    logit: m(1), of the detector.
    values: Shapley value of each of the K changes; they sum to `logit - base_logit`.
    standard_errors: of the values; 0 where they are exact.
    maps: float64 [K, G, G], what of the logit goes through each patch, by the path integral.
    token_share: share of class and other tokens, which are no place in the picture.
    completeness_error: what the quadrature of the maps missed, in units of the logit.
  """

  base_logit: float
  logit: float
  values: tuple[float, ...]
  standard_errors: tuple[float, ...]
  maps: np.ndarray
  token_share: float
  completeness_error: float

  def to_dict(self) -> dict[str, Any]:
    """JSON types; numbers rounded to five decimals."""
    rounded = lambda values: np.round(np.asarray(values, np.float64), _DIGITS).tolist()
    return {
      'base_logit': rounded(self.base_logit),
      'logit': rounded(self.logit),
      'shapley': rounded(self.values),
      'standard_errors': rounded(self.standard_errors),
      'maps': rounded(self.maps),
      'token_share': rounded(self.token_share),
      'completeness_error': rounded(self.completeness_error),
    }


def explain(
  explainer: Explainer, images: np.ndarray, *, points: int = 8, batch_size: int = 4
) -> Iterator[Explanation]:
  """Explains pictures, in their order.

  Args:
    explainer: of the detector and what training added.
    images: uint8 [B, S, S, 3], at the detector's size.
    points: of the path's quadrature.
    batch_size: pictures at a time; the last batch is padded to it, unless it holds one picture.
      So two programs are compiled at most.
  """
  for start in range(0, len(images), batch_size):
    batch = images[start : start + batch_size]
    count = len(batch)
    padded = batch_size if count > 1 else 1  # A single picture is the common case, and is fast.
    batch = np.concatenate([batch, np.repeat(batch[-1:], padded - count, axis=0)])
    found = explainer.attribute(batch, points=points)
    shares = shapley_values(
      lambda gates, batch=batch: explainer.logits(batch, gates), explainer.changes.num_parts
    )
    for i in range(count):
      yield Explanation(
        base_logit=float(found.off[i]),
        logit=float(found.on[i]),
        values=tuple(shares.values[i].tolist()),
        standard_errors=tuple(shares.standard_errors[i].tolist()),
        maps=found.maps[i],
        token_share=float(found.token_share[i]),
        completeness_error=float(found.completeness_error[i]),
      )
