"""Comparisons against differences written out; tables exactly; refusals in one line."""

import csv
import io
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from masm_jax import compare as command
from masm_jax import telemetry
from masm_jax.errors import UserError
from masm_jax.evaluation import comparison as compare
from masm_jax.evaluation import results, tables
from masm_jax.metrics import clusters, scores, uncertainty
from masm_jax.report import runs

BOOTSTRAP = {'draws': 60, 'confidence': 0.95, 'unit': 'video', 'seed': 3}


def score_table(quality, *, num_videos=30, seed=0, video='v'):
  rng = np.random.default_rng(seed)
  label = np.repeat(np.arange(num_videos) % 2, 2)
  logit = np.random.default_rng(99).normal(size=2 * num_videos) + quality * label
  logit = logit + 0.3 * rng.normal(size=2 * num_videos)
  return pd.DataFrame(
    {
      'video_id': [f'{video}{i // 2:02d}' for i in range(2 * num_videos)],
      'path': [f'{i:03d}.png' for i in range(2 * num_videos)],
      'frame': 0,
      'label': label,
      'score': 1 / (1 + np.exp(-logit)),
      'logit': logit,
      'method': np.where(label, 'DF', 'real'),
      'dataset': 'd',
      'split': 'test',
    }
  )


def evaluation(folder, sets, *, method='masm', seed=0, warnings=(), manifests=None, **protocol):
  """The folder of an evaluation, as far as a comparison reads it."""
  for name, table in sets.items():
    scores.write_scores(results.scores_path(folder, name), table)
  telemetry.write_json(
    folder / 'results.json',
    {
      'format': results.FORMAT,
      'warnings': list(warnings),
      'run': {'method': method, 'seed': seed, 'step': 7, 'trainable_parameters': 11},
      'protocol': {
        'video_score': 'mean',
        'threshold': {'frame': 0.5, 'video': 0.6},
        'band': {'frame': {'low': 0.3, 'high': 0.7}, 'video': {'low': 0.4, 'high': 0.8}},
        'bootstrap': BOOTSTRAP,
        'sets': {name: {'manifest_sha256': hash_} for name, hash_ in (manifests or {}).items()},
        **protocol,
      },
      'sets': {results.VAL: {}, **{name: {} for name in sets}},
    },
  )
  return str(folder)


@pytest.fixture
def three(tmp_path):
  """masm with two seeds, linear with one, on cdfv2."""
  leak = {'set': 'cdfv2', 'kind': 'leak_videos', 'text': 'cdfv2 shares 1 video'}
  return [
    evaluation(tmp_path / 'a', {'cdfv2': score_table(2.0, seed=0)}, warnings=[leak]),
    evaluation(tmp_path / 'b', {'cdfv2': score_table(2.0, seed=1)}, seed=1, warnings=[leak]),
    evaluation(tmp_path / 'c', {'cdfv2': score_table(0.5, seed=2)}, method='linear'),
  ]


def test_differences_are_those_of_the_same_draws(three):
  found = compare.compare(compare.load_detectors(three))
  first, second, linear = (score_table(q, seed=i) for i, q in enumerate((2.0, 2.0, 0.5)))
  index = clusters.make_clusters(first).of(first)
  counts = uncertainty.draw_counts(30, range(60), 3)

  def auroc(table, rows):
    return sklearn_metrics.roc_auc_score(table['label'].iloc[rows], table['score'].iloc[rows])

  drawn = [np.repeat(np.arange(60), count[index].astype(int)) for count in counts]
  masm = np.array([(auroc(first, rows) + auroc(second, rows)) / 2 for rows in drawn])
  difference = np.array([auroc(linear, rows) for rows in drawn]) - masm
  every = np.arange(60)
  seeds = [auroc(first, every), auroc(second, every)]
  entry = found['metrics']['cdfv2']['frame']['masm']['auroc']
  assert entry['value'] == pytest.approx(np.mean(seeds), abs=1e-12)
  assert entry['std'] == pytest.approx(np.std(seeds, ddof=1), abs=1e-12)
  assert (entry['low'], entry['high']) == pytest.approx(np.quantile(masm, [0.025, 0.975]))
  entry = found['metrics']['cdfv2']['frame']['linear']['auroc']['difference']
  assert entry['value'] == pytest.approx(auroc(linear, every) - np.mean(seeds), abs=1e-12)
  assert (entry['low'], entry['high']) == pytest.approx(np.quantile(difference, [0.025, 0.975]))
  assert entry['high'] < 0
  assert found['clusters'] == {'cdfv2': {'unit': 'video', 'number': 30}}
  # Paired: narrower than if the draws of the two had nothing to do with each other.
  apart = difference + masm - np.roll(masm, 1)
  assert difference.std() < apart.std()


