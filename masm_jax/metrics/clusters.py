"""Clusters of videos that the bootstrap may not treat as independent."""

import dataclasses

import numpy as np
import pandas as pd
import scipy.sparse

from masm_jax.data.importers import names
from masm_jax.errors import UserError

UNITS = ('auto', 'video', 'identity')

# Joining all videos that share a person can swallow a data set (Celeb-DF swaps its 59 celebrities
# with each other): 'auto' then falls back to videos, for an interval needs independent parts.
_MIN_CLUSTERS = 10
_MAX_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Clusters:
  """What the bootstrap draws as a whole.

  Attributes:
    unit: 'video' or 'identity'.
    of_video: video_id -> index of its cluster, 0 .. num - 1, as an int64 series.
    num: clusters.
    note: why 'auto' did not take identities although some are known, or ''.
  """

  unit: str
  of_video: pd.Series
  num: int
  note: str = ''

  def of(self, table: pd.DataFrame) -> np.ndarray:
    """The cluster of each row of a table with a column `video_id`, int64 [N]."""
    return self.of_video.loc[table['video_id']].to_numpy(np.int64)

  def within(self, table: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Clusters of a part of the rows, numbered anew: int64 [N] and how many there are."""
    present, index = np.unique(self.of(table), return_inverse=True)
    return index, len(present)


def make_clusters(table: pd.DataFrame, unit: str = 'auto') -> Clusters:
  """Clusters of the videos of a score table; they do not depend on the order of its rows.

  'identity' joins videos that show an identity in common, directly or through others (an identity
  belongs to its data set, or to its family of data sets); a video without identities stays alone.
  'auto' does so where every video's identities are known and at least 10 clusters come out, none of
  more than half of the videos; otherwise it takes videos.

  Args:
    table: rows with `video_id`, and with `dataset` and `identities` for identities.
    unit: 'auto', 'video' or 'identity'.

  Raises:
    UserError: no such unit, or 'identity' where no identity is known.
  """
  if unit not in UNITS:
    raise UserError(f'unknown bootstrap unit {unit!r}: use one of {", ".join(UNITS)}')
  kept = [name for name in ('dataset', 'identities') if name in table]
  videos = table[['video_id', *kept]].drop_duplicates('video_id').sort_values('video_id')
  singles = pd.Series(np.arange(len(videos)), index=pd.Index(videos['video_id']))
  by_video = Clusters('video', singles, len(videos))
  known = pd.Series(False, videos.index)
  if len(kept) == 2:
    known = videos['identities'].map(lambda text: bool(names.joined_identities(text)))
  if unit == 'identity' and not known.any():
    raise UserError('the bootstrap cannot go by identity: no row has identities; use video or auto')
  if unit == 'video' or not known.any():
    return by_video
  if unit == 'auto' and not known.all():
    note = (
      f'only {int(known.sum())} of the {len(videos)} videos have identities: intervals go by video,'
      ' and may be too narrow (bootstrap.unit=identity joins those that are known)'
    )
    return dataclasses.replace(by_video, note=note)
  joined = _join(videos)
  by_identity = Clusters('identity', pd.Series(joined, index=singles.index), int(joined.max()) + 1)
  largest = np.bincount(joined).max()
  if unit == 'auto' and (by_identity.num < _MIN_CLUSTERS or largest > _MAX_SHARE * len(videos)):
    note = (
      f'people that videos share leave few independent groups among the {len(videos)} videos:'
      f' {by_identity.num}, the largest of {largest} videos; intervals go by video instead, and may'
      ' be too narrow'
    )
    return dataclasses.replace(by_video, note=note)
  return by_identity


def _join(videos: pd.DataFrame) -> np.ndarray:
  """Connected components of videos over identities, int64 [V]."""
  pairs = [
    (i, f'{names.identity_scope(dataset)}:{identity}')
    for i, (dataset, identities) in enumerate(
      zip(videos['dataset'], videos['identities'], strict=True)
    )
    for identity in names.joined_identities(identities)
  ]
  rows = np.array([i for i, _ in pairs])
  columns, _ = pd.factorize(np.array([name for _, name in pairs], object))
  size = len(videos) + columns.max() + 1
  edges = (np.ones(len(rows)), (rows, len(videos) + columns))
  graph = scipy.sparse.coo_matrix(edges, shape=(size, size))
  _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
  # Numbered by the first video of each: the same whatever SciPy does.
  return pd.factorize(component[: len(videos)])[0].astype(np.int64)
