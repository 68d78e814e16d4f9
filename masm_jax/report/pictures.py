"""What lies behind the scores: t-SNE of features, layer masks, the worst mistakes as pictures."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from markupsafe import Markup

from masm_jax.plots import masks as mask_plots
from masm_jax.plots.style import clean
from masm_jax.report.runs import Run

_MAX_SUBSPACES = 12
_LONGEST_THUMBNAIL = 200_000  # Bytes; an evaluation writes some thousand for each.
_JPEG_MAGIC = b'\xff\xd8\xff'


def tsne(
  table: pd.DataFrame, max_points: int, seed: int = 0
) -> tuple[np.ndarray, list[str]] | None:
  """Features in two dimensions (van der Maaten and Hinton 2008, by scikit-learn).

  Args:
    table: a score table with features on some rows.
    max_points: rows that are drawn; more are thinned evenly.
    seed: of t-SNE, whose start is the principal components.

  Returns:
    (points [N, 2], methods [N], real faces first); None without enough features.
  """
  if 'feature' not in table or max_points < 1:
    return None
  rows = table[table['feature'].notna()]
  if len(rows) > max_points:
    rows = rows.iloc[np.linspace(0, len(rows) - 1, max_points).round().astype(int)]
  if len(rows) < 10:
    return None
  rows = rows.sort_values(['label', 'method'], kind='stable')
  features = np.stack([np.asarray(value, np.float64) for value in rows['feature']])
  if features.shape[1] < 2 or not np.isfinite(features).all() or not np.ptp(features, 0).any():
    return None
  # The map is the same at any scale and place; scikit-learn's tree follows an infinite or undefined
  # point until the process ends (segmentation fault).
  features = features / np.abs(features).max()
  features -= features.mean(0)
  features = (features / np.abs(features).max()).astype(np.float32)
  from sklearn import manifold  # Slow to import.

  # One thread: sums are added in the same order, and the same bytes come out.
  with threadpoolctl.threadpool_limits(1):
    points = manifold.TSNE(
      init='pca', perplexity=min(30, (len(rows) - 1) / 3), random_state=seed
    ).fit_transform(features)
  return points, [str(method) for method in rows['method']]


def masks(run: Run) -> list[Markup]:
  """The layer mask of the run over its steps, a panel for each subspace, and every group's share.

  Empty where the run had no mask.
  """
  lines = run.results.masks or ()
  if not lines:
    return []
  history = np.array([line['mask'] for line in lines], np.float64)  # [T, L, K]
  steps = [line['step'] for line in lines]
  end = max((run.results.run.last_step or 0) + 1, steps[-1] + 1)
  edges = np.array([*steps, end], np.float64)
  return mask_plots.svg_panels(
    history, edges, lines[-1]['rows'], run.name, key=f'mask-{run.series}', most=_MAX_SUBSPACES
  )


def mistakes(run: Run, name: str) -> dict[tuple[str, bool], list[dict[str, Any]]]:
  """The worst mistakes with a thumbnail, by what became of the video that each is of.

  Returns:
    `{(kind, is_wrong): items}`: frames of real videos that were called fake as videos come as
    ('real', True), those of real videos that were called right, but for such frames, as
    ('real', False); so too 'fake'. Worst first, each with `src` (a data URI), `score` of the frame,
    `video_score`, `method`, `video` and `path`.
  """
  table, videos = run.frames[name], run.videos[name].set_index('video_id')
  kinds = [(kind, is_wrong) for is_wrong in (True, False) for kind in ('real', 'fake')]
  found: dict[tuple[str, bool], list[dict[str, Any]]] = {kind: [] for kind in kinds}
  if 'thumbnail' not in table:
    return found
  rows = table[table['thumbnail'].notna()]
  for label, kind in ((0, 'real'), (1, 'fake')):
    of_class = rows[rows['label'] == label].sort_values(
      'score', ascending=label == 1, kind='stable'
    )
    for row in of_class.to_dict('records'):
      if (source := _data_uri(row['thumbnail'])) is not None:
        score = float(videos.loc[row['video_id'], 'score'])
        is_wrong = bool((score >= run.threshold('video')) != (label == 1))
        found[kind, is_wrong].append(_mistake(row, source) | {'video_score': score})
  return found


def _mistake(row: Mapping[str, Any], source: str) -> dict[str, Any]:
  keys = {'method': 'method', 'video': 'video_id', 'path': 'path'}
  return {'src': source, 'score': float(row['score'])} | {
    key: clean(row[column]) for key, column in keys.items()
  }


def _data_uri(data: Any) -> str | None:
  """A JPEG as a data URI; None for anything else, which has no business in the page."""
  if not isinstance(data, bytes) or not data.startswith(_JPEG_MAGIC):
    return None
  if len(data) > _LONGEST_THUMBNAIL:
    return None
  return 'data:image/jpeg;base64,' + base64.b64encode(data).decode('ascii')
