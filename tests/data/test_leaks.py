"""What a test set shares with the training set is found, and nothing else."""

import pandas as pd
import pytest

from masm_jax.data import leaks
from masm_jax.data.manifest import Manifest


def manifest(*rows):
  """Rows of (video_id, source_video_id, identities, sha256, dataset)."""
  columns = ['video_id', 'source_video_id', 'identities', 'sha256', 'dataset']
  table = pd.DataFrame(list(rows), columns=columns)
  return Manifest(table.assign(path=[f'{i}.png' for i in range(len(rows))]), None, '')


TRAIN = manifest(
  ('ff/real/000', 'ff/real/000', '000', 'aa', 'ff'),
  ('ff/DF/001_003', 'ff/real/001', '001;003', 'bb', 'ff'),
  ('ff/real/004', 'ff/real/004', '', '', 'ff'),
)


def test_nothing_shared_is_no_leak():
  test = manifest(
    ('ff/real/010', 'ff/real/010', '010', 'cc', 'ff'),
    ('celeb/real/0', '', '000', '', 'celeb'),  # Another person of that name; bytes unknown.
  )
  assert leaks.find_leaks(TRAIN, test) == []


@pytest.mark.parametrize(
  ('row', 'kind', 'shared'),
  [
    (('x', '', '', 'bb', 'x'), 'files', ('1.png',)),
    (('ff/real/004', '', '', '', 'ff'), 'videos', ('ff/real/004',)),
    # The source of a fake that was trained on, now as a real test video.
    (('ff/real/001', 'ff/real/001', '', '', 'ff'), 'videos', ('ff/real/001',)),
    # A fake made from a real video that was trained on.
    (('ff/FS/000_009', 'ff/real/000', '', '', 'ff'), 'videos', ('ff/real/000',)),
    (('ff/NT/009_003', 'ff/real/009', '009;003', '', 'ff'), 'identities', ('ff:003',)),
  ],
)
def test_each_kind_is_found(row, kind, shared):
  clean = ('ff/real/010', 'ff/real/010', '010', 'cc', 'ff')
  (leak,) = leaks.find_leaks(TRAIN, manifest(clean, row))
  assert (leak.kind, leak.shared, leak.num_videos, leak.total_videos) == (kind, shared, 1, 2)
  assert f'({shared[0]}), in 1 of its 2 videos' in leak.text


def test_what_chose_the_checkpoint_is_called_validation():
  (leak,) = leaks.find_leaks(TRAIN, manifest(('ff/real/004', '', '', '', 'ff')), 'validation')
  assert 'with the validation set (ff/real/004), in 1 of its 1 videos: faces that' in leak.text


def test_the_line_shows_a_few_and_counts_all():
  rows = [(f'ff/{i}', '', '', '', 'ff') for i in range(9)]
  (leak,) = leaks.find_leaks(manifest(*rows), manifest(*rows))
  assert leak.text.startswith(
    'shares 9 videos or source videos with the training set (ff/0, ff/1, ff/2, ...), in 9 of its 9'
  )
