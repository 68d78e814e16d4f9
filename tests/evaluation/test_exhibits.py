"""The sample of features and the thumbnails of the worst mistakes."""

import cv2
import numpy as np
import pandas as pd
import pytest

from masm_jax.data import manifest as manifest_lib
from masm_jax.evaluation import exhibits
from masm_jax.metrics import scores


@pytest.fixture(scope='module')
def manifest(tmp_path_factory):
  root = tmp_path_factory.mktemp('crops')
  rows = []
  for i in range(12):
    cv2.imwrite(str(root / f'{i:02d}.png'), np.full((320, 200, 3), 20 * i, np.uint8))
    rows.append(
      {'path': f'{i:02d}.png', 'label': int(i >= 4), 'dataset': 'd', 'split': 'test',
       'method': 'real' if i < 4 else 'DF', 'video_id': f'v{i // 2}', 'frame': i}
    )  # fmt: skip
  return manifest_lib.build_manifest(rows, root)


def test_the_sample_is_even_over_methods(manifest):
  methods = manifest.table['method']
  assert exhibits.sample_rows(manifest, 99).tolist() == list(range(12))
  six = exhibits.sample_rows(manifest, 6)
  assert methods.iloc[six].value_counts().to_dict() == {'real': 3, 'DF': 3}
  ten = exhibits.sample_rows(manifest, 10)
  assert methods.iloc[ten].value_counts().to_dict() == {'real': 4, 'DF': 6}
  assert np.all(np.diff(ten) > 0)


def test_features_come_back_from_the_file_on_the_sampled_rows_alone(manifest, tmp_path):
  table = scores.score_table(manifest.table, np.arange(12), np.full(12, 0.5), np.zeros(12))
  features = np.arange(6, dtype=np.float32).reshape(2, 3)
  with_features = exhibits.with_features(table, np.array(['03.png', '05.png'], object), features)
  scores.write_scores(tmp_path / 's.parquet', with_features)
  column = scores.read_scores(tmp_path / 's.parquet')['feature']
  assert [i for i, value in enumerate(column) if value is not None] == [3, 5]
  np.testing.assert_array_equal(column[5], features[1])
  assert column[5].dtype == np.float32


def test_worst_mistakes_are_one_per_video_worst_first():
  table = pd.DataFrame(
    [('a', '0', 0, 0.7), ('a', '1', 0, 0.9), ('b', '2', 0, 0.8), ('c', '3', 0, 0.2),
     ('d', '4', 1, 0.1), ('d', '5', 1, 0.0), ('e', '6', 1, 0.6), ('f', '7', 1, 0.3)],
    columns=['video_id', 'path', 'label', 'score'],
  )  # fmt: skip
  at = lambda threshold: {'frame': threshold, 'video': threshold}
  assert exhibits.worst_mistakes(table, at(0.5), 9).tolist() == [1, 2, 5, 7]
  assert exhibits.worst_mistakes(table, at(0.5), 1).tolist() == [1, 5]
  assert exhibits.worst_mistakes(table, at(0.05), 9).tolist() == [1, 2, 3, 5]
  for nothing in (at(float('nan')), {}, {'frame': 0.5}):
    assert len(exhibits.worst_mistakes(table, nothing, 9)) == 0


def test_videos_called_wrong_come_before_frames_of_videos_called_right():
  table = pd.DataFrame(
    [('a', '0', 0, 0.95), ('a', '1', 0, 0.1), ('a', '2', 0, 0.1), ('b', '3', 0, 0.7),
     ('c', '4', 1, 0.01), ('c', '5', 1, 0.9), ('c', '6', 1, 0.9), ('d', '7', 1, 0.3)],
    columns=['video_id', 'path', 'label', 'score'],
  )  # fmt: skip
  at = {'frame': 0.5, 'video': 0.5}
  assert exhibits.worst_mistakes(table, at, 9).tolist() == [3, 0, 7, 4]
  assert exhibits.worst_mistakes(table, at, 1).tolist() == [3, 7]
  assert exhibits.worst_mistakes(table, at, 1, 'max').tolist() == [0, 7]
  # A frame on the right side of its own threshold, of a video on the wrong side of the videos'.
  assert exhibits.worst_mistakes(table, {'frame': 0.8, 'video': 0.5}, 9).tolist() == [3, 0, 7, 4]


def test_thumbnails_are_small_jpegs_of_the_mistakes(manifest):
  probabilities = np.where(np.arange(12) == 1, 0.9, np.where(np.arange(12) < 4, 0.1, 0.8))
  table = scores.score_table(manifest.table, np.arange(12), probabilities, np.zeros(12))
  column = exhibits.with_thumbnails(table, manifest, {'frame': 0.5, 'video': 0.5}, 3)['thumbnail']
  assert [i for i, value in enumerate(column) if value is not None] == [1]
  image = cv2.imdecode(np.frombuffer(column[1], np.uint8), cv2.IMREAD_COLOR)
  assert image.shape == (160, 100, 3) and abs(int(image.mean()) - 20) <= 2
