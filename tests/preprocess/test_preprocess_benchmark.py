"""The benchmark of preprocessing runs, and its two programs do the same work."""

import importlib
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
benchmark = importlib.import_module('benchmarks.preprocess')


def test_table_and_json(tmp_path, yunet, capsys):
  path = tmp_path / 'metrics.json'
  benchmark.main(
    ['--clips=1', '--clip_frames=12', '--frames=3', f'--yunet={yunet}', f'--json={path}']
  )
  assert '1 videos, 3 frames of each' in capsys.readouterr().out
  before, now = json.loads(path.read_text())['rows']
  assert (before['program'], now['program']) == ('before', 'now')
  for row in (before, now):
    assert row['crops'] == 3
    assert all(row[stage] > 0 for stage in benchmark.STAGES)
    assert sum(row[stage] for stage in benchmark.STAGES) == pytest.approx(row['CPU s'])
    assert row['videos/s/core'] == pytest.approx(1 / row['CPU s'])
  assert before['kB/crop'] != now['kB/crop']


def test_a_stage_s_time_is_its_own(monkeypatch):
  clock = iter(range(100))
  monkeypatch.setattr(benchmark.time, 'process_time', lambda: next(clock))
  stages = benchmark.Stages()
  inner = stages.timed('align', lambda: None)
  stages.timed('look', inner)()
  stages.switch('rest')
  assert stages.seconds['align'] == 1 and stages.seconds['look'] == 2