def test_draws_are_bounded_and_that_is_said(three, monkeypatch):
  monkeypatch.setattr(compare, '_MAX_DRAWS', 20)
  found = compare.compare(compare.load_detectors(three))
  assert found['bootstrap']['draws'] == 20
  assert 'intervals from 20 draws, not 60' in found['notes']


def test_a_detector_does_not_differ_from_itself(tmp_path, three):
  again = evaluation(tmp_path / 'd', {'cdfv2': score_table(2.0, seed=0)}, method='again')
  found = compare.compare(compare.load_detectors([three[0], again]))
  for levels in found['metrics']['cdfv2'].values():
    for entry in levels['again'].values():
      assert set(entry['difference'].values()) == {0.0}


def test_each_detector_abstains_by_its_own_band(tmp_path, three):
  band = {'frame': {'low': 0.0, 'high': 1.0}}
  other = evaluation(tmp_path / 'd', {'cdfv2': score_table(2.0, seed=0)}, method='d', band=band)
  found = compare.compare(compare.load_detectors([three[0], other]))['metrics']['cdfv2']
  one, two = (found['frame'][name]['coverage'] for name in ('masm', 'd'))
  assert one['low'] < one['value'] < one['high'] and two['value'] == 0
  assert two['difference']['value'] == -one['value'] and two['difference']['high'] < 0
  assert found['frame']['d']['aurc']['difference']['value'] == 0  # It knows no band.
  # One that was evaluated before there were bands, or whose validation lacks a class.
  assert np.isnan(found['video']['d']['coverage']['value'])
  assert np.isnan(found['video']['d']['coverage']['difference']['value'])


def test_the_other_way_round_is_the_negative(three):
  one = compare.compare(compare.load_detectors(three), reference='masm')
  two = compare.compare(compare.load_detectors(three), reference='linear')
  there = one['metrics']['cdfv2']['video']['linear']['ap']['difference']
  back = two['metrics']['cdfv2']['video']['masm']['ap']['difference']
  assert (back['value'], back['low'], back['high']) == pytest.approx(
    (-there['value'], -there['high'], -there['low']), abs=1e-12
  )


def test_the_command_writes_all_tables(three, tmp_path, capsys):
  assert command.main([*three, '--out', str(tmp_path / 'out'), '--metrics', 'auroc']) == 0
  folder = tmp_path / 'out'
  text = (folder / 'comparison.md').read_text()
  assert text in capsys.readouterr().out
  found = telemetry.read_json(folder / 'comparison.json')['metrics']['cdfv2']['video']
  masm, linear = found['masm']['auroc'], found['linear']['auroc']
  expected = (
    f'| masm | {masm["value"]:.3f} ± {masm["std"]:.3f} [{masm["low"]:.3f}, {masm["high"]:.3f}] |'
  )
  assert expected in text
  assert f'| linear | {linear["difference"]["value"]:+.3f} [' in text
  assert text.index('masm: cdfv2 shares 1 video') < text.index('## AUROC')
  assert '| Effort (video level; number in the Effort README) | 0.956 |' in text
  assert '| MASM (video level; no verified number is known) | not available |' in text
  assert '| Effort' not in text[: text.index('## AUROC, video level')]  # A video-level number.

  latex = (folder / 'comparison.tex').read_text()
  assert latex.count(r'\begin{tabular}{lr}') == 4 == latex.count(r'\bottomrule')
  assert r'$\pm$' in latex and '±' not in latex[latex.index(r'\begin') :]

  rows = list(csv.DictReader(io.StringIO((folder / 'comparison.csv').read_text())))
  (row,) = [
    row
    for row in rows
    if (row['method'], row['level'], row['metric']) == ('linear', 'video', 'auroc')
  ]
  assert float(row['difference_high']) == linear['difference']['high']
  assert (row['kind'], row['reference'], row['seeds']) == ('measured', 'masm', '1')
  printed = {(r['method'], r['source']): r['value'] for r in rows if r['kind'] == 'published'}
  assert printed['GenD', 'second-hand, variant not stated'] == '0.96'
  assert ('MASM', 'no verified number is known') not in printed


