"""The crops of a table of pairs, out of a repository that holds more."""

import csv
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from masm_jax.data import manifest as manifest_lib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAIRS = {'train': ['ab', 'cd', 'ef'], 'val': ['gh'], 'test': ['ij']}


@pytest.fixture(scope='module')
def repository(tmp_path_factory):
  """A bare repository of eleven crops, and the table that names ten of them."""
  folder = tmp_path_factory.mktemp('dfdc')
  work, rng = folder / 'work', np.random.default_rng(0)
  (work / 'faces_224').mkdir(parents=True)
  for name in 'abcdefghijx':
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, 'JPEG')
    (work / 'faces_224' / f'{name}.jpg').write_bytes(buffer.getvalue())
  # A crop of train that is one of test, byte for byte.
  (work / 'faces_224' / 'd.jpg').write_bytes((work / 'faces_224' / 'j.jpg').read_bytes())
  git = ['git', '-C', str(work), '-c', 'user.name=a', '-c', 'user.email=a@b.c']
  for command in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'crops']):
    subprocess.run([*git, *command], check=True)
  with (folder / 'pairs.csv').open('w', newline='') as file:
    table = csv.writer(file)
    table.writerow(['split', 'real_video', 'fake_video'])
    for split, pairs in PAIRS.items():
      table.writerows([split, f'{real}.mp4', f'{fake}.mp4'] for real, fake in pairs)
  return folder


def run(folder, *more):
  return subprocess.run(
    [sys.executable, 'launch/dfdc_crops.py', f'--pairs={folder / "pairs.csv"}',
     f'--git={folder / "work" / ".git"}', '--commit=HEAD', f'--out={folder / "out"}', *more],
    cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    env={'PYTHONPATH': str(REPOSITORY), 'PATH': '/usr/bin:/bin'},
  )  # fmt: skip


def test_only_what_the_table_names_is_taken_and_no_split_shares_a_file(repository):
  result = run(repository)
  assert result.returncode == 0, result.stderr
  out = repository / 'out'
  assert sorted(path.stem for path in (out / 'crops').iterdir()) == list('abcdefghij')
  within = manifest_lib.load_manifest(out / 'within.parquet').table
  found = {split: set(rows['path']) for split, rows in within.groupby('split')}
  path = lambda names: {f'crops/{name}.jpg' for name in names}
  assert found == {'train': path('abef'), 'val': path('gh'), 'test': path('ij')}  # d is j.
  fake = within.set_index('path').loc['crops/f.jpg']
  assert (fake['label'], fake['source_video_id']) == (1, 'dfdc/real/e')
  unseen = manifest_lib.load_manifest(out / 'unseen.parquet').table
  kinds = {split: list(rows['method']) for split, rows in unseen.groupby('split')}
  assert kinds == {'train': ['real'] * 2, 'val': ['real', 'sbi'], 'test': ['real', 'fake']}
  pair = [np.asarray(Image.open(out / 'blended' / f'g_{kind}.png')) for kind in ('real', 'sbi')]
  assert 0 < np.mean(pair[0] != pair[1]) < 1
  again = run(repository)
  assert again.stdout == result.stdout  # The same bytes: their hashes are printed.


def test_a_crop_that_is_not_there_is_named(repository, tmp_path):
  (tmp_path / 'pairs.csv').write_text('split,real_video,fake_video\ntrain,a.mp4,zz.mp4\n')
  (tmp_path / 'work').symlink_to(repository / 'work')
  result = run(tmp_path)
  assert result.returncode == 1 and 'has no faces_224/zz.jpg at HEAD' in result.stderr
