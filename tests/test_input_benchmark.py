"""The benchmark of the input pipeline runs, and writes what it prints."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.manifest import build_manifest, write_manifest

SCRIPT = pathlib.Path(__file__).parents[1] / 'benchmarks' / 'input_pipeline.py'


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of tfds' own parts.
def test_table_and_json(tmp_path, monkeypatch, capsys):
  rows = []
  for i in range(4):
    Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f'{i}.jpg')
    rows.append({'path': f'{i}.jpg', 'label': i % 2, 'dataset': 'd', 'split': 'train',
                 'video_id': f'v{i}'})  # fmt: skip
  write_manifest(build_manifest(rows, tmp_path), tmp_path / 'm.csv')
  spec = importlib.util.spec_from_file_location('input_pipeline', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  arguments = f'--manifest {tmp_path}/m.csv --presets gend sbi --batch_size 4 --steps 2 --repeats 1'
  monkeypatch.setattr(sys, 'argv', ['b', *arguments.split(), '--json', f'{tmp_path}/out.json'])
  module.main()
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  printed = [line[:3] for line in lines if line[:1] in (['gend'], ['sbi'])]
  expected = [[p, s, '0'] for p in ('gend', 'sbi') for s in ('files', 'array_record')]
  assert printed == expected
  result = json.loads((tmp_path / 'out.json').read_text())
  assert [[row['preset'], row['storage'], str(row['workers'])] for row in result['rows']] == printed
  for row in result['rows']:
    assert row['images_per_second'] > 0 and row['per_core'] > 0
    assert row['cores_needed'] == pytest.approx(2000 / row['per_core'])
    assert row['waiting_share'] == pytest.approx(max(0, 1 - row['images_per_second'] / 2000))
