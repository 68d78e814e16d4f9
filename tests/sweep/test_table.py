"""The table: hand-computed statistics, equal bytes for equal runs, wall times kept apart."""

import math
import pathlib

import numpy as np
import pandas as pd
import pytest

from masm_jax import config as config_lib
from masm_jax import places, telemetry
from masm_jax.errors import UserError
from masm_jax.metrics import binary, scores
from masm_jax.sweep import __main__ as command
from masm_jax.sweep import cost, fair_table, local, plan, table

# ml_collections loads config files by a function that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def test_mean_deviation_and_interval_by_hand():
  found = table.over_seeds([0.6, 0.7, 0.8])
  assert found['mean'] == pytest.approx(0.7) and found['sd'] == pytest.approx(0.1)
  # t(0.975, 2) = 4.30265; half the interval = 4.30265 * 0.1 / sqrt(3) = 0.248414.
  assert found['low'] == pytest.approx(0.7 - 0.248414, abs=1e-6)
  assert found['high'] == pytest.approx(0.7 + 0.248414, abs=1e-6)
  assert found['n'] == 3 and found['values'] == [0.6, 0.7, 0.8]
  two = table.over_seeds([0.5, 0.6])
  # t(0.975, 1) = 12.7062; sd = 0.0707107.
  assert two['high'] - two['mean'] == pytest.approx(12.7062 * 0.0707107 / math.sqrt(2), rel=1e-5)


def test_too_few_seeds_and_undefined_metrics():
  one = table.over_seeds([0.6])
  assert one['mean'] == 0.6 and math.isnan(one['sd']) and math.isnan(one['low'])
  assert math.isnan(table.over_seeds([])['mean'])
  undefined = table.over_seeds([0.6, math.nan])
  assert math.isnan(undefined['mean']) and math.isnan(undefined['sd'])


def metrics(value):
  return {level: dict.fromkeys(('auroc', 'ap', 'eer'), value) for level in ('frame', 'video')}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
  """Three of four runs finished, with made-up metrics."""
  monkeypatch.chdir(REPOSITORY)
  sweeps = plan.load_sweeps('configs/ablations.py')
  sweep = plan.make_sweep(
    sweeps, 'split', workdir=tmp_path, seeds=(0, 1), fields={'data.tests.poisson.manifest': ''}
  )
  names = ('val', 'known', 'checkerboard', 'regenerate')
  for index, run in enumerate(sweep.runs[:3]):
    value = 0.5 + 0.1 * index
    results = {'sets': {name: metrics(value) for name in names}}
    telemetry.write_json(
      run.workdir / 'results.json',
      {
        'config_sha256': config_lib.fingerprint(run.config), 'trainable_parameters': 1234,
        'note': 'Synthetic.', 'best': results, 'last': results,
      },
    )  # fmt: skip
    lines = ''.join(
      f'{{"step": {step}, "train/images_per_second": {rate}}}\n'
      for step, rate in enumerate((1, 90 + index, 100 + index, 110 + index))
    )
    (run.workdir / 'perf.jsonl').write_text(lines)
  return sweep


def change(run, update):
  path = run.workdir / 'results.json'
  document = telemetry.read_json(path)
  update(document)
  telemetry.write_json(path, document)


def test_runs_on_other_weights_or_data_make_no_table(sweep):
  for run in sweep.runs[:3]:
    change(run, lambda document: document.update(hashes={'base_weights': 'a', 'test/known': 'b'}))
  table.make_table(sweep)
  change(sweep.runs[2], lambda document: document['hashes'].update({'test/known': 'c'}))
  with pytest.raises(UserError, match=r'seed1: its test/known \(hash c\) differs from .* \(b\)'):
    table.make_table(sweep)


def test_the_table_has_the_sets_that_all_runs_have(sweep):
  change(sweep.runs[0], lambda document: document['best']['sets'].update(train=metrics(1.0)))
  made = table.make_table(sweep)
  assert set(made['rows'][0]['sets']) == {'val', 'known', 'checkerboard', 'regenerate'}


