"""The page says what results.json and the scores say, escapes names, and repeats exactly."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from masm_jax.errors import UserError
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import scores
from masm_jax.plots import masks, panels, roc, style, svg
from masm_jax.report import __main__ as report
from masm_jax.report import content, page, pictures, plain, runs, sections, words


@pytest.fixture(scope='module')
def html(evaluation, tmp_path_factory):
  out = tmp_path_factory.mktemp('html') / 'new' / 'report.html'
  assert report.main([str(evaluation), f'--out={out}', '--tsne-points=30']) == 0
  return out.read_text()


def edited(folder, source, change):
  """A copy of an evaluation whose results were changed."""
  results = json.loads((source / 'results.json').read_text())
  change(results)
  folder.mkdir()
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'scores').symlink_to(source / 'scores')
  return folder


def built(*folders):
  return content.build(runs.read_runs([str(f) for f in folders]), title='t', tsne_points=0)


@pytest.fixture(scope='module')
def whole(evaluation):
  return built(evaluation)


@pytest.fixture(scope='module')
def other(make_evaluation, tmp_path_factory):
  folder = tmp_path_factory.mktemp('other') / 'seed1'
  return make_evaluation(folder, seed=1, num_videos=12)


def verdict_of(folder):
  (run,) = runs.read_runs([str(folder)])
  return content._verdict(run, [name for name in run.sets if name != runs.VALIDATION])


def test_every_metric_of_the_results_stands_in_the_tables(evaluation, html, whole):
  results = json.loads((evaluation / 'results.json').read_text())
  for level, rows in whole['tables']:
    assert [row['set'] for row in rows] == ['ffpp', 'celebdf_v2', 'reals_only', 'val']
    for row in rows:
      measured = results['sets'][row['set']][level]
      assert row['count'] == f'{measured["num_real"]} + {measured["num_fake"]}'
      entries = [measured['metrics'].get(key) for key, _, _ in words.HEADLINES]
      entries.append(measured['calibrated']['metrics']['ece'])
      for entry, cell in zip(entries, row['cells'], strict=True):
        entry = entry or {'value': 'nan', 'low': 'nan', 'high': 'nan'}
        if entry['value'] == 'nan':
          assert cell == {'value': '–', 'interval': ''}
        else:
          assert cell['value'] == f'{entry["value"]:.3f}'
          assert cell['interval'] == f'{entry["low"]:.3f}–{entry["high"]:.3f}'
          assert f'{cell["value"]}<small>{cell["interval"]}</small>' in html
  section = whole['sets'][0]
  (every,) = section['metrics']
  named = {name: (video['value'], frame['value']) for name, video, frame in every['rows']}
  of = results['sets']['ffpp']
  for key, name in (('brier', 'Brier score'), ('fpr@threshold', 'FPR at the threshold')):
    assert named[name] == tuple(f'{of[k]["metrics"][key]["value"]:.3f}' for k in runs.LEVELS)
  assert named['ECE, rescaled'] == ('0.031', '0.031')
  assert named['Log-loss (nats), rescaled'] == ('0.413', '0.413')
  assert [name for _, name, _ in whole['headlines']][-2:] == ['ECE', 'ECE, rescaled']
  (groups,) = section['groups']
  assert [row['value'] for row in groups['rows']] == ['DF', 'F2F', 'FS', 'NT']
  auroc = of['groups']['method']['F2F']['video']['metrics']['auroc']['value']
  assert groups['rows'][1]['cells'][0]['value'] == f'{auroc:.3f}'


def test_protocol_gives_hashes_frames_and_the_thresholds_origin(evaluation, html, whole):
  (part,) = whole['protocol']
  facts = dict(part['facts'])
  run = runs.read_runs([str(evaluation)])[0]
  assert facts['Threshold'].startswith('EER threshold of the validation set: ')
  assert f'{run.threshold("video"):.3f} for videos' in facts['Threshold']
  assert facts['Intervals'].startswith('95% percentile bootstrap, 2,000 draws')
  assert facts['SHA-256 of the training manifest'] == '1234' * 16
  assert part['sets'][0]['per_video'] == '4'
  assert all(row['sha256'][:16] in html for row in part['sets'])


def values(auroc, low, high, **others):
  metrics_ = {'auroc': {'value': auroc, 'low': low, 'high': high}}
  return metrics_ | {k: {'value': v, 'low': 'nan', 'high': 'nan'} for k, v in others.items()}


def test_the_verdict_names_chance_and_the_worst_sets(evaluation, tmp_path):
  def change(results):
    sets = results['sets']
    sets['ffpp']['video']['metrics'] = values(
      0.91, 0.88, 0.94, **{'fpr@threshold': 0.05, 'tpr@threshold': 0.9, 'ece': 0.02}
    )
    sets['celebdf_v2']['video']['metrics'] = values(
      0.52, 0.46, 0.58, **{'fpr@threshold': 0.31, 'tpr@threshold': 0.4, 'ece': 0.11}
    )
    sets['reals_only']['video']['metrics'] = values(0.3, 0.2, 0.4)

  verdict = verdict_of(edited(tmp_path / 'a', evaluation, change))
  assert verdict['tiles'] == [
    ('0.577', 'mean video AUROC of 3 test sets'),
    ('0.300', 'lowest: reals_only'),
    ('0.910', 'highest: ffpp'),
  ]
  assert verdict['sentences'] == [
    'Better than chance on ffpp.',
    'Not told from chance (the interval holds 0.5): celebdf_v2.',
    'Worse than chance: reals_only.',
    'At the threshold that validation fixed, 31% of real videos are called fake on'
    ' celebdf_v2 (the most), and 40% of fakes are found on celebdf_v2 (the fewest).',
    'Scores differ from the observed share of fakes by 0.110 at worst (expected calibration error,'
    ' on celebdf_v2).',
  ]

  def undefined(results):
    for part in results['sets'].values():
      part['video']['metrics'] = values('nan', 'nan', 'nan')

  verdict = verdict_of(edited(tmp_path / 'b', evaluation, undefined))
  assert verdict['tiles'] == [] and 'no AUROC' in verdict['sentences'][0]


def test_leaks_come_first_and_each_warning_once(evaluation, other, whole, tmp_path):
  def change(results):
    results['warnings'].append({'set': '', 'kind': 'synthetic', 'text': 'only here'})
    results['warnings'].append({'set': '', 'kind': 'leak_unchecked', 'text': 'not at hand'})

  folders = [f'A={evaluation}', f'B={edited(tmp_path / "b", other, change)}']
  found = content._warnings(runs.read_runs(folders))
  assert [(entry['kind'], entry['heading'], entry['runs']) for entry in found] == [
    ('leak_identities', 'Leak.', []),
    ('leak_unchecked', 'Not searched for leaks.', ['B']),
    ('few_clusters', '', []),
    ('synthetic', '', ['B']),
  ]
  html = page.render(whole | {'warnings': found})
  assert html.count('Leak.</strong>') == 1
  assert '<strong>Not searched for leaks.</strong> not at hand <small>(B)</small>' in html


def test_the_page_asks_nothing_of_the_network(html):
  links = set(re.findall(r'(?:https?:)?//[^\s"\'<>)]+', re.sub(r'base64,[\w+/=]*', '', html)))
  assert links == {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}  # Names alone.
  assert "default-src 'none'" in html and '<script' not in html
  sources = re.findall(r'(?:src|href)="([^"#]{1,30})', html)
  assert sources and all(source.startswith('data:') for source in sources)
  identifiers = re.findall(r' id="([^"]*)"', html)
  assert len(identifiers) == len(set(identifiers))
  for reference in re.findall(r'(?:href="|url\()#([^")]*)', html):
    assert reference in identifiers


def test_the_same_input_gives_the_same_bytes(evaluation, html, tmp_path):
  out = tmp_path / 'again.html'
  assert report.main([str(evaluation), f'--out={out}', '--tsne-points=30']) == 0
  assert out.read_text() == html
  assert [path.name for path in tmp_path.iterdir()] == ['again.html']


def test_thumbnails_are_jpegs_the_worst_first_or_left_out(evaluation):
  run = runs.read_runs([str(evaluation)])[0]
  found = pictures.mistakes(run, 'celebdf_v2')
  of = {kind: [item['score'] for item in items] for kind, items in found.items()}
  assert sum(map(len, of.values())) == 9
  for (kind, _), values_ in of.items():
    assert values_ == sorted(values_, reverse=kind == 'real')
  items = [item for part in found.values() for item in part]
  assert all(item['src'].startswith('data:image/jpeg;base64,/9j/') for item in items)
  svg_bomb = b'<svg onload="alert(1)"/>'
  run.frames['celebdf_v2']['thumbnail'] = [svg_bomb] * len(run.frames['celebdf_v2'])
  assert not any(pictures.mistakes(run, 'celebdf_v2').values())


def judged(folder, evaluation, rows, *, threshold=0.5):
  """An evaluation whose set ffpp is `rows` of (video, label, score, has a thumbnail)."""

  def change(results):
    results['protocol']['threshold'] |= {'frame': threshold, 'video': threshold}

  edited(folder, evaluation, change)
  whole = scores.read_scores(evaluation / 'scores' / 'ffpp.parquet')
  jpeg = whole['thumbnail'].dropna().iloc[0]
  table = whole.head(len(rows)).reset_index(drop=True)
  columns = list(zip(*rows, strict=True))
  table = table.assign(
    video_id=columns[0], label=columns[1], score=columns[2],
    thumbnail=[jpeg if shown else None for shown in columns[3]],
    path=[f'{i}.png' for i in range(len(rows))],
  )  # fmt: skip
  (folder / 'scores').unlink()
  for name in ('celebdf_v2', 'reals_only', 'val'):
    source = scores.read_scores(evaluation / 'scores' / f'{name}.parquet')
    scores.write_scores(folder / 'scores' / f'{name}.parquet', source)
  scores.write_scores(folder / 'scores' / 'ffpp.parquet', table)
  return folder


VIDEOS = [
  ('found', 1, 0.01, True), ('found', 1, 0.9, False), ('found', 1, 0.9, False),
  ('missed', 1, 0.3, True), ('missed', 1, 0.4, False),
  ('alarm', 0, 0.8, True), ('alarm', 0, 0.6, False),
  ('fine', 0, 0.1, False), ('fine', 0, 0.2, False),
]  # fmt: skip


def test_a_video_that_was_found_is_not_listed_as_missed(evaluation, tmp_path):
  folder = judged(tmp_path / 'a', evaluation, VIDEOS)
  groups = {group['title']: group for group in built(folder)['sets'][0]['mistakes']}
  videos = {title: [item['video'] for item in group['faces']] for title, group in groups.items()}
  assert videos == {
    'Real videos called fake': ['alarm'],
    'Fake videos called real': ['missed'],
    'Single frames that look real, of fake videos called right': ['found'],
  }
  (item,) = groups['Single frames that look real, of fake videos called right']['faces']
  assert item['score'] == 0.01 and item['video_score'] == pytest.approx(1.81 / 3)
  assert 'video 0.603' in page.render(built(folder))


def test_every_video_stands_in_a_table_with_its_verdict(evaluation, tmp_path, monkeypatch):
  folder = judged(tmp_path / 'a', evaluation, VIDEOS)
  (table,) = built(folder)['sets'][0]['videos']
  shown = [(r['video'], r['truth'], r['score'], r['verdict'], r['is_wrong']) for r in table['rows']]
  assert shown == [
    ('alarm', 'real', '0.700', 'fake', True), ('missed', 'fake', '0.350', 'real', True),
    ('fine', 'real', '0.150', 'real', False), ('found', 'fake', '0.603', 'fake', False),
  ]  # fmt: skip
  assert (table['about'], table['left_out']) == ('2 of 4 called wrong', '')
  assert table['rows'][3]['frames'] == '3'
  monkeypatch.setattr(sections, 'MAX_ROWS', 3)
  (table,) = built(folder)['sets'][0]['videos']
  assert [row['video'] for row in table['rows']] == ['alarm', 'missed', 'fine']
  assert table['left_out'] == (
    'The first 3 of 4 are shown, those called wrong first; all are in scores/ffpp.parquet.'
  )
  (table,) = built(
    judged(tmp_path / 'b', evaluation, VIDEOS, threshold='nan')
  )['sets'][0]['videos']  # fmt: skip
  assert {row['verdict'] for row in table['rows']} == {'–'} and table['about'] == ''


def test_what_has_no_label_stands_in_a_table_with_its_score_and_verdict(evaluation, tmp_path):
  folder = judged(tmp_path / 'a', evaluation, [('a', -1, 0.2, False), ('b', -1, 0.7, False)])
  shown = built(folder)
  (table,) = shown['sets'][0]['videos']
  rows = [(r['video'], r['truth'], r['score'], r['verdict'], r['is_wrong']) for r in table['rows']]
  assert rows == [('b', '–', '0.700', 'fake', False), ('a', '–', '0.200', 'real', False)]
  assert table['title'] == 'All images: score and verdict'
  assert table['about'] == '1 of 2 without a label called fake'
  sentences = shown['plain'][0]['sets'][0]['sentences']
  assert sentences[-1] == 'The scores of 2 images without a label are in the table below.'
  assert '<td>b</td><td>–</td><td>0.700</td><td>fake</td>' in page.render(shown)
  # Beside labelled ones: behind them, and in no count of theirs.
  folder = judged(tmp_path / 'b', evaluation, [*VIDEOS, ('new', -1, 0.9, False)])
  (table,) = built(folder)['sets'][0]['videos']
  assert [row['video'] for row in table['rows']][-1] == 'new'
  assert table['about'] == '2 of 4 called wrong; 1 of 1 without a label called fake'


def test_single_images_are_not_called_videos(evaluation, tmp_path):
  folder = judged(tmp_path / 'a', evaluation, [(f'{i}', i % 2, 0.4, i % 2) for i in range(4)])
  section = built(folder)['sets'][0]
  assert [group['title'] for group in section['mistakes']] == ['Fake images called real']
  assert section['videos'][0]['title'] == 'All images: score and verdict'
  assert not section['mistakes'][0]['has_video_score'] and ' images (' in section['facts']
  (part,) = built(folder)['plain']
  assert part['sets'][0]['right'] == 'right on 2 of 4 images'


def test_the_first_page_counts_in_plain_words(evaluation, tmp_path):
  def change(results):
    results['protocol']['threshold'] |= {'frame': 0.5, 'video': 0.5}
    results['sets']['ffpp']['video']['metrics'] |= {
      'tpr@threshold': {'value': 0.5, 'low': 0.25, 'high': 0.75},
      'fpr@threshold': {'value': 0.5, 'low': 'nan', 'high': 'nan'},
    }

  folder = judged(tmp_path / 'a', evaluation, VIDEOS)
  document = json.loads((folder / 'results.json').read_text())
  change(document)
  (folder / 'results.json').write_text(json.dumps(document))
  (part,) = built(folder)['plain']
  assert part['sets'][0] | {'name': ''} == {
    'name': '',
    'right': 'right on 2 of 4 videos',
    'share': 0.5,
    'sentences': [
      'It found 1 of 2 fake videos: 50%, with a range of 1% to 99%.',
      'It called 1 of 2 real videos fake: 50%, of too few to say how sure that is.',
      'If it may leave doubtful videos undecided (scores from 0.350 to 0.650, fixed on other data'
      ' too), it decides 2 of 4 and is right on 1 of these.',
    ],
  }
  assert 'given 76 videos of 3 test sets: ' in part['lead'] and 'from 0.500 on' in part['lead']
  # 0 of 36 with a bootstrap of nothing but 0: 1 - 0.025 ** (1 / 36) is the exact upper end.
  (run,) = runs.read_runs([str(folder)])
  assert plain._spread(run, 'ffpp', 'tpr@threshold', 0, 36) == ': 0%, with a range of 0% to 75%'
  document['sets']['ffpp']['video']['metrics']['tpr@threshold'] = dict.fromkeys(
    ('value', 'low', 'high'), 0.0
  )
  (folder / 'results.json').write_text(json.dumps(document))
  (run,) = runs.read_runs([str(folder)])
  assert plain._spread(run, 'ffpp', 'tpr@threshold', 0, 36) == ': 0%, with a range of 0% to 10%'
  reals_only = part['sets'][2]['sentences']
  assert len(reals_only) == 2 and ' of 36 real videos fake' in reals_only[0]
  html = page.render(built(folder))
  assert html.index('In plain words</h2>') < html.index('>Summary for specialists<')
  words_ = ' '.join([part['lead'], *part['limits'], *part['sets'][0]['sentences']])
  assert not re.search('AUROC|EER|FPR|TPR|ECE|percentile|bootstrap', words_)
  (part,) = built(judged(tmp_path / 'b', evaluation, VIDEOS, threshold='nan'))['plain']
  assert part['sets'] == [] and 'there are no verdicts to count' in part['lead']


def test_abstention_is_drawn_and_told_where_there_is_a_band(evaluation, whole, tmp_path):
  (ffpp, *_) = whole['sets']
  (drawing,) = [drawing for caption, drawing in ffpp['panels'] if 'Abstention' in caption]
  (run,) = runs.read_runs([str(evaluation)])
  found = run.level('ffpp', 'video')
  risk = 1 - found.metric('selective_accuracy').value
  coverage = found.metric('coverage').value
  assert f'{risk:.3f} of the {coverage:.3f} outside the band' in drawing
  assert found.risk_coverage[-1].risk == pytest.approx(1 - found.metric('accuracy@threshold').value)
  (protocol,) = whole['protocol']
  told = dict(protocol['facts'])['Abstention band']
  assert told.endswith('FPR 1%, FNR 1%: 0.350 to 0.650 for videos; 0.300 to 0.700 for frames')

  def forget(results):  # As an evaluation of 0.1 has it.
    del results['protocol']['band']
    for levels in results['sets'].values():
      for level in scores.LEVELS:
        del levels[level]['risk_coverage']

  old = built(edited(tmp_path / 'old', evaluation, forget))
  assert not any('Abstention' in caption for caption, _ in old['sets'][0]['panels'])
  assert 'Abstention band' not in dict(old['protocol'][0]['facts'])
  assert not any('undecided' in text for text in old['plain'][0]['sets'][0]['sentences'])


def test_how_rare_fakes_change_what_an_alarm_means():
  found = {'a': plain.Verdicts(reals=50, alarms=5, fakes=10, found=9)}
  # 0.01 * 0.9 right and 0.99 * 0.1 wrong alarms: 0.009 / 0.108 = 8.3 %.
  assert 'about 8% of those called fake would be fake' in plain._of_called_fake(found)
  assert plain._of_called_fake({'a': plain.Verdicts(50, 0, 10, 9)}) == ''


def test_scores_are_called_probabilities_only_where_they_are(evaluation, tmp_path):
  def with_ece(value):
    def change(results):
      for level in ('frame', 'video'):
        results['sets']['ffpp'][level]['metrics']['ece']['value'] = value

    return change

  texts = {}
  for value in (0.02, 0.6, 'nan'):
    shown = built(edited(tmp_path / str(value), evaluation, with_ece(value)))
    drawings = dict(shown['sets'][0]['panels'])
    limits = ' '.join(shown['plain'][0]['limits'])
    texts[value] = next(d for caption, d in drawings.items() if 'Scores of' in caption), limits
  assert '>score: probability of fake (ECE 0.02)<' in texts[0.02][0]
  assert '>score, not a probability (ECE 0.60)<' in texts[0.6][0]
  assert '>score<' in texts['nan'][0]
  assert 'a score of 0.9 does not mean 90%' in texts[0.6][1]
  assert 'probability of fake' not in page.render(whole_of(evaluation, with_ece(0.6), tmp_path))


def whole_of(evaluation, change, tmp_path):
  return built(edited(tmp_path / 'whole', evaluation, change))


def test_date_training_set_and_crops_are_shown(evaluation, tmp_path):
  def change(results):
    train = {'manifest': 'data/ffpp/manifest.parquet', 'split': 'train', 'methods': ['DF', 'FS']}
    results['run']['config'] = {'data': {'train': train}}
    results['run']['crops'] = {'template': 'arcface', 'margin': 1.3, 'size': 224}

  folder = edited(tmp_path / 'a', evaluation, change)
  (folder / 'evaluation.json').write_text('{"started": "2026-11-25"}')
  shown = built(folder)
  facts = dict(shown['protocol'][0]['facts'])
  assert facts['Date of the evaluation'] == '2026-11-25'
  assert facts['Trained on'] == 'data/ffpp/manifest.parquet, split train, forgeries DF, FS'
  assert facts['Crops'] == 'template arcface, margin 1.3, 224 px'
  html = page.render(shown)
  assert 'Evaluated on 2026-11-25. Trained on data/<wbr>ffpp' in html
  assert dict(built(evaluation)['protocol'][0]['facts'])['Crops'] == 'not recorded by the run'
  old = page.render(built(evaluation))
  assert 'a date that was not recorded. Trained on data that was not recorded' in old


@pytest.mark.parametrize(
  ('column', 'value'),
  [('label', 2), ('label', 'x'), ('score', 1.5), ('score', None), ('logit', float('inf')),
   ('video_id', 7), ('path', None)],
)  # fmt: skip
def test_damaged_scores_are_one_line(evaluation, tmp_path, capsys, column, value):
  folder = edited(tmp_path / 'a', evaluation, lambda results: None)
  (folder / 'scores').unlink()
  table = scores.read_scores(evaluation / 'scores' / 'ffpp.parquet')
  scores.write_scores(folder / 'scores' / 'ffpp.parquet', table.assign(**{column: value}))
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 2
  error = capsys.readouterr().err
  assert re.fullmatch(rf'error: .*ffpp\.parquet: column {column} holds other values .*\n', error)


def test_thinned_curves_stay_where_they_were():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 20_000)
  fpr, tpr = metrics.roc_curve(labels, np.clip(0.3 * labels + rng.random(20_000) / 1.5, 0, 1))
  keep = roc._thinned(fpr, tpr)
  assert len(keep) < 900 < len(fpr) and keep[0] == 0 and keep[-1] == len(fpr) - 1
  along = fpr + tpr  # Rises with every point, where the curve itself may jump.
  assert np.abs(np.interp(along, along[keep], tpr[keep]) - tpr).max() < 1 / 200
  assert roc._thinned(np.array([0.0, 1.0]), np.array([0.0, 1.0])).tolist() == [0, 1]


def test_operating_point_is_that_of_the_threshold():
  curve = roc.Scores(
    'x',
    0,
    'frame',
    np.array([0, 0, 0, 0, 1, 1]),
    np.array([0.1, 0.4, 0.6, 0.2, 0.6, 0.3]),
    0.5,
    0.4,
  )
  assert curve.operating_point == (0.5, 0.5)


def test_masks_resampled_over_time_keep_their_share():
  rng = np.random.default_rng(0)
  history = (rng.random((700, 5)) < 0.4).astype(float)
  edges = np.cumsum(np.r_[3, rng.integers(1, 9, 700)]).astype(float)
  shares = masks.resampled(history, edges)
  assert shares.shape == (160, 5)
  np.testing.assert_allclose(shares.mean(0), np.average(history, axis=0, weights=np.diff(edges)))
  exact = masks.resampled(np.array([[1.0], [0.0], [1.0]]), np.array([0.0, 2.0, 3.0, 6.0]))
  assert exact[:, 0].tolist() == [1, 1, 0, 1, 1, 1]


def test_drawings_take_the_pages_colours_and_leave_texts_alone():
  name = 'font-family: x; 0.12345 #010201 <b>&'
  with svg.panel() as (figure, axes):
    axes.plot([0, 1], [0.123456, 1], color=style.PAGE.series[2])
    axes.set_title(name)
    text = svg.to_svg(figure, 'k', f'about "{name}"')
  assert '>font-family: x; 0.12345 #010201 &lt;b&gt;&amp;</text>' in text
  assert 'stroke: var(--s2)' in text and 'fill: var(--ink)' in text
  assert 'DejaVu' not in text and '<metadata' not in text and '#0506' not in text
  assert 'aria-label="about &#34;font-family: x; 0.12345 #010201 &lt;b&gt;&amp;&#34;"' in text or (
    'aria-label="about &quot;font-family: x; 0.12345 #010201 &lt;b&gt;&amp;&quot;"' in text
  )


def test_long_names_are_shortened_in_the_middle():
  assert style.label('short') == 'short'
  assert style.label('a' * 20 + 'b' * 20, 11) == 'aaaaaa…bbbb'
  assert style.label('x\u202ey\x00z') == 'x�y�z'


def test_features_are_drawn_for_at_most_so_many_and_only_where_there_are_some(evaluation):
  table = runs.read_runs([str(evaluation)])[0].frames['ffpp']
  points, methods = pictures.tsne(table, 24)
  assert points.shape == (24, 2) and methods[0] == 'real' and set(methods) > {'DF', 'F2F'}
  np.testing.assert_array_equal(pictures.tsne(table, 24)[0], points)
  assert pictures.tsne(table, 0) is None
  assert pictures.tsne(table.drop(columns='feature'), 24) is None
  few = table.assign(feature=[*table['feature'].head(9), *[None] * (len(table) - 9)])
  assert pictures.tsne(few, 24) is None


def test_runs_are_told_apart(evaluation, other):
  both = runs.read_runs([str(evaluation), str(other)])
  assert [run.name for run in both] == ['masm (masm)', 'masm (seed1)']
  with pytest.raises(UserError, match="two runs are called 'A'"):
    runs.read_runs([f'A={evaluation}', f'A={other}'])


ABSTENTION = 'Abstention (circle: the band of validation)'


def test_runs_stand_side_by_side_and_sets_of_one_run_alone(evaluation, other, tmp_path):
  def change(results):
    del results['sets']['ffpp'], results['robustness']['ffpp']

  shown = built(f'A={evaluation}', f'B={edited(tmp_path / "b", other, change)}')
  assert [(row['set'], row['run']) for row in shown['tables'][0][1][:3]] == [
    ('ffpp', 'A'), ('celebdf_v2', 'A'), ('celebdf_v2', 'B')
  ]  # fmt: skip
  first, second, *others = shown['sets']
  assert [section['name'] for section in others] == ['reals_only', 'val']
  assert [caption for caption, _ in first['panels']] == [
    'ROC', 'DET', 'Calibration', ABSTENTION, 'Scores of frames'
  ]  # fmt: skip
  assert [caption for caption, _ in second['panels']] == [
    'ROC', 'DET', 'Calibration', ABSTENTION, 'Scores of frames: A', 'Scores of frames: B'
  ]  # fmt: skip
  assert len(shown['notes']) == 1 and shown['notes'][0].startswith('Synthetic portraits')
  html = page.render(shown)
  assert html.count('<h3 style="margin-top:0"><span class="key"') == 4  # Plain words, verdict.
  assert 'python -m masm_jax.compare' in html


def test_a_run_of_one_video_or_without_scores_is_no_traceback(evaluation, tmp_path, capsys):
  results = json.loads((evaluation / 'results.json').read_text())
  results['sets'] = {'val': results['sets']['val']}
  results['warnings'], results['masks'] = [], None
  results['protocol']['threshold'] |= {'frame': 'nan', 'video': 'nan'}
  folder = tmp_path / 'tiny'
  folder.mkdir()
  (folder / 'results.json').write_text(json.dumps(results))
  table = scores.read_scores(evaluation / 'scores' / 'val.parquet').iloc[:1]
  scores.write_scores(folder / 'scores' / 'val.parquet', table)
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 0
  assert 'No test set has both real and fake videos' in (tmp_path / 'x.html').read_text()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['nowhere', '--out=x.html'], 'nowhere holds no finished evaluation'),
    (['nowhere', '--out=x.pdf'], '--out x.pdf: the report is an .html file'),
    (['nowhere', '--out=x.html', '--tsne-points=-1'], '--tsne-points -1: needs at least 0'),
  ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert report.main(arguments) == 2
  assert capsys.readouterr().err.startswith(f'error: {message}')
  assert list(tmp_path.iterdir()) == []


def test_missing_scores_and_unwritable_pages_are_one_line(evaluation, tmp_path, capsys):
  folder = tmp_path / 'a'
  folder.mkdir()
  (folder / 'results.json').symlink_to(evaluation / 'results.json')
  assert report.main([str(folder), f'--out={tmp_path / "x.html"}']) == 2
  assert re.match(r'error: no score file .*ffpp\.parquet', capsys.readouterr().err)
  (tmp_path / 'file').write_text('')
  assert (
    report.main([str(evaluation), f'--out={tmp_path / "file" / "x.html"}', '--tsne-points=0']) == 2
  )
  assert capsys.readouterr().err.startswith('error: cannot write ')


def test_robustness_starts_from_the_unperturbed_set(evaluation, whole):
  results = json.loads((evaluation / 'results.json').read_text())
  (figure,) = [drawing for key, drawing in whole['sets'][0]['robustness'] if key == 'CS']
  level_0 = results['sets']['ffpp']['video']['metrics']['auroc']['value']
  rest = [
    step['video']['metrics']['auroc']['value'] for step in results['robustness']['ffpp']['CS']
  ]
  listed = ', '.join(f'{value:.3f}' for value in [level_0, *rest])
  assert f'under CS: videos, video: {listed}' in figure
  assert '>none</text>' in figure and '>0.4</text>' in figure
  titles = {'VC': 'VC: video compression', 'video_GB': 'GB, whole video: Gaussian blur'}
  drawings = dict(whole['sets'][0]['robustness'])
  assert all(f'>{title}</text>' in drawings[key] for key, title in titles.items())


def test_only_a_best_checkpoint_was_chosen_by_validation(evaluation, whole, tmp_path):
  assert dict(whole['protocol'][0]['facts'])['Checkpoint'] == (
    'best, step 408; chosen by video_auroc on validation; last step 472'
  )
  both = 'fixed the threshold, chose the checkpoint'
  assert whole['sets'][-1]['role'] == whole['tables'][0][1][-1]['role'] == both

  def last(results):
    results['run'] |= {'checkpoint': 'last', 'step': 472}

  def other_validation(results):
    results['protocol']['threshold']['manifest_sha256'] = '9' * 64

  shown = built(edited(tmp_path / 'last', evaluation, last))
  assert dict(shown['protocol'][0]['facts'])['Checkpoint'] == (
    'last, step 472; chosen by hand (best by video_auroc on validation: step 408); last step 472'
  )
  html = page.render(shown)
  assert html.count('fixed the threshold<') == 3 and 'chose the checkpoint' not in html
  changed = edited(tmp_path / 'other', evaluation, other_validation)
  assert built(changed)['sets'][-1]['role'] == 'fixed the threshold'
  mixed = built(f'A={evaluation}', f'B={changed}')
  assert mixed['sets'][-1]['role'] == f'{both} of A'
  assert [row['role'] for row in mixed['tables'][0][1][-2:]] == [both, 'fixed the threshold']


def test_the_intervals_confidence_is_that_of_the_results(evaluation, html, tmp_path):
  def change(results):
    results['protocol']['bootstrap']['confidence'] = 0.995

  assert 'small numbers are 95% intervals.' in html
  wide = edited(tmp_path / 'wide', evaluation, change)
  shown = built(wide)
  assert 'small numbers are 99.5% intervals.' in page.render(shown)
  assert dict(shown['protocol'][0]['facts'])['Intervals'].startswith('99.5% percentile bootstrap')
  text = 'intervals that differ between the runs (95% for A, 99.5% for B)'
  assert built(f'A={evaluation}', f'B={wide}')['intervals'] == text


def test_robustness_of_several_runs_is_drawn_by_level(evaluation, other, tmp_path, monkeypatch):
  def change(results):
    curves = results['robustness']['ffpp']
    curves['CS'] = [step for step in curves['CS'] if step['level'] == 5]

  drawn = {}
  curve = panels.robustness_curve

  def spy(name, perturbation, title, unit, lines, parameters, limits, *, key):
    drawn[name, perturbation] = lines, parameters
    return curve(name, perturbation, title, unit, lines, parameters, limits, key=key)

  monkeypatch.setattr(panels, 'robustness_curve', spy)
  few = edited(tmp_path / 'few', other, change)
  shown = built(f'A={few}', f'B={evaluation}')
  (first, second), parameters = drawn['ffpp', 'CS']
  assert list(parameters) == [1, 2, 3, 4, 5]
  at = [np.isfinite(points[3])[:, 0].tolist() for points in (first, second)]
  assert at == [[True, False, False, False, False, True], [True] * 6]
  step = json.loads((few / 'results.json').read_text())['robustness']['ffpp']['CS'][0]
  assert first[3][5][0] == step['video']['metrics']['auroc']['value']
  assert 'A, video: ' in dict(shown['sets'][0]['robustness'])['CS']
  built(few)  # Alone, its one level is still the fifth.
  assert list(drawn['ffpp', 'CS'][1]) == [5]
  ticks = []
  monkeypatch.setattr(
    panels.Axes, 'set_xticks', lambda self, x, *args, of=panels.Axes.set_xticks: (
      ticks.append(list(x)), of(self, x, *args)
    )
  )  # fmt: skip
  curve(
    's', 'CS', 't', 'u', [('a', 0, 'video', [(0.9, 0.8, 1.0)] * 2)], {5: 0.1}, (0.4, 1.0), key='k'
  )
  assert ticks == [[0, 5]]


def test_every_test_set_means_those_without_auroc_too(evaluation, tmp_path):
  def change(results):
    for name in ('ffpp', 'celebdf_v2'):
      results['sets'][name]['video']['metrics'] = values(0.9, 0.8, 0.95)

  folder = edited(tmp_path / 'a', evaluation, change)
  assert verdict_of(folder)['sentences'][0] == 'Better than chance on ffpp, celebdf_v2.'
  (run,) = runs.read_runs([str(folder)])
  sentences = content._verdict(run, ['ffpp', 'celebdf_v2'])['sentences']
  assert sentences[0] == 'Better than chance on every test set.'


def test_runs_of_other_rows_under_one_name_are_warned_of(evaluation, other, tmp_path):
  def change(results):
    results['protocol']['sets']['ffpp']['manifest_sha256'] = 'ab' * 32

  shown = built(f'A={evaluation}', f'B={edited(tmp_path / "b", other, change)}')
  (warning,) = [entry for entry in shown['warnings'] if entry['kind'] == 'rows_differ']
  assert warning['set'] == 'ffpp' and 'B: hash abababababab' in warning['text']
  assert 'the runs scored different rows of ffpp (A: hash ' in page.render(shown)
  assert shown['sets'][0]['facts'].endswith('144 frames in A; other counts in other runs')


def test_histogram_shares_are_of_each_class():
  frame = pd.DataFrame({'label': [0, 0, 1, 1], 'score': [0.1, 0.2, 0.8, 1.0]})
  curve = roc.Scores(
    'x', 0, 'frame', frame['label'].to_numpy(), frame['score'].to_numpy(), 1.0, float('nan')
  )
  drawn = panels.histogram('s', curve, 'score', key='k')  # A score of 1 has no finite log-odds.
  assert '>50%</text>' in drawn and 'threshold' not in drawn


def test_histogram_ticks_say_where_they_stand():
  labels = np.repeat([0, 1], 16)
  curve = roc.Scores('x', 0, 'frame', labels, np.linspace(0.1, 0.9, 32), 0.5, float('nan'))
  drawn = str(panels.histogram('s', curve, 'score', key='k'))
  ticks = [float(text) for text in re.findall(r'>([\d.]+)%</text>', drawn)]
  assert len(ticks) > 3 and np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_the_analysis_of_the_model_is_drawn(whole, html):
  (part,) = whole['inside']
  drawings = dict(part['subspaces'])
  assert list(drawings) == [
    'U: angle to where it began', 'V: angle to where it began', 'Overlap of subspaces at the end',
    'Change of singular values', 'Turned out of the principal span',
    'What linear probes still read',
  ]  # fmt: skip
  overlap = drawings['Overlap of subspaces at the end']
  assert overlap.count('>0.25</text>') == 2 and overlap.count('>1.00</text>') == 2
  assert '>0.50</text>' in overlap  # With the semantic subspace.
  assert 'before to after: yaw 0.80 to 0.70' in drawings['What linear probes still read']
  assert 'a line for each kind of kernel: attn/q, attn/v' in drawings['Change of singular values']
  assert len(part['masks']) == 5 and part['note'].startswith('Synthetic portraits')
  assert all(str(drawing) in html for drawing in [*drawings.values(), *part['masks']])


def test_masks_of_whole_blocks_or_of_kernels_are_drawn(evaluation, tmp_path):
  names = [f'block_{i:02d}/attn/{kind}' for i in range(12) for kind in ('q', 'v')]
  line = {'step': 5, 'rows': names, 'mask': [[1]] * 24}
  changed = edited(tmp_path / 'a', evaluation, lambda results: results.update(masks=[line]))
  (run,) = runs.read_runs([str(changed)])
  panel, duty = pictures.masks(run)
  assert '>groups</text>' in panel and '>100</text>' in duty and '11/attn/q' in panel