def test_a_folder_of_a_sweep_may_hold_an_equals_sign(tmp_path, three):
  folders = [tmp_path / 'runs' / name / 'eval' for name in ('K=4', 'K=8,q=4')]
  for folder, origin in zip(folders, (three[0], three[2]), strict=True):
    shutil.copytree(origin, folder)
  one, two = compare.load_detectors([str(folders[0]), f'K=8={folders[1]}'])
  assert (one.name, one.folders) == (one.results[0].run.method, (folders[0],))
  assert (two.name, two.folders) == ('K=8', (folders[1],))


def test_latex_escapes_names(tmp_path, three):
  named = [f'a_b&c={three[0]}', f'50%={three[2]}']
  found = compare.compare(compare.load_detectors(named))
  assert r'a\_b\&c &' in tables.latex(found, ['auroc'])
  assert r'50\% &' in tables.latex(found, ['auroc'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'sets': {'x': score_table(1.0, num_videos=29)}}, r'has 60 rows, .* 58; only one of them has'),
    ({'sets': {'x': score_table(1.0, video='w')}}, 'labels or videos differ'),
    ({'sets': {'y': score_table(1.0)}}, 'no test set in common'),
    ({'method': 'masm'}, 'both masm with seed 0: name them apart'),
    ({'video_score': 'max'}, 'video scores differ: mean and max'),
  ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
  one = evaluation(tmp_path / 'one', {'x': score_table(1.0)})
  sets = change.pop('sets', {'x': score_table(1.0)})
  two = evaluation(tmp_path / 'two', sets, **({'method': 'linear'} | change))
  with pytest.raises(UserError, match=message) as caught:
    compare.compare(compare.load_detectors([one, two]))
  assert '\n' not in str(caught.value)


def test_equal_names_of_different_images_are_not_compared(tmp_path):
  def compared(first, second, **hashes):
    folders = [
      evaluation(tmp_path / name, {'x': table}, method=name, manifests={'x': hashes[name]})
      for name, table in (('one', first), ('two', second))
    ]
    return compare.compare(compare.load_detectors(folders))['warnings']

  plain = score_table(1.0)
  hashed = plain.assign(sha256=plain['path'])
  changed = hashed.assign(sha256=hashed['sha256'].replace('007.png', 'other'))
  unknown = hashed.assign(sha256='')
  with pytest.raises(UserError, match=r'different images by the name 007\.png \(1 of 60 rows\)'):
    compared(hashed, changed, one='m', two='n')
  # Known to be the same, or of one manifest: nothing to say.
  assert compared(hashed, hashed, one='m', two='n') == []
  assert compared(plain, plain, one='m', two='m') == []
  for first, second in ((plain, hashed), (unknown, changed), (plain, plain)):
    (warning,) = compared(first, second, one='m', two='n')
    assert (warning['set'], warning['kind']) == ('x', 'manifest_changed')
    assert warning['methods'] == ['two'] and f'than {tmp_path / "one"};' in warning['text']


