"""What lies behind the scores: t-SNE of features, layer masks, the worst mistakes as pictures."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from markupsafe import Markup
from matplotlib import colors, ticker
from matplotlib.axes import Axes

from masm_jax.report import svg
from masm_jax.report.runs import Run

_MASK_COLUMNS = 160
_MAX_SUBSPACES = 12
_MASK_COLOUR = '#3b8fd6'  # Seen on white and on black; how opaque it is says how often.
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
  features = np.stack([np.asarray(value, np.float32) for value in rows['feature']])
  if not np.isfinite(features).all() or not features.std(0).any():
    return None
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
  last = run.results.run.last_step
  steps = [int(line['step']) for line in lines]
  end = max(int(last) + 1 if last else 0, steps[-1] + 1)
  edges = np.array([*steps, end], np.float64)
  rows = [str(name) for name in lines[-1]['rows']]
  panels = [
    _mask_panel(run, history[:, :, k], edges, rows, k, history.shape[2])
    for k in range(min(history.shape[2], _MAX_SUBSPACES))
  ]
  return [*panels, _duty_panel(run, history, edges, rows)]


def _mask_panel(
  run: Run,
  history: np.ndarray,
  edges: np.ndarray,
  rows: Sequence[str],
  subspace: int,
  num_subspaces: int,
) -> Markup:
  """One subspace: blocks downwards, steps to the right; [T, L] over [T + 1] edges."""
  with svg.panel(310, 190) as (figure, axes):
    shares = _resampled(history, edges)
    draw_shares(axes, shares.T, (edges[0], edges[-1]))
    _name_rows(axes, rows)
    axes.set(title=f'subspace {subspace}' if num_subspaces > 1 else 'groups', xlabel='step')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    text = f'Mask of subspace {subspace} of {run.name}: which blocks were trained at which step'
    return svg.to_svg(figure, f'mask-{run.series}-{subspace}', text)


def _duty_panel(run: Run, history: np.ndarray, edges: np.ndarray, rows: Sequence[str]) -> Markup:
  """Every group's share of the steps, [L, K]."""
  duty = np.average(history, axis=0, weights=np.diff(edges))
  num_rows, num_subspaces = duty.shape
  with svg.panel(310, 190 if num_rows <= 12 else 330) as (figure, axes):
    draw_shares(axes, duty, (-0.5, num_subspaces - 0.5))
    _name_rows(axes, rows)
    if num_rows <= 24 and num_subspaces <= 8:
      for (row, column), share in np.ndenumerate(duty):
        axes.text(column, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=9.5)
    axes.set(title='on, % of steps', xlabel='subspace')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(9, integer=True))
    text = f'Share of the steps in which each group of {run.name} was trained: ' + '; '.join(
      f'{name} ' + ' '.join(f'{100 * share:.0f}%' for share in of_row)
      for name, of_row in zip(rows, duty, strict=True)
    )
    return svg.to_svg(figure, f'duty-{run.series}', text)


def draw_shares(axes: Axes, shares: np.ndarray, extent_x: tuple[float, float]) -> None:
  """Shares in [0, 1] as squares, [rows, columns], row 0 on top; the page shows through."""
  rgba = np.empty((*shares.shape, 4))
  rgba[..., :3] = colors.to_rgb(_MASK_COLOUR)
  rgba[..., 3] = np.where(np.isfinite(shares), 0.06 + 0.94 * shares, 0.0)
  extent = (*extent_x, len(shares) - 0.5, -0.5)
  axes.imshow(rgba, aspect='auto', interpolation='none', extent=extent)
  axes.spines[:].set_visible(False)


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
  every = max(1, math.ceil(len(rows) / 12))
  shown = range(0, len(rows), every)
  axes.set_yticks(
    shown, [svg.label(rows[i].removeprefix('block_'), 16) for i in shown], fontsize=9.5
  )
  axes.set_ylabel('block' if all(name.startswith('block_') for name in rows) else 'group')


def _resampled(history: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Share of time on, [C, L], in columns of equal width: C is at most `_MASK_COLUMNS`."""
  columns = min(_MASK_COLUMNS, max(int(edges[-1] - edges[0]), 1))
  at = np.linspace(edges[0], edges[-1], columns + 1)
  spent = np.concatenate([np.zeros((1, history.shape[1])), history * np.diff(edges)[:, None]])
  total = np.cumsum(spent, axis=0)
  until = np.stack([np.interp(at, edges, total[:, row]) for row in range(history.shape[1])], axis=1)
  return np.clip(np.diff(until, axis=0) / np.diff(at)[:, None], 0, 1)


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
    key: svg.clean(row[column]) for key, column in keys.items()
  }


def _data_uri(data: Any) -> str | None:
  """A JPEG as a data URI; None for anything else, which has no business in the page."""
  if not isinstance(data, bytes) or not data.startswith(_JPEG_MAGIC):
    return None
  if len(data) > _LONGEST_THUMBNAIL:
    return None
  return 'data:image/jpeg;base64,' + base64.b64encode(data).decode('ascii')
