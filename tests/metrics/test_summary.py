"""Metrics of a score table: levels, thresholds carried over, groups, intervals, warnings."""

import dataclasses
import math

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from masm_jax.data import manifest as manifest_lib
from masm_jax.data import pipeline
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import calibration, scores, summary, uncertainty

SETTINGS = summary.Settings(
  thresholds={'frame': 0.4, 'video': 0.45},
  bands={'frame': (0.3, 0.6), 'video': (0.35, 0.55)},
  draws=50,
  unit='video',
)


def table(num_videos=40, frames=3, seed=0, levels=None):
  rng = np.random.default_rng(seed)
  video = np.repeat(np.arange(num_videos), frames)
  label = (np.arange(num_videos) % 3 > 0).astype(int)[video]
  logit = rng.normal(size=len(video)) + label + rng.normal(size=num_videos)[video]
  if levels:
    logit = np.round(logit * levels) / levels
  return pd.DataFrame(
    {
      'video_id': [f'v{i:03d}' for i in video],
      'path': [f'{i}.png' for i in range(len(video))],
      'label': label,
      'logit': logit,
      'score': 1 / (1 + np.exp(-logit)),
      'method': np.array(['real', 'DF', 'FS'])[video % 3],
      'dataset': 'd',
      'compression': np.array(['c23', 'c40'])[video % 2],
      'skin': np.array(['', 'a', 'b'])[video % 3 // (1 + video % 2)],
    }
  )


@pytest.mark.parametrize('levels', [None, 2], ids=['no ties', 'ties'])
def test_both_levels_agree_with_scikit_learn(levels):
  rows = table(levels=levels)
  measured, facts, warnings = summary.summarize(rows, SETTINGS)
  assert facts == {'unit': 'video', 'clusters': 40} and warnings == []
  videos = rows.groupby('video_id')[['label', 'score']].mean()
  for level, part, threshold in (('frame', rows, 0.4), ('video', videos, 0.45)):
    y, s = part['label'].to_numpy().astype(int), part['score'].to_numpy()
    found = {name: entry['value'] for name, entry in measured[level]['metrics'].items()}
    called = s >= threshold
    assert found['auroc'] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-9)
    assert found['ap'] == pytest.approx(sklearn_metrics.average_precision_score(y, s), abs=1e-9)
    assert found['brier'] == pytest.approx(sklearn_metrics.brier_score_loss(y, s), abs=1e-9)
    assert found['f1@threshold'] == pytest.approx(sklearn_metrics.f1_score(y, called), abs=1e-9)
    assert found['fpr@threshold'] == pytest.approx(called[y == 0].mean(), abs=1e-12)
    assert found['accuracy@0.5'] == pytest.approx(np.mean((s >= 0.5) == y), abs=1e-12)
    assert measured[level]['num'] == len(y) and measured[level]['num_fake'] == y.sum()
    assert measured[level]['reliability'] == calibration.reliability_bins(y, s)
    for name, entry in measured[level]['metrics'].items():
      assert entry['low'] <= entry['high'], name
    low, high = SETTINGS.bands[level]
    assert found['coverage'] == pytest.approx(np.mean((s < low) | (s >= high)), abs=1e-12)
    curve = measured[level]['risk_coverage']
    assert curve[-1] == {'coverage': 1.0, 'risk': pytest.approx(np.mean(called != y), abs=1e-12)}
    auroc = measured[level]['metrics']['auroc']
    assert auroc['low'] < auroc['value'] < auroc['high']


def test_intervals_are_those_of_the_clustered_bootstrap():
  rows = table()
  measured, _, _ = summary.summarize(rows, SETTINGS)
  draws = uncertainty.bootstrap(
    rows['label'], rows['score'], rows['video_id'].str[1:].astype(int), num_draws=50
  )
  low, high = np.quantile(draws['eer'], [0.025, 0.975])
  found = measured['frame']['metrics']['eer']
  assert (found['low'], found['high']) == pytest.approx((low, high), abs=1e-12)


def test_groups():
  rows = table()
  measured, _, _ = summary.summarize(
    rows, dataclasses.replace(SETTINGS, groups=('method', 'compression', 'skin', 'dataset'))
  )
  assert {column: list(values) for column, values in measured['groups'].items()} == {
    'method': ['DF', 'FS'],
    'compression': ['c23', 'c40'],
    'skin': ['(empty)', 'a', 'b'],
  }  # A column of one value has no groups.
  df = measured['groups']['method']['DF']['frame']
  real_and_df = rows[rows['method'].isin(['real', 'DF'])]
  assert df['metrics']['auroc']['value'] == pytest.approx(
    sklearn_metrics.roc_auc_score(real_and_df['label'], real_and_df['score']), abs=1e-12
  )
  skin = rows[rows['skin'] == 'b']
  group = measured['groups']['skin']['b']['frame']
  assert group['num'] == len(skin)
  tpr = np.mean(skin['score'][skin['label'] == 1] >= 0.4)
  assert group['metrics']['tpr@threshold']['value'] == pytest.approx(tpr, abs=1e-12)
  assert 'reliability' not in group


