"""The benchmark of the input pipeline runs, and writes what it prints."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.manifest import build_manifest, write_manifest

ROOT = pathlib.Path(__file__).parents[1]


def test_table_and_json(tmp_path):
  rows = []
  for i in range(4):
    Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f'{i}.jpg')
    rows.append({'path': f'{i}.jpg', 'label': i % 2, 'dataset': 'd', 'split': 'train',
                 'video_id': f'v{i}'})  # fmt: skip
  write_manifest(build_manifest(rows, tmp_path), tmp_path / 'm.csv')
  arguments = f'--manifest {tmp_path}/m.csv --presets gend sbi --batch_size 4 --steps 2 --repeats 1'
  command = [sys.executable, '-m', 'benchmarks.input_pipeline', *arguments.split()]
  done = subprocess.run(
    [*command, '--json', f'{tmp_path}/out.json'], cwd=ROOT, capture_output=True, text=True,
    check=True,
  )  # fmt: skip
  lines = [line.split() for line in done.stdout.splitlines()]
  printed = [line[:3] for line in lines if line[:1] in (['gend'], ['sbi'])]
  expected = [[p, s, '0'] for p in ('gend', 'sbi') for s in ('files', 'array_record')]
  assert printed == expected
  result = json.loads((tmp_path / 'out.json').read_text())
  assert [[row['preset'], row['storage'], str(row['workers'])] for row in result['rows']] == printed
  for row in result['rows']:
    assert row['images_per_second'] > 0 and row['per_core'] > 0
    assert row['cores_needed'] == pytest.approx(2000 / row['per_core'])
    assert row['waiting_share'] == pytest.approx(max(0, 1 - row['images_per_second'] / 2000))
