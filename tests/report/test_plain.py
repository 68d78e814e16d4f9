"""The first page, and the tables of videos: verdicts in plain words."""

import json
import re

import pytest

from masm_jax.metrics import scores
from masm_jax.report import page, plain, runs, sections
from tests.report.building import built, edited


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
