"""Score files do not depend on the order of evaluation; printed tables are exact."""

import decimal
import math
import os

import numpy as np
import pandas as pd
import pytest

from masm_jax.errors import UserError
from masm_jax.metrics import scores

MANIFEST = pd.DataFrame(
  {
    'path': [f'{video}/{frame}.png' for video in 'abc' for frame in range(2)],
    'label': np.array([0, 0, 1, 1, 1, 1], np.int64),
    'dataset': 'toy',
    'split': 'test',
    'method': ['real', 'real', 'DF', 'DF', 'FS', 'FS'],
    'video_id': [f'toy/{video}' for video in 'aabbcc'],
    'frame': [0, 1] * 3,
    'identities': ['1', '1', '2', '2', '1;2', '1;2'],
  }
)
LOGITS = np.array([[2, -2], [0, 1], [0, 3], [1, 0], [0, 0.5], [0, 4]], np.float32)
PROBS = 1 / (1 + np.exp(LOGITS[:, 0].astype(np.float64) - LOGITS[:, 1]))


def table_of(records, probs, logits):
  return scores.score_table(MANIFEST, records, probs, logits)


def test_file_does_not_depend_on_order_and_reads_back_exactly(tmp_path):
  order = np.array([3, 0, 5, 1, 4, 2])
  first, second = tmp_path / 'deep' / os.fsdecode(b'a\xff.parquet'), tmp_path / 'b.parquet'
  scores.write_scores(first, table_of(np.arange(6), PROBS, LOGITS))
  scores.write_scores(second, table_of(order, PROBS[order], LOGITS[order]))
  assert first.read_bytes() == second.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['b.parquet', 'deep']

  table = scores.read_scores(first)
  assert tuple(table.columns) == (*scores.COLUMNS, 'identities')
  assert table['path'].tolist() == MANIFEST['path'].tolist()
  np.testing.assert_array_equal(table['score'], PROBS)
  np.testing.assert_array_equal(table['logit'], LOGITS[:, 1] - LOGITS[:, 0])
  assert table['score'].dtype == np.float64


def test_a_record_without_a_score_has_no_row_and_is_counted(tmp_path, caplog):
  caplog.set_level('WARNING', logger='absl')
  table = table_of([4, 0], PROBS[[4, 0]], [0.5, -4.0])
  assert table['path'].tolist() == ['a/0.png', 'c/0.png']
  assert table['logit'].tolist() == [-4.0, 0.5]
  assert '4 of 6 records have no score' in caplog.text


