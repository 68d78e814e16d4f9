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
    ('mine/fake/000_003', 'mine/real/000', '', '', 'mine'),  # Others again, by the video's name.
    ('ff/real/clip', '', '', '', 'ff'),  # Nobody is known.
    ('ff/real/000x', '', '011', '', 'ff'),
    ('ff/FS/000_001', '', '012', '', 'ff'),  # The column counts, not the name.
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
  found = leaks.find_leaks(TRAIN, manifest(clean, row))
  (leak,) = (leak for leak in found if leak.kind == kind)
  assert (leak.kind, leak.shared, leak.num_videos, leak.total_videos) == (kind, shared, 1, 2)
  assert f'({shared[0]}), in 1 of its 2 videos' in leak.text


def test_people_are_known_by_the_names_of_videos_where_the_column_is_empty():
  def of(dataset, *videos):
    return manifest(*((f'{dataset}/{video}', '', '', '', dataset) for video in videos))

  train, test = of('x', 'real/000', 'fake/DF/802_885'), of('x', 'real/802', 'fake/DF/000_003')
  (leak,) = leaks.find_leaks(train, test)
  assert (leak.kind, leak.shared, leak.num_videos) == ('identities', ('x:000', 'x:802'), 2)
  assert leaks.find_leaks(train, of('y', 'real/802', 'fake/DF/000_003')) == []
  # One family, whatever its sets are called; a name beside a filled column too.
  (leak,) = leaks.find_leaks(of('ffpp_c23', 'real/000'), of('dfo', 'fake/000_M101'))
  assert leak.shared == ('dfo:000',)
  (leak,) = leaks.find_leaks(TRAIN, of('ffpp_c40', 'real/003'))
  assert leak.shared == ('ffpp_c40:003',)
  # Numbers that only count videos are nobody.
  assert leaks.find_leaks(of('x', 'a/00012'), of('x', 'b/00012')) == []


def test_what_chose_the_checkpoint_is_called_validation():
  leak, _ = leaks.find_leaks(TRAIN, manifest(('ff/real/004', '', '', '', 'ff')), 'validation')
  assert 'with the validation set (ff/real/004), in 1 of its 1 videos: faces that' in leak.text


def test_the_line_shows_a_few_and_counts_all():
  rows = [(f'ff/{i}', '', '', '', 'ff') for i in range(9)]
  (leak,) = leaks.find_leaks(manifest(*rows), manifest(*rows))
  assert leak.text.startswith(
    'shares 9 videos or source videos with the training set (ff/0, ff/1, ff/2, ...), in 9 of its 9'
  )
