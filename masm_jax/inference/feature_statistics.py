"""How far a picture's feature lies from those of the validation set: Mahalanobis distances.

Lee et al. 2018 (arXiv 1807.03888): one Gaussian per class with a shared covariance, and the
distance to the nearer mean. [ours: the covariance is shrunk (Ledoit and Wolf 2004), and the
threshold is a percentile of distances to statistics that were made without the measured video.]
"""

import dataclasses

import numpy as np
import scipy.linalg

PERCENTILE = 99.0
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
  """Where the features of a validation set lie.

  Attributes:
    means: float32 [2, D], of the real faces and of the fakes.
    whitening: float32 [D, D]: the inverse of the Cholesky factor of the shared covariance.
    threshold: distances above it are out of domain.
    percentile: of the validation's distances that `threshold` is.
    num: frames that this was made of.
  """

  means: np.ndarray
  whitening: np.ndarray
  threshold: float
  percentile: float
  num: int

  def distances(self, features: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of features [B, D] to the nearer class mean, float64 [B]."""
    return _distances(features, self.means, self.whitening)


def fit(
  features: np.ndarray, labels: np.ndarray, videos: np.ndarray, *, percentile: float = PERCENTILE
) -> FeatureStatistics | None:
  """The statistics of a validation set.

  The threshold is measured in five folds by video: neighbouring frames are alike, and a frame lies
  too near to statistics that it, or its neighbour, is part of.

  Args:
    features: float32 [N, D].
    labels: [N], 0 real and 1 fake.
    videos: [N], which video each comes from.
    percentile: of the distances, within (0, 100).

  Returns:
    The statistics; None where a class has fewer than two videos, or the features do not differ.
  """
  labels = np.asarray(labels)
  _, first, video = np.unique(videos, return_index=True, return_inverse=True)
  of_video = labels[first]
  smallest = min(int((of_video == label).sum()) for label in (0, 1))
  folds = min(_FOLDS, smallest)
  if folds < 2:
    return None
  rank = np.zeros(len(first), np.int64)  # The number of a video within its class.
  for label in (0, 1):
    rank[of_video == label] = np.arange((of_video == label).sum())
  fold = rank[video] % folds
  distances = np.zeros(len(labels))
  for held_out in range(folds):
    found = _gaussians(features[fold != held_out], labels[fold != held_out])
    if found is None:
      return None
    distances[fold == held_out] = _distances(features[fold == held_out], *found)
  found = _gaussians(features, labels)
  if found is None:
    return None
  means, whitening = (part.astype(np.float32) for part in found)
  threshold = float(np.percentile(distances, percentile))
  return FeatureStatistics(means, whitening, threshold, percentile, len(labels))


def _gaussians(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """Class means [2, D] and the whitening [D, D] of the shared covariance, float64."""
  import sklearn.covariance  # Slow to import.

  features = np.asarray(features, np.float64)
  means = np.stack([features[labels == label].mean(axis=0) for label in (0, 1)])
  covariance, _ = sklearn.covariance.ledoit_wolf(features - means[labels], assume_centered=True)
  scale = np.trace(covariance) / len(covariance)
  if not scale > 0:
    return None
  # What does not vary at all still has to have an inverse.
  covariance[np.diag_indices_from(covariance)] += 1e-6 * scale
  factor = scipy.linalg.cholesky(covariance, lower=True)
  return means, scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True)


def _distances(features: np.ndarray, means: np.ndarray, whitening: np.ndarray) -> np.ndarray:
  white = np.asarray(features, np.float64) @ whitening.T.astype(np.float64)
  centres = means.astype(np.float64) @ whitening.T.astype(np.float64)
  return np.min([np.linalg.norm(white - centre[None], axis=1) for centre in centres], axis=0)