@pytest.mark.parametrize(
  ('records', 'probs', 'message'),
  [
    ([0, 0], [0.1, 0.2], 'scored twice'),
    ([0, 6], [0.1, 0.2], 'outside the manifest of 6 rows'),
    ([-1, 0], [0.1, 0.2], 'outside the manifest'),
    ([0, 1], [0.1], 'do not fit'),
    ([0.0, 1.0], [0.1, 0.2], 'not integers'),
  ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, records, probs, message):
  with pytest.raises(ValueError, match=message):
    table_of(records, probs, [0.0, 0.0])


def test_a_diverged_model_is_named(tmp_path):
  with pytest.raises(UserError, match=r'1 of 2 scores are not finite, the first is of a/1\.png'):
    table_of([0, 1], [0.1, math.nan], [0.0, math.nan])


@pytest.mark.parametrize('name', ['score', 'logit', 'feature', 'thumbnail'])
def test_a_manifest_column_is_never_overwritten(name):
  with pytest.raises(UserError, match=f'has a column {name!r}'):
    scores.score_table(MANIFEST.assign(**{name: 0.0}), [0], [0.1], [0.0])


def test_unusable_files_are_one_line(tmp_path):
  with pytest.raises(UserError, match='no score file'):
    scores.read_scores(tmp_path / 'none.parquet')
  text = tmp_path / 'text.parquet'
  text.write_text('hello')
  with pytest.raises(UserError, match='not a Parquet file') as caught:
    scores.read_scores(text)
  assert '\n' not in str(caught.value)
  MANIFEST.to_parquet(text)
  with pytest.raises(UserError, match='lacks the columns score, logit'):
    scores.read_scores(text)
  with pytest.raises(UserError, match='cannot write the scores'):
    scores.write_scores(text / 'below' / 'x', table_of([0], [0.1], [0.0]))


def test_a_table_of_something_else_is_refused(tmp_path):
  path = tmp_path / 'val.parquet'
  scores.write_scores(path, table_of([0], [0.1], [0.0]), of={'set': 'known', 'step': '3'})
  scores.read_scores(path, of={'set': 'known', 'scores': 'not noted'})
  with pytest.raises(UserError, match=r"another set .'known', not 'val'.: put the right file back"):
    scores.read_scores(path, of={'set': 'val'})
  scores.write_scores(path, table_of([0], [0.1], [0.0]))  # As earlier versions did.
  scores.read_scores(path, of={'set': 'val'})


@pytest.mark.parametrize(
  ('column', 'kind'),
  [('score', 'text'), ('score', 'decimal'), ('logit', 'text'), ('frame', 'text')],
)
def test_numbers_of_another_type_are_damaged(column, kind, tmp_path):
  table = table_of([0, 1], [0.5, 0.25], [0.0, 1.0])
  texts = [str(value) for value in table[column]]
  table[column] = texts if kind == 'text' else [decimal.Decimal(text) for text in texts]
  table.to_parquet(tmp_path / 'a.parquet')
  with pytest.raises(UserError, match=f'column {column} holds other values than scores do'):
    scores.read_scores(tmp_path / 'a.parquet')


def test_summary_at_both_levels(tmp_path):
  table = table_of(np.arange(6), PROBS, LOGITS)
  summary = scores.summarize(table, thresholds={'video': 0.6})
  # Frames: log-odds of the reals -4, 1; of the fakes 3, -1, 0.5, 4: six of eight pairs are right.
  assert summary['frame']['auroc'] == pytest.approx(6 / 8, abs=1e-12)
  assert (summary['frame']['num'], summary['video']['num']) == (6, 3)
  # Videos: a = .375 real; b = .611, c = .802 fake.
  assert summary['video']['auroc'] == 1.0
  assert summary['video']['accuracy@threshold'] == 1.0
  assert 'threshold' not in summary['frame']
  medians = scores.summarize(table.assign(score=[0.5] * 4 + [0.1, 0.7]), reduce='max')
  assert medians['video']['auroc'] == 0.75


def test_one_class_at_video_level_is_named(tmp_path, caplog):
  caplog.set_level('WARNING', logger='absl')
  table = table_of([0, 1], PROBS[:2], LOGITS[:2])
  summary = scores.summarize(table, name='toy')
  assert math.isnan(summary['frame']['auroc']) and math.isnan(summary['video']['ap'])
  assert 'toy (videos): only real examples (1 real, 0 fake)' in caplog.text


def test_an_empty_table_is_read_back(tmp_path):
  empty = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in EMPTY.items()})
  scores.write_scores(tmp_path / 'e.parquet', empty)
  assert scores.read_scores(tmp_path / 'e.parquet').shape == (0, len(scores.COLUMNS))


EMPTY = {name: 'str' for name in scores.COLUMNS} | {
  'frame': 'int64', 'label': 'int64', 'score': 'float64', 'logit': 'float64'
}  # fmt: skip


@pytest.mark.parametrize('odd', [[0.5], [[0.5], [0.5]], 0.5, 'abc'])
def test_features_are_numbers_in_lists_of_one_length(tmp_path, odd):
  table = table_of(np.arange(6), PROBS, LOGITS)
  sound = np.array([0.5, np.nan], np.float32)
  scores.write_scores(tmp_path / 'a.parquet', table.assign(feature=[sound, None, sound] * 2))
  assert len(scores.read_scores(tmp_path / 'a.parquet')) == 6
  features = [sound.tolist(), odd] * 3 if odd == [0.5] else [odd] * 6
  table.assign(feature=features).to_parquet(tmp_path / 'b.parquet')
  with pytest.raises(UserError, match='column feature holds other values than scores do'):
    scores.read_scores(tmp_path / 'b.parquet')
