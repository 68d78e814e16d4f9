"""Leaks: what a test set shares with the training or validation set."""

import dataclasses

import pandas as pd

from masm_jax.data import linking
from masm_jax.data.importers import names
from masm_jax.data.manifest import Manifest

_SHOWN = 3
_MEANING = {  # Of a leak from the training set, and from the validation set.
  'training': 'its metrics say nothing about unseen faces',
  'validation': 'faces that it is measured on chose the checkpoint and the threshold',
}


@dataclasses.dataclass(frozen=True)
class Leak:
  """One kind of thing that two sets share.

  Attributes:
    kind: 'files', 'videos' or 'identities'.
    shared: what they share, sorted.
    num_videos: videos of the tested set that are touched.
    total_videos: videos of the tested set.
    seen: what it shares them with: 'training' or 'validation'.
  """

  kind: str
  shared: tuple[str, ...]
  num_videos: int
  total_videos: int
  seen: str = 'training'

  @property
  def text(self) -> str:
    """One line that follows the name of the tested set."""
    nouns = {
      'files': 'files of the same bytes',
      'videos': 'videos or source videos',
      'identities': 'identities',
    }
    shown = ', '.join(self.shared[:_SHOWN]) + (', ...' if len(self.shared) > _SHOWN else '')
    return (
      f'shares {len(self.shared)} {nouns[self.kind]} with the {self.seen} set ({shown}), in'
      f' {self.num_videos} of its {self.total_videos} videos: {_MEANING[self.seen]}'
    )


def find_leaks(known: Manifest, test: Manifest, seen: str = 'training') -> list[Leak]:
  """Files, videos and identities that stand in both sets; empty if there are none.

  Files are compared by their SHA-256, where it is known. Videos are compared by `video_id` and
  `source_video_id`, each with each: the source of a training fake must not be a test video.
  Identities are those of the column, or those that the video's name speaks of where it is empty
  (`linking.identities`); they belong to their data set, or to the family of data sets that was made
  from the same videos: elsewhere the same name is another person.

  Args:
    known: what was learned from, or chosen with.
    test: what is measured on, or chosen with.
    seen: what `known` is called: 'training' or 'validation'.
  """
  found = []
  for kind, columns_of in (('files', _files), ('videos', _videos), ('identities', _identities)):
    keys_of_known = set(columns_of(known.table)['key'])
    keys = columns_of(test.table)
    shared = keys[keys['key'].isin(keys_of_known)]
    if len(shared):
      those = tuple(sorted(set(shared['shown'])))
      touched = shared['video_id'].nunique()
      total = test.table['video_id'].nunique()
      found.append(Leak(kind, those, touched, total, seen))
  return found


def _files(table: pd.DataFrame) -> pd.DataFrame:
  known = table[table['sha256'] != '']
  return _keys(known['sha256'], known['path'], known['video_id'])


def _videos(table: pd.DataFrame) -> pd.DataFrame:
  columns = [
    _keys(table[column], table[column], table['video_id'])
    for column in ('video_id', 'source_video_id')
  ]
  keys = pd.concat(columns).drop_duplicates()
  return keys[keys['key'] != '']


def _identities(table: pd.DataFrame) -> pd.DataFrame:
  videos = table[['dataset', 'identities', 'video_id']].drop_duplicates()
  videos = videos.assign(key=pd.Series(linking.identities(videos), videos.index, dtype=object))
  videos = videos.explode('key').dropna(subset='key').reset_index(drop=True)
  # Shown with the data set's own name, not the family's.
  shown = [
    f'{dataset}:{key.removeprefix(names.identity_scope(dataset) + ":")}'
    for dataset, key in zip(videos['dataset'], videos['key'], strict=True)
  ]
  return _keys(videos['key'], pd.Series(shown, dtype=object), videos['video_id'])


def _keys(key: pd.Series, shown: pd.Series, video_id: pd.Series) -> pd.DataFrame:
  return pd.DataFrame({'key': key, 'shown': shown, 'video_id': video_id})