@pytest.mark.parametrize(
  ('place', 'value'),
  [
    ('trainable_parameters', 'x'), ('trainable_parameters', -1), ('trainable_parameters', None),
    ('hashes', []), ('hashes.val', None), ('hashes.val', -1), ('note', []), ('inputs', 'x'),
    ('best.sets.known', None), ('best.sets.known.video', 'x'), ('last.sets', {}),
    *(('best.sets.known.video.auroc', bad) for bad in (None, 'x', -1, 1.5, math.inf, 10**400)),
  ],
)  # fmt: skip
def test_results_of_other_types_and_rates_outside_0_to_1_are_made_again(sweep, place, value):
  *folders, name = place.split('.')

  def spoil(document):
    for key in folders:
      document = document.setdefault(key, {})
    document[name] = value

  change(sweep.runs[2], spoil)
  assert sweep.runs[2].progress() is plan.Progress.BEGUN
  assert [row['seeds_done'] for row in table.make_table(sweep)['rows']] == [[0], [0]]


@pytest.mark.parametrize('value', [None, [], 'x', -1, math.inf, 10**400])
def test_a_cost_that_is_no_amount_is_counted_again(sweep, value):
  path = cost._path(sweep, 'interleaved')
  sha = cost._fingerprint(sweep.runs[0].config)
  document = {'config_sha256': sha, 'train_step_gflop': 1.5, 'ratio': 2.0, 'peak_temp_mb': 3}
  telemetry.write_json(path, document)
  assert table.make_table(sweep)['rows'][0]['cost']['train_step_gflop'] == 1.5
  telemetry.write_json(path, document | {'train_step_gflop': value})
  assert table.make_table(sweep)['rows'][0]['cost'] is None
  assert path.with_name('cost.json.damaged').is_file()


def test_a_speed_that_is_no_number_is_passed_over(sweep):
  with (sweep.runs[0].workdir / 'perf.jsonl').open('a') as file:
    for bad in ('"abc"', '[1]', 'null', '"inf"', '-1', '1' + '0' * 400):
      file.write(f'{{"step": 9, "train/images_per_second": {bad}}}\n')
  assert table.make_speed(sweep)['interleaved']['interleaved/seed0'] == 105.0


def test_markdown(sweep, monkeypatch):
  monkeypatch.setattr(
    table,
    'read_cost',
    lambda _, row: {'train_step_gflop': 1.2345} if row == 'interleaved' else None,
  )
  text = table.to_markdown(table.make_table(sweep))
  rows = [line for line in text.splitlines() if line.startswith('|')]
  assert [cell.strip() for cell in rows[0].split('|')[1:-1]] == [
    'split', 'known', 'checkerboard', 'regenerate', 'trained', 'GFLOP/step',
  ]  # fmt: skip
  cells = [cell.strip() for cell in rows[2].split('|')[1:-1]]
  # Seeds 0.5 and 0.7: sd = 0.1414, half the interval = 12.7062 * 0.1 = 1.2706.
  assert cells == ['interleaved', *['0.600 ± 0.141 [-0.671, 1.871]'] * 3, '1,234', '1.23']
  cells = [cell.strip() for cell in rows[3].split('|')[1:-1]]
  assert cells == ['contiguous (1 of 2 seeds)', *['0.600'] * 3, '1,234', '-']
  assert 'AUROC, video level, checkpoint chosen on validation data' in text
  assert "[95% interval of the mean, Student's t]" in text and '*Synthetic.*' in text
  assert "`data.train.methods=('swap', 'upsample')`" in text
  assert len({len(row) for row in rows}) == 1  # Aligned for those who read the source.


def test_wall_times_are_in_the_report_and_in_no_table(sweep):
  report = table.write_tables(sweep)
  header, _, first, second = (line for line in report.splitlines() if line.startswith('|'))
  assert 'images/s' in header
  # Medians of the second half: (100, 110) -> 105 and 107, of which the median is 106; and 106.
  assert first.split('|')[-2].strip() == '106' and second.split('|')[-2].strip() == '106'
  names = ('table.json', 'table.csv', 'table.md')
  before = {name: (sweep.workdir / name).read_bytes() for name in names}
  for run in sweep.runs[:3]:
    (run.workdir / 'perf.jsonl').write_text('{"step": 9, "train/images_per_second": 7.0}\n')
  assert table.write_tables(sweep) != report
  assert {name: (sweep.workdir / name).read_bytes() for name in names} == before
  assert not any(str(sweep.workdir).encode() in content for content in before.values())
  assert telemetry.read_json(sweep.workdir / 'speed.json')['contiguous'] == {
    'contiguous/seed0': 7.0
  }


