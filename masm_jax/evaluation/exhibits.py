"""What a report shows beside metrics: features of a sample, thumbnails of the worst mistakes."""

import math
from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd

from masm_jax.data import loader
from masm_jax.data.manifest import Manifest
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import scores

THUMBNAIL_PX = 160
_JPEG_QUALITY = 85


def sample_rows(manifest: Manifest, count: int) -> np.ndarray:
  """At most `count` records, rising: an equal number of each method, evenly over its records.

  A method with fewer records leaves its places to the others. Nothing is drawn at random.

  Args:
    manifest: N records.
    count: how many.

  Returns:
    int64 [min(N, count)].
  """
  if count >= len(manifest):
    return np.arange(len(manifest))
  methods = manifest.table['method'].to_numpy()
  groups = sorted((np.flatnonzero(methods == name) for name in np.unique(methods)), key=len)
  taken, left = [], count
  for i, rows in enumerate(groups):
    share = min(len(rows), left // (len(groups) - i))
    taken.append(rows[np.arange(share) * len(rows) // max(share, 1)])
    left -= share
  return np.sort(np.concatenate(taken))


def worst_mistakes(
  table: pd.DataFrame, thresholds: Mapping[str, float], count: int, video_score: str = 'mean'
) -> np.ndarray:
  """Rows of the `count` highest-scored reals and lowest-scored fakes on the wrong side.

  One frame per video, the worst. Videos that are on the wrong side as videos come first, then the
  frames of videos that are called right; ties go to the first path.

  Args:
    table: a score table.
    thresholds: by level: fake where `score >= threshold`; without one (nan) there are no mistakes.
    count: of each kind.
    video_score: how a video's score comes from its frames'.

  Returns:
    Positions int64 [<= 2 * count], false alarms first, the worst first.
  """
  if any(math.isnan(thresholds.get(level, math.nan)) for level in scores.LEVELS) or not len(table):
    return np.zeros(0, np.int64)
  videos = metrics.video_scores(table, video_score).set_index('video_id')
  is_wrong = (videos['score'] >= thresholds['video']) != (videos['label'] == 1)
  rows = table[['video_id', 'path', 'label', 'score']].assign(
    position=np.arange(len(table)), is_right=~table['video_id'].map(is_wrong).astype(bool)
  )
  found = []
  for label, ascending in ((0, False), (1, True)):
    of_class = rows[rows['label'] == label]
    wrong = of_class[((of_class['score'] >= thresholds['frame']) != label) | ~of_class['is_right']]
    wrong = wrong.sort_values(['is_right', 'score', 'path'], ascending=[True, ascending, True])
    found.append(wrong.drop_duplicates('video_id')['position'].head(count))
  return np.concatenate(found).astype(np.int64)


def thumbnail(image: np.ndarray) -> bytes:
  """A JPEG of at most 160 px on its longer side, of an image uint8 RGB [H, W, 3]."""
  scale = min(1.0, THUMBNAIL_PX / max(image.shape[:2]))
  size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
  if scale < 1:
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  return cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1].tobytes()


def with_features(table: pd.DataFrame, paths: np.ndarray, features: np.ndarray) -> pd.DataFrame:
  """Adds the column `feature`: a list of float32 on the sampled rows, None elsewhere.

  Args:
    table: a score table.
    paths: object [S], the sampled records' paths.
    features: float32 [S, D].
  """
  by_path = dict(zip(paths, features, strict=True))
  column = np.array([None] * len(table), object)
  for i, path in enumerate(table['path']):
    if path in by_path:
      column[i] = by_path[path].astype(np.float32)
  return table.assign(feature=column)


def with_thumbnails(
  table: pd.DataFrame,
  manifest: Manifest,
  thresholds: Mapping[str, float],
  count: int,
  video_score: str = 'mean',
) -> pd.DataFrame:
  """Adds the column `thumbnail`: JPEG bytes of the worst mistakes, None elsewhere."""
  records = {path: record for record, path in enumerate(manifest.table['path'])}
  column = np.array([None] * len(table), object)
  for i in worst_mistakes(table, thresholds, count, video_score):
    column[i] = thumbnail(loader.decode(manifest.images, records[table['path'].iloc[i]]))
  return table.assign(thumbnail=column)
