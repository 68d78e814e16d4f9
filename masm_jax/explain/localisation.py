"""How well maps find what is forged, picture by picture: three scores against true masks.

Masks and maps are over the patches of a picture, `[G, G]`; a patch counts as forged where more than
half of it is.
"""

import numpy as np
from sklearn import metrics

METRICS = ('pointing', 'energy', 'auprc')
FORGED_SHARE = 0.5


def patch_mask(mask: np.ndarray, grid: int) -> np.ndarray:
  """Share of each patch that is forged, float64 [G, G], of a mask bool or float [H, W]."""
  height, width = mask.shape
  rows = np.minimum(np.arange(height) * grid // height, grid - 1)
  columns = np.minimum(np.arange(width) * grid // width, grid - 1)
  total, count = np.zeros((grid, grid)), np.zeros((grid, grid))
  np.add.at(total, (rows[:, None], columns[None]), mask.astype(np.float64))
  np.add.at(count, (rows[:, None], columns[None]), 1.0)
  return total / np.maximum(count, 1)


def usable(mask: np.ndarray) -> bool:
  """Whether a mask [G, G] says where: some patches are forged, and most are not all."""
  forged = mask > FORGED_SHARE
  return bool(0 < forged.sum() < 0.9 * forged.size)


def scores(saliency: np.ndarray, mask: np.ndarray) -> dict[str, float]:
  """The three scores of one map; higher is better.

  Args:
    saliency: float [G, G]; higher speaks for fake.
    mask: share forged, float [G, G].

  Returns:
    `pointing`: 1 where the highest patch is forged (the pointing game, arXiv 1608.00507), the share
    of ties that are where several are highest. `energy`: share of the positive part within the mask
    (arXiv 1910.01279); the mask's share of the picture where nothing is positive. `auprc`: average
    precision of patches.
  """
  forged = mask > FORGED_SHARE
  highest = saliency == saliency.max()
  positive = np.maximum(saliency, 0.0)
  total = positive.sum()
  return {
    'pointing': float(forged[highest].mean()),
    'energy': float((positive * mask).sum() / total) if total > 0 else float(mask.mean()),
    'auprc': float(metrics.average_precision_score(forged.ravel(), saliency.ravel())),
  }


def swap_patches(image: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """The image with the chosen patches of another in place.

  Args:
    image: uint8 [S, S, 3].
    other: uint8 [S, S, 3].
    chosen: bool [G, G]; G divides S.
  """
  patch = image.shape[0] // chosen.shape[0]
  area = np.kron(chosen, np.ones((patch, patch), bool))
  return np.where(area[..., None], other, image)
