"""Videos that share people are drawn together, unless that leaves nothing to draw."""

import numpy as np
import pandas as pd
import pytest

from masm_jax.errors import UserError
from masm_jax.metrics import clusters


def table(identities, datasets=None, frames=2):
  videos = pd.DataFrame(
    {
      'video_id': [f'v{i:02d}' for i in range(len(identities))],
      'dataset': datasets or ['d'] * len(identities),
      'identities': identities,
    }
  )
  return videos.loc[np.repeat(videos.index, frames)].reset_index(drop=True)


def test_identities_join_videos_through_others():
  rows = table(['a', 'b', 'a;c', 'c;d', 'e', ''])
  found = clusters.make_clusters(rows, 'identity')
  assert found.unit == 'identity' and found.num == 4
  assert found.of(rows).tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 3, 3]
  part = rows[rows['video_id'] >= 'v04']
  index, num = found.within(part)
  assert index.tolist() == [0, 0, 1, 1] and num == 2


@pytest.mark.parametrize('nobody', [';', ' ; ', ';;'])
def test_separators_alone_name_nobody(nobody):
  found = clusters.make_clusters(table([nobody] * 30))
  assert found.unit == 'video' and not found.note
  assert 'only 20 of the 30 videos' in clusters.make_clusters(table([nobody, 'a', 'b'] * 10)).note
  with pytest.raises(UserError, match='no row has identities'):
    clusters.make_clusters(table([nobody] * 30), 'identity')
  assert clusters.make_clusters(table(['a; b', 'b;']), 'identity').num == 1


def test_the_same_name_in_two_data_sets_is_two_people():
  rows = table(['a', 'a'], ['one', 'two'])
  assert clusters.make_clusters(rows, 'identity').num == 2


def test_order_of_rows_leaves_no_trace():
  rows = table([f'{i % 12}' for i in range(30)])
  shuffled = rows.sample(frac=1, random_state=0)
  one, two = (clusters.make_clusters(part) for part in (rows, shuffled))
  pd.testing.assert_series_equal(one.of_video, two.of_video)


def test_auto_takes_identities_where_enough_remain_apart():
  pairs = table([f'{i // 2}' for i in range(24)])
  assert clusters.make_clusters(pairs).unit == 'identity'
  assert clusters.make_clusters(pairs).num == 12
  chain = table([f'{i};{i + 1}' for i in range(24)])
  found = clusters.make_clusters(chain)
  assert (found.unit, found.num) == ('video', 24)
  assert 'few independent groups among the 24 videos: 1, the largest of 24 videos;' in found.note
  unknown = clusters.make_clusters(table(['a', ''] * 12))
  assert unknown.unit == 'video'
  assert unknown.note.startswith('only 12 of the 24 videos have identities: intervals go by video')
  silent = clusters.make_clusters(table([''] * 24))
  assert (silent.unit, silent.note) == ('video', '')
  assert clusters.make_clusters(pairs.drop(columns='identities')).unit == 'video'


def test_wrong_units_are_refused():
  with pytest.raises(UserError, match='use one of auto, video, identity'):
    clusters.make_clusters(table(['a']), 'frame')
  with pytest.raises(UserError, match='no row has identities'):
    clusters.make_clusters(table(['', '']), 'identity')


def test_data_sets_of_one_family_share_their_people():
  rows = table(['003', '003', '003'], ['ff++', 'faceshifter', 'celebdf'])
  assert clusters.make_clusters(rows, 'identity').num == 2