def test_groups_that_cannot_be_are_said():
  _, _, warnings = summary.summarize(
    table(), dataclasses.replace(SETTINGS, groups=('path', 'age'), max_groups=9), name='s'
  )
  assert [warning['text'] for warning in warnings] == [
    "s: column 'path' has 120 values: no metrics by group",
    "s: there is no column 'age' for metrics by group",
  ]


@pytest.mark.parametrize('label', [0, 1])
def test_one_class(label):
  rows = table()
  measured, _, warnings = summary.summarize(rows[rows['label'] == label], SETTINGS, name='s')
  for level in scores.LEVELS:
    found = measured[level]['metrics']
    for name in ('auroc', 'ap', 'eer', 'tpr@fpr=0.01', 'f1@0.5', 'balanced_accuracy@0.5'):
      assert all(math.isnan(value) for value in found[name].values()), name
    assert not any(math.isnan(value) for value in found['brier'].values())
  assert [warning['kind'] for warning in warnings] == ['one_class']
  assert f's: no {"fake" if label == 0 else "real"} face' in warnings[0]['text']


def test_an_empty_set():
  measured, facts, (warning,) = summary.summarize(table()[:0], SETTINGS, name='s')
  assert facts['clusters'] == 0 and measured['groups'] == {}
  for level in scores.LEVELS:
    assert measured[level]['num'] == 0 and measured[level]['reliability'] == []
    for entry in measured[level]['metrics'].values():
      assert all(math.isnan(value) for value in entry.values())
  assert warning == {
    'set': 's', 'kind': 'empty', 'text': 's: no frame was scored; every metric is nan'
  }  # fmt: skip


def test_one_video_has_no_interval():
  measured, _, warnings = summary.summarize(table(num_videos=1), SETTINGS)
  brier = measured['frame']['metrics']['brier']
  assert brier['value'] > 0 and math.isnan(brier['low']) and math.isnan(brier['high'])
  assert [warning['kind'] for warning in warnings] == ['one_class', 'few_clusters']


def test_temperature_changes_probabilities_and_no_ranking():
  rows = table()
  settings = dataclasses.replace(SETTINGS, temperature=2.0)
  measured, _, _ = summary.summarize(rows, settings)
  frame = measured['frame']['calibrated']
  expected = metrics.binary_metrics(rows['label'], 1 / (1 + np.exp(-rows['logit'] / 2)))
  assert list(frame['metrics']) == ['log_loss', 'brier', 'ece']
  for name, entry in frame['metrics'].items():
    assert entry['value'] == pytest.approx(expected[name], abs=1e-12)
    assert entry['low'] < entry['value'] < entry['high']
  plain, _, _ = summary.summarize(rows, SETTINGS)
  assert plain['frame']['metrics'] == measured['frame']['metrics']


def test_scores_of_uneven_hosts_with_padding_are_those_of_one(tmp_path):
  """Three hosts, 11 records, one broken: gathered, padding dropped, each example once."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(11):
    cv2.imwrite(str(tmp_path / f'{i:02d}.png'), rng.integers(0, 255, (8, 8, 3), np.uint8))
    rows.append({'path': f'{i:02d}.png', 'label': i % 2, 'dataset': 'd', 'split': 'test',
                 'video_id': f'v{i}'})  # fmt: skip
  manifest = manifest_lib.build_manifest(rows, tmp_path)
  (tmp_path / '04.png').write_text('no image')
  probabilities = rng.integers(0, 4, 11) / 4  # Ties.
  gathered = [
    batch['record'][batch['mask']]
    for process in range(3)
    for batch in pipeline.eval_batches(
      manifest, batch_size=6, image_size=8, process_index=process, process_count=3
    )
  ]
  records = np.concatenate(gathered)
  assert len({len(part) for part in gathered}) > 1  # Uneven indeed.
  found = scores.score_table(
    manifest.table, records, probabilities[records], np.zeros(len(records))
  )
  measured, _, _ = summary.summarize(found, SETTINGS)
  kept = np.delete(np.arange(11), 4)
  expected = metrics.binary_metrics(
    kept % 2, probabilities[kept], threshold=0.4, band=SETTINGS.bands['frame']
  )
  for name, entry in measured['frame']['metrics'].items():
    np.testing.assert_allclose(entry['value'], expected[name], rtol=0, atol=1e-9)


def test_unlabelled_rows_have_no_part_in_any_metric():
  rows = table()
  others = table(seed=1).assign(label=-1, method='unlabelled')
  others['video_id'] = 'x' + others['video_id']
  mixed = pd.concat([others, rows], ignore_index=True)
  measured, facts, warnings = summary.summarize(mixed, SETTINGS, name='both')
  alone = summary.summarize(rows, SETTINGS, name='both')
  assert (measured, facts) == alone[:2]
  told = {'set': 'both', 'kind': 'unlabelled'}
  text = 'both: 120 of 240 frames have no label: scores, but no metrics'
  text += ' (the scores: scores/both.parquet)'
  assert warnings == [told | {'text': text}]
  assert scores.summarize(mixed) == scores.summarize(rows)
  measured, _, warnings = summary.summarize(others, SETTINGS, name='new')
  assert [warning['kind'] for warning in warnings] == ['unlabelled']
  assert measured['video']['num'] == 0
  assert math.isnan(measured['video']['metrics']['auroc']['value'])
