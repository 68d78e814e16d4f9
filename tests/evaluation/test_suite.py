"""A suite over made-up scores: what is taken over, warned of, and joined into curves."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from configs import common
from masm_jax import files
from masm_jax.data.manifest import Manifest
from masm_jax.evaluation import curves, results, suite
from masm_jax.metrics import metric_tables, scores


class Evaluator:
  """Scores by label, and counts how often it was asked; a copy's level makes fakes less visible."""

  batch_size, image_size = 4, 8

  def __init__(self):
    self.asked = []

  def scores(self, params, manifest, *, perturb=None, on_progress=None):
    del perturb
    for done in range(1, -(-len(manifest) // self.batch_size) + 1):
      on_progress(done)
    self.asked.append(manifest.sha256)
    labels = manifest.table['label'].to_numpy()
    logits = np.random.default_rng(len(labels)).normal(params * labels, 1.0)
    record = np.arange(len(labels))
    return scores.score_table(manifest.table, record, 1 / (1 + np.exp(-logits)), logits)


def make_manifest(name, *, videos=range(12), labels=None, sha256='x', root=None):
  labels = labels or [video % 2 for video in videos]
  table = pd.DataFrame(
    {
      'video_id': [f'd/{video:02d}' for video in videos],
      'path': [f'{name}/{video:02d}.png' for video in videos],
      'frame': 0,
      'label': labels,
      'method': ['DF' if label else 'real' for label in labels],
      'dataset': 'd',
      'split': 'test',
      'compression': '',
      'source_video_id': '',
      'identities': '',
      'sha256': [sha256 and f'{sha256}{name}{video}' for video in videos],
    }
  )
  return Manifest(table, root, f'hash of {name} {list(videos)}')


VAL = make_manifest('val', videos=range(50, 70))
TRAIN = make_manifest('train', videos=range(80, 90))


def make_run(folder, *, identity='one', evaluator=None, **fields):
  config = common.get_suite()
  config.update_from_flattened_dict(
    {'bootstrap.draws': 20, 'features_per_set': 0, 'mistakes_per_set': 0, **fields}
  )
  evaluator = evaluator or Evaluator()
  return suite.SuiteRun(evaluator, 1.0, config, folder, {'weights': identity}, True)


def kinds(found):
  return [(warning['set'], warning['kind']) for warning in found['warnings']]


def test_scores_of_other_weights_rows_or_folders_are_made_again(tmp_path):
  evaluator = Evaluator()
  first = make_manifest('a', sha256='', root='one')

  def asked(manifest, identity='one'):
    evaluator.asked.clear()
    make_run(tmp_path, identity=identity, evaluator=evaluator).score('a', manifest)
    return len(evaluator.asked)

  assert asked(first) == 1
  assert asked(first) == 0
  assert asked(make_manifest('a', videos=range(11), sha256='', root='one')) == 1
  assert asked(first) == 1
  assert asked(first, identity='another') == 1
  # The same names elsewhere may be other images, where their content is not known.
  assert asked(make_manifest('a', sha256='', root='two'), identity='another') == 1
  assert asked(make_manifest('a', root='three')) == 1
  assert asked(make_manifest('a', root='four')) == 0


@pytest.mark.parametrize('is_lead', [True, False])
def test_the_watchdog_hears_of_every_batch_and_nothing_of_the_metrics(
  tmp_path, monkeypatch, is_lead
):
  heard = []

  class Watchdog:
    def beat(self):
      heard.append('batch')

    def stop(self):
      heard.append('stop')

  summarize = suite.summary.summarize
  monkeypatch.setattr(
    suite.summary, 'summarize', lambda *a, **k: heard.append('metrics') or summarize(*a, **k)
  )
  run = dataclasses.replace(make_run(tmp_path), watchdog=Watchdog(), is_lead=is_lead)
  made = run.run(VAL, TRAIN, {'a': make_manifest('a')})
  # 20 and 12 videos in batches of 4.
  assert heard == ['batch'] * (5 + 3) + ['stop'] + ['metrics'] * 2 * is_lead
  assert (made is None) == (not is_lead)


def test_a_table_in_the_place_of_another_is_scored_again(tmp_path):
  sets = {'a': make_manifest('a')}
  expected = make_run(tmp_path / 'one').run(VAL, TRAIN, sets)
  make_run(tmp_path / 'two', identity='two').run(VAL, TRAIN, sets)
  table = results.scores_path(tmp_path / 'one', results.VAL)
  sound = table.read_bytes()
  for other in (
    results.scores_path(tmp_path / 'one', 'a'), results.scores_path(tmp_path / 'two', results.VAL)
  ):  # fmt: skip
    table.write_bytes(other.read_bytes())
    evaluator = Evaluator()
    assert make_run(tmp_path / 'one', evaluator=evaluator).run(VAL, TRAIN, sets) == expected
    assert evaluator.asked == [VAL.sha256] and table.read_bytes() == sound


def test_a_kill_between_table_and_note_leaves_no_note_of_another_table(tmp_path, monkeypatch):
  make_run(tmp_path, identity='one').score('a', make_manifest('a'))

  def killed(path, value):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(files, 'write_sealed', killed)
    with pytest.raises(KeyboardInterrupt):
      make_run(tmp_path, identity='another').score('a', make_manifest('a'))
  evaluator = Evaluator()
  make_run(tmp_path, identity='one', evaluator=evaluator).score('a', make_manifest('a'))
  assert len(evaluator.asked) == 1


def test_leaks_from_the_validation_set_are_found(tmp_path):
  tests = {
    'clean': make_manifest('clean'),
    'chosen_with': make_manifest('b', videos=range(60, 75)),
    'learned': make_manifest('c', videos=range(84, 100)),
  }
  for train in (TRAIN, None):
    found = make_run(tmp_path / str(train is None)).run(VAL, train, tests)
    leaked = [(name, kind) for name, kind in kinds(found) if kind in results.LEAKS]
    assert leaked == [('chosen_with', 'leak_videos')] + [('learned', 'leak_videos')] * bool(train)
    text = next(w['text'] for w in found['warnings'] if w['set'] == 'chosen_with')
    assert text == (
      'chosen_with shares 10 videos or source videos with the validation set (d/60, d/61, d/62,'
      ' ...), in 10 of its 15 videos: faces that it is measured on chose the checkpoint and the'
      ' threshold'
    )
    assert (('', 'leak_unchecked') in kinds(found)) == (train is None)


def test_a_validation_set_of_one_class_gives_neither_threshold_nor_temperature(tmp_path):
  val = make_manifest('val', videos=range(50, 62), labels=[1] * 12)
  found = make_run(tmp_path, temperature=True).run(val, TRAIN, {'a': make_manifest('a')})
  assert found['protocol']['temperature'] is None
  assert np.isnan(found['protocol']['threshold']['frame'])
  assert 'calibrated' not in found['sets']['a']['frame']
  (text,) = [w['text'] for w in found['warnings'] if 'threshold' in w['text']]
  assert text.endswith('there is no threshold to carry over, nor a temperature')
  fitted = make_run(tmp_path / 'b', temperature=True).run(VAL, TRAIN, {'a': make_manifest('a')})
  temperature = fitted['protocol']['temperature']['frame']
  assert temperature > 0 and temperature != 1
  lines = metric_tables.format_calibration(fitted['sets'], ['brier']).splitlines()
  of = fitted['sets']['a']['video']
  values = [part['metrics']['brier']['value'] for part in (of, of['calibrated'])]
  assert lines[4].split() == ['a', 'video', f'{values[0]:.3f}', '->', f'{values[1]:.3f}']


def test_copies_of_whole_videos_become_a_curve(tmp_path):
  folder = tmp_path / 'out'
  run = make_run(folder, **{'robustness.perturbations': ('CC', 'VC'), 'robustness.levels': (1, 4)})
  tests = {'a': make_manifest('a')}
  points = curves.points(run.suite.robustness, tests)
  copies = {
    point: make_manifest(f'VC{point.level}', videos=range(1, 13) if point.level == 4 else range(12))
    for point in points
    if point.copy
  }
  found = run.run(VAL, TRAIN, tests, points, copies)
  curve = found['robustness']['a']
  assert list(curve) == ['CC', 'VC'] and 'manifest' not in curve['CC'][0]
  shown = ('level', 'parameter', 'file', 'manifest', 'manifest_sha256')
  assert [tuple(point[key] for key in shown) for point in curve['VC']] == [
    (level, crf, f'robustness/a/VC_{level}.parquet', f'data/a_VC{level}/manifest.parquet', sha256)
    for level, crf, sha256 in (
      (1, 30, f'hash of VC1 {list(range(12))}'),
      (4, 38, f'hash of VC4 {list(range(1, 13))}'),
    )
  ]
  for point in curve['VC']:
    table = scores.read_scores(folder / point['file'])
    assert table['path'].iloc[0].startswith(f'VC{point["level"]}/')
    assert point['frame']['num'] == len(table) == 12
    assert np.isfinite(point['video']['metrics']['auroc']['low'])
  (warning,) = [w for w in found['warnings'] if w['kind'] == 'other_videos']
  assert warning['text'] == (
    'a: its curve of VC is not over the same videos at each level: of the 12 unperturbed ones,'
    ' level 4 has 11 and 1 others'
  )


def test_warnings_stand_by_urgency():
  mixed = ['unit', 'leak_unchecked', 'manifest_changed', 'leak_files', 'leak_videos']
  assert sorted(mixed, key=results.urgency) == [
    *('leak_files', 'leak_videos', 'leak_unchecked', 'unit', 'manifest_changed'),
  ]  # fmt: skip
