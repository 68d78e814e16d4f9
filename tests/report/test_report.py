"""The page says what results.json and the scores say, escapes names, and repeats exactly."""

import dataclasses
import json
import re

import numpy as np
import pytest

from masm_jax.metrics import scores
from masm_jax.report import __main__ as report
from masm_jax.report import content, page, pictures, runs, sections, words
from tests.report.building import built, edited, verdict_of


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


@pytest.mark.parametrize('scale', [3e38, 1e-30])
def test_features_of_any_size_are_drawn(evaluation, scale):
  table = scores.read_scores(evaluation / 'scores' / 'ffpp.parquet').head(20)
  signs = [np.float32(scale) * np.array([1, -1, 1], np.float32) * (-1) ** i for i in range(20)]
  points, _ = pictures.tsne(table.assign(feature=signs), 20)
  assert points.shape == (20, 2) and np.isfinite(points).all()


def test_features_that_do_not_differ_or_have_one_number_are_not_drawn(evaluation):
  table = scores.read_scores(evaluation / 'scores' / 'ffpp.parquet').head(20)
  for feature in ([0.1, 0.2], []):
    assert pictures.tsne(table.assign(feature=[np.array(feature, np.float32)] * 20), 20) is None
  assert pictures.tsne(table.assign(feature=[np.array([i]) for i in range(20)]), 20) is None


def test_features_are_drawn_for_at_most_so_many_and_only_where_there_are_some(evaluation):
  table = runs.read_runs([str(evaluation)])[0].frames['ffpp']
  points, methods = pictures.tsne(table, 24)
  assert points.shape == (24, 2) and methods[0] == 'real' and set(methods) > {'DF', 'F2F'}
  np.testing.assert_array_equal(pictures.tsne(table, 24)[0], points)
  assert pictures.tsne(table, 0) is None
  assert pictures.tsne(table.drop(columns='feature'), 24) is None
  few = table.assign(feature=[*table['feature'].head(9), *[None] * (len(table) - 9)])
  assert pictures.tsne(few, 24) is None


def test_few_of_many_perturbations_are_drawn_and_that_is_said(evaluation, monkeypatch):
  (run,) = runs.read_runs([str(evaluation)])
  steps = run.results.robustness['ffpp']['CS']
  tested = {f'k{i}': steps for i in range(600)}
  run = dataclasses.replace(
    run, results=dataclasses.replace(run.results, robustness={'ffpp': tested})
  )
  monkeypatch.setattr(sections.panels, 'robustness_curve', lambda *parts, **_: parts[1])
  for num_sets, most in ((1, 64), (10, 32), (100, 20)):
    found = sections.data_set([run], 'ffpp', 0, 0, num_sets)
    assert len(found['robustness']) == most
    assert found['robustness_left_out'].startswith(f'{most} of 600 perturbations are drawn')


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


def test_every_test_set_means_those_without_auroc_too(evaluation, tmp_path):
  def change(results):
    for name in ('ffpp', 'celebdf_v2'):
      results['sets'][name]['video']['metrics'] = values(0.9, 0.8, 0.95)

  folder = edited(tmp_path / 'a', evaluation, change)
  assert verdict_of(folder)['sentences'][0] == 'Better than chance on ffpp, celebdf_v2.'
  (run,) = runs.read_runs([str(folder)])
  sentences = content._verdict(run, ['ffpp', 'celebdf_v2'])['sentences']
  assert sentences[0] == 'Better than chance on every test set.'


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