def test_a_score_table_of_another_detector_is_refused(tmp_path):
  folders = []
  for name in ('one', 'two'):
    folder = tmp_path / name
    evaluation(folder, {results.VAL: score_table(1.0), 'x': score_table(1.0)}, method=name)
    document = telemetry.read_json(folder / 'results.json')
    document['protocol']['sets'] = {'x': {'scores': name}}
    telemetry.write_json(folder / 'results.json', document)
    path = results.scores_path(folder, 'x')
    scores.write_scores(path, score_table(1.0), of={'set': 'x', 'scores': name})
    folders.append(str(folder))
  compare.compare(compare.load_detectors(folders))
  shutil.copy(path, tmp_path / 'one' / 'scores' / 'x.parquet')
  with pytest.raises(UserError, match=r"one/scores/x\.parquet is of another scores \('two'"):
    compare.compare(compare.load_detectors(folders))
  with pytest.raises(UserError, match='is of another scores'):
    runs.read_runs(folders)


def test_tables_are_written_over_older_ones_and_nothing_else(tmp_path, three, capsys):
  out = tmp_path / 'out'
  for _ in range(2):
    assert command.main([*three, '--out', str(out), '--metrics', 'auroc']) == 0
  written = [f'comparison.{end}' for end in ('csv', 'json', 'md', 'tex')]
  assert sorted(path.name for path in out.iterdir()) == written
  capsys.readouterr()
  (tmp_path / 'mine').mkdir()
  for name, text in (('comparison.csv', 'mine'), ('comparison.json', '{"mine": 1}')):
    (tmp_path / 'mine' / name).write_text(text)
    assert command.main([*three, '--out', str(tmp_path / 'mine')]) == 2
    assert 'mine holds other files: give a new folder' in capsys.readouterr().err
    assert (tmp_path / 'mine' / name).read_text() == text


def test_errors_of_the_command_are_one_line(tmp_path, three, capsys):
  for arguments, message in (
    ([three[0], str(tmp_path)], 'holds no finished evaluation'),
    ([three[0]], 'a comparison needs two detectors'),
    ([*three, '--reference', 'x'], "no detector 'x'"),
    ([*three, '--metrics', 'f2'], "no metric 'f2'"),
    ([*three, '--metrics', ' ,'], '--metrics: names none; there are auroc'),
  ):
    assert command.main([*arguments, '--out', str(tmp_path / 'o')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and message in error


def test_warnings_of_the_validation_set_are_shown(tmp_path):
  few = {'set': 'val', 'kind': 'few_clusters', 'text': 'val: only 2 real videos'}
  leak = {'set': 'x', 'kind': 'leak_files', 'text': 'x shares 1 file'}
  other = {'set': 'y', 'kind': 'leak_files', 'text': 'y shares 2 files'}  # Not compared.
  folders = [
    evaluation(tmp_path / 'one', {'x': score_table(1.0)}, warnings=[few, leak, other]),
    evaluation(tmp_path / 'two', {'x': score_table(1.0)}, method='linear', warnings=[few]),
  ]
  found = compare.compare(compare.load_detectors(folders))
  assert [(w['set'], w['kind'], w['methods']) for w in found['warnings']] == [
    ('x', 'leak_files', ['masm']),
    ('val', 'few_clusters', ['masm', 'linear']),
  ]
  assert '- all: val: only 2 real videos' in tables.markdown(found, ['auroc'])


@pytest.mark.parametrize('end', ['\n', '\r', '\u2028', '\x0c'])
def test_a_line_break_escapes_no_language(tmp_path, end):
  hostile = f'a{end}\\immediate\\write18{{id}}|b'
  warning = {'set': '', 'kind': '', 'text': hostile}
  folders = [
    evaluation(tmp_path / 'one', {'x': score_table(1.0)}, warnings=[warning], method=hostile),
    evaluation(tmp_path / 'two', {'x': score_table(1.0)}, method='=1+1'),
  ]
  found = compare.compare(compare.load_detectors(folders))
  for line in tables.latex(found, ['auroc']).splitlines():
    assert r'\write18' not in line or line.startswith('% '), line
  text = tables.markdown(found, ['auroc'])
  table = [line for line in text.splitlines() if line.startswith('| ')]
  assert {len(line.replace(r'\|', '').split('|')) for line in table} == {4}
  methods = {row['method'] for row in csv.DictReader(io.StringIO(tables.csv_table(found)))}
  assert methods == {r'a \immediate\write18{id}|b', "'=1+1"}