def test_csv_holds_every_metric(sweep):
  table.write_tables(sweep)
  rows = pd.read_csv(sweep.workdir / 'table.csv')
  assert len(rows) == 2 * 4 * 2 * 3  # Rows, sets, levels, metrics.
  chosen = rows.query("row == 'interleaved' and set == 'known' and level == 'frame'")
  assert chosen['mean'].tolist() == pytest.approx([0.6] * 3) and chosen['n'].tolist() == [2] * 3
  assert set(rows['trainable_parameters']) == {1234}


@pytest.fixture
def scored(sweep):
  """The same with score tables of twelve videos, as noisy as the run's number."""
  videos = [f'v{i:02}' for i in range(12)]
  manifest = pd.DataFrame(
    {
      **{'path': videos, 'video_id': videos, 'dataset': 'toy', 'split': 'test', 'method': 'x'},
      'label': np.arange(12) % 2, 'frame': 0,
    }
  )  # fmt: skip
  for index, run in enumerate(sweep.runs[:3]):
    logits = np.random.default_rng(index).normal(manifest['label'], 1 + index)
    made = scores.score_table(manifest, np.arange(12), 1 / (1 + np.exp(-logits)), logits)
    for name in ('known', 'checkerboard', 'regenerate'):
      scores.write_scores(run.workdir / 'scores' / 'best' / f'{name}.parquet', made)
  return sweep


def test_a_difference_is_over_the_seeds_that_both_rows_have(scored):
  """Of the second row one seed of two has finished: it is held against the same seed."""
  text = fair_table.write_paired(scored, reference='interleaved', metric='auroc', level='video')
  one, other = telemetry.read_json(scored.workdir / 'paired.json')['rows']
  values = {}
  for run in scored.runs[:3]:
    found = scores.read_scores(run.workdir / 'scores' / 'best' / 'known.parquet')
    values[run.name] = binary.binary_metrics(found['label'], found['score'])['auroc']
  entries = [row['paired']['known']['video']['auroc'] for row in (one, other)]
  assert entries[0]['seeds'] == [values['interleaved/seed0'], values['interleaved/seed1']]
  assert 'difference' not in entries[0]
  difference = entries[1]['difference']
  assert entries[1]['seeds'] == [values['contiguous/seed0']]
  assert difference['value'] == values['contiguous/seed0'] - values['interleaved/seed0']
  assert difference['low'] < difference['value'] < difference['high']
  rows = [line for line in text.splitlines() if line.startswith('|')]
  assert 'known, minus interleaved' in rows[0] and 'chosen' not in rows[0]
  assert rows[3].startswith('| contiguous (1 of 2 seeds)') and 'Recipe' not in text
  assert (scored.workdir / 'paired.md').read_text() == text


def test_the_folder_of_a_sweep_is_refused_to_a_run(tmp_path, monkeypatch):
  monkeypatch.setattr(
    local, 'run_all', lambda runs, **_: [local.Failure(run, 'failed', 1) for run in runs]
  )
  for more in (['--write=commands'], []):
    folder = tmp_path / f'sweep{len(more)}'
    command.main(['split', f'--workdir={folder}', *more])
    with pytest.raises(UserError, match=r'is the folder of a sweep \(sweep\.json\)'):
      places.refuse_other(folder, places.TRAINING)
    places.refuse_other(folder, places.SWEEP)


def test_a_reference_that_is_no_row_is_refused_before_anything_runs(tmp_path, capsys):
  flags = [f'--workdir={tmp_path}/new', '--reference=none']
  assert command.main(['split', *flags]) == 2
  assert '--reference=none: it is none of interleaved, contiguous' in capsys.readouterr().err
