"""A fair comparison: equal searches on validation data alone, then seeds, then paired intervals."""

import pathlib

import jax
import numpy as np
import pytest

from masm_jax import telemetry
from masm_jax.methods import make_method
from masm_jax.metrics import binary, scores, summary
from masm_jax.metrics.clusters import make_clusters
from masm_jax.sweep import __main__ as sweep
from masm_jax.sweep import fair, local, plan, search
from masm_jax.sweep.plan import Progress
from masm_jax.training.loop import train

# ml_collections loads config files by a function that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROWS = """
BASE = 'configs/demo.py'
ROWS = {
  'linear': {'fields': {'method': 'linear'}, 'rates': (1e-4, 1e-2),
             'own': {'head.label_smoothing': (0.0, 0.1)}},
  'smooth': {'fields': {'method': 'linear'}, 'rates': (1e-3, 1e-1),
             'own': {'optim.weight_decay': (5e-4, 0.0)}},
  'longer': {'fields': {'method': 'linear'}, 'rates': (1e-4, 1e-3, 1e-2), 'own': {}},
  'tuned': {'fields': {'method': 'linear'}, 'rates': (1e-4, 1e-3, 1e-2, 1e-1), 'own': {}},
  'other': {'fields': {'method': 'linear', 'train.batch_size': 16}, 'rates': (1e-4, 1e-3, 1e-2),
            'own': {}},
}
"""


@pytest.fixture
def command(portraits, tmp_path, monkeypatch):
  """The command on a small set; its runs train in this process, and are counted."""
  monkeypatch.chdir(REPOSITORY)
  (tmp_path / 'rows.py').write_text(ROWS)
  trained = []

  def run_all(runs, *, jobs, say):
    del jobs, say
    for run in runs:
      if run.progress() is not Progress.FINISHED:
        with jax.numpy_dtype_promotion('standard'):
          assert train(run.config, run.workdir) == 0
        names = [name for name, spec in run.config.data.tests.items() if spec.manifest]
        trained.append((run.name, tuple(names)))
    return []

  monkeypatch.setattr(local, 'run_all', run_all)
  monkeypatch.setattr('masm_jax.sweep.cost.count_costs', lambda *_, **__: None)
  fields = {
    **{f'data.{name}.manifest': portraits for name in ('train', 'val', 'tests.known')},
    **{f'data.tests.{name}.manifest': '' for name in ('checkerboard', 'poisson', 'regenerate')},
    'train.batch_size': 8, 'train.duration': '4 steps', 'eval.every': '4 steps',
    'eval.batch_size': 16, 'optim.warmup': '0 steps',
  }  # fmt: skip

  def command(*more):
    flags = [f'--config.{name}={value}' for name, value in fields.items()
             if not any(flag.startswith(f'--config.{name}=') for flag in more)]  # fmt: skip
    status = sweep.main(['fair', f'--sweeps={tmp_path / "rows.py"}', f'--workdir={tmp_path}/fair',
                         '--reference=linear', *flags, *more])  # fmt: skip
    done, trained[:] = list(trained), []
    return status, done

  return command


def test_it_searches_on_validation_and_tests_the_choice_alone(command, tmp_path):
  status, done = command('--methods=linear,smooth', '--seeds=0,1')
  assert status == 0
  searched = [name for name, tests in done if not tests]
  assert len(searched) == 2 * 3  # Two rates, then the other value of the row's own field.
  document = telemetry.read_json(tmp_path / 'fair' / 'search.json')
  chosen = {}
  for row in document['rows']:
    assert len(row['trials']) == 3
    best = max(row['trials'], key=lambda trial: trial['validation'])
    assert row['chosen'] == best['values']
    rate = max(row['trials'][:2], key=lambda trial: trial['validation'])['values']
    assert row['trials'][2]['values'][search.RATE] == rate[search.RATE]
    chosen[row['row']] = row['chosen']
  # The choice's own run is the first seed's: it scores the test sets without a new training.
  tested = [name for name, tests in done if tests]
  assert len(tested) == 4 and {tests for _, tests in done} == {(), ('known',)}
  made = telemetry.read_json(tmp_path / 'fair' / 'fair.json')
  assert {row['row']: row['chosen'] for row in made['rows']} == chosen
  assert [row['seeds_done'] for row in made['rows']] == [[0, 1]] * 2
  markdown = (tmp_path / 'fair' / 'fair.md').read_text()
  assert 'known, minus linear' in markdown and 'images/s' not in markdown
  assert markdown.count('(an end of its grid)') == 2  # Of two rates, either is one.
  check_paired(tmp_path / 'fair', made)
  assert command('--methods=linear,smooth', '--seeds=0,1') == (0, [])  # All of it is there.
  assert (tmp_path / 'fair' / 'fair.md').read_text() == markdown


def check_paired(folder, made):
  """The paired difference, computed anew from the scores of both rows and seeds."""
  entry = made['rows'][1]['paired']['known']['video']['auroc']
  points, draws = [], []
  for row in made['rows']:
    values = ','.join(f'{name}={value}' for name, value in zip(
      ('lr', {'linear': 'label_smoothing', 'smooth': 'weight_decay'}[row['row']]),
      row['chosen'].values(), strict=True))  # fmt: skip
    folders = [folder / 'search' / 'runs' / f'{row["row"]},{values}' / 'seed0',
               folder / 'runs' / row['row'] / 'seed1']  # fmt: skip
    tables = [scores.read_scores(run / 'scores' / 'best' / 'known.parquet') for run in folders]
    clusters = make_clusters(tables[0])
    videos = [binary.video_scores(table, 'mean') for table in tables]
    points.append(np.mean([binary.binary_metrics(v['label'], v['score'])['auroc'] for v in videos]))
    drawn = [summary.draw_metrics(v, clusters, summary.Settings(), np.nan)['auroc'] for v in videos]
    draws.append(np.mean(drawn, axis=0))
  difference = entry['difference']
  assert difference['value'] == pytest.approx(points[1] - points[0], abs=1e-12)
  low, high = np.nanquantile(draws[1] - draws[0], [0.025, 0.975])
  assert (difference['low'], difference['high']) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--methods=linear,tuned'], 'the searches differ in length (linear 3, tuned 4 runs)'),
    (['--methods=linear,nothing'], "no row 'nothing'; there are linear, smooth"),
    (['--methods=smooth,longer'], '--reference=linear: it is none of smooth, longer'),
    (['--methods=linear', '--config.optim.learning_rate=1'], "the search of 'linear' sets it"),
    (['--methods=linear,longer', '--table'], '--write, --only and --table are not for it'),
    (['--methods=linear', '--recipe=published', '--seeds=0,0'], '--seeds=0,0: give different'),
  ],
)
def test_what_would_be_unfair_or_meaningless_is_refused(command, flags, message, capsys):
  assert command(*flags) == (2, [])
  assert message in capsys.readouterr().err


def test_rows_with_other_batches_are_not_equal(command, capsys):
  flags = ['--methods=linear,other', '--config.train.batch_size=8']
  status, done = command(*flags)
  assert (status, done) == (2, [])
  assert "--config.train.batch_size: the row 'other" in capsys.readouterr().err


@pytest.mark.parametrize('protocol', ['within', 'unseen', 'across'])
def test_the_shipped_rows_are_searched_alike_and_resolve_on_every_protocol(
  protocol, tmp_path, monkeypatch
):
  monkeypatch.chdir(REPOSITORY)
  module = plan.load_sweeps('fair', needed=('ROWS', 'BASE'))
  rows = search.load_rows(module, [], {})
  assert {row.length() for row in rows} == {6}
  for recipe in ('equal', 'published'):
    make = fair.maker(f'configs/protocols.py:protocol={protocol}', {}, recipe=recipe,
                      more_flags=(), about='')  # fmt: skip
    searched = {'equal': lambda row: row.start(), 'published': lambda row: {}}[recipe]
    sweep = make({row.name: {**row.fields, **searched(row)} for row in rows},
                 workdir=tmp_path, seeds=(0,), with_tests=True)  # fmt: skip
    assert [run.config.method for run in sweep.runs] == [row.fields['method'] for row in rows]
    for run, row in zip(sweep.runs, rows, strict=True):
      make_method(run.config)
      for field, values in row.own.items() if recipe == 'equal' else ():
        for value in values[1:]:  # A trial that fails would leave the row fewer than others have.
          run.config.update_from_flattened_dict({field: value})
          make_method(run.config)
  sizes = {run.row: run.config.train.batch_size for run in sweep.runs}
  assert sizes['gend'] == 128 and sizes['masm'] == 32  # Published recipes are not equal.
