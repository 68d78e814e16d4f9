import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from masm_jax.data.__main__ import main
from masm_jax.data.check import find_problems, stats
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.errors import UserError


@pytest.fixture
def data(tmp_path):
  """A manifest of two splits without a fault; its folder is tmp_path."""
  rng = np.random.default_rng(0)
  rows = []
  for split, ids in (('train', ('000', '003')), ('test', ('100', '103'))):
    for label, video in ((0, ids[0]), (1, '_'.join(ids))):
      for frame in range(2):
        path = f'{split}/{video}/{frame}.png'
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / path)
        rows.append(
          {
            'path': path,
            'label': label,
            'dataset': 'FF',
            'split': split,
            'method': 'DF' if label else 'real',
            'video_id': f'FF/{label}/{video}',
            'source_video_id': f'FF/0/{ids[0]}',
            'identities': ';'.join(video.split('_')),
          }
        )
  return rows


def _written(rows, folder):
  write_manifest(build_manifest(rows, folder), folder / 'm.parquet')
  return str(folder / 'm.parquet')


def test_check_is_content_with_sound_data(data, tmp_path, capsys):
  assert main(['check', _written(data, tmp_path)]) == 0
  printed = capsys.readouterr().out
  assert '8 images of 4 videos, 4 real, 4 fake' in printed
  assert 'no problems found' in printed


def test_an_input_is_not_written_over(data, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  manifest = _written(data, tmp_path)
  (tmp_path / 'same.parquet').symlink_to('m.parquet')
  (tmp_path / 'metadata.csv').write_text('videoname,label,original\na.mp4,REAL,\n')
  before = [(tmp_path / name).read_bytes() for name in ('m.parquet', 'metadata.csv')]
  for words in (
    ['import', '--format', 'dfdc', '--input', 'metadata.csv', '--output', './metadata.csv'],
    ['split', manifest, '--output', 'm.parquet'],
    ['sample', manifest, '--output', 'same.parquet', '--frames', '1'],
    ['remap', manifest, '--output', 'm.parquet', '--from', 'a', '--to', 'b'],
  ):
    assert main(words) == 2
    assert 'would be written over' in capsys.readouterr().err
  assert before == [(tmp_path / name).read_bytes() for name in ('m.parquet', 'metadata.csv')]


@pytest.mark.parametrize('place', ['link/m.parquet', 'link/../m.parquet', 'm.parquet'])
def test_a_manifest_behind_a_link_finds_its_images(data, tmp_path, place, monkeypatch, capsys):
  """Up from a link is up from where it leads to, not back to the folder of the link."""
  (tmp_path / 'there' / 'inner').mkdir(parents=True)
  (tmp_path / 'here').mkdir()
  (tmp_path / 'here' / 'link').symlink_to(tmp_path / 'there' / 'inner')
  for label in ('real', 'fake'):
    shutil.copytree(tmp_path / 'train', tmp_path / 'there' / 'crops' / label)
  monkeypatch.chdir(tmp_path / 'here')
  words = ['--format', 'folder', '--input', 'link/../crops', '--split', 'test']
  assert main(['import', *words, '--output', place]) == 0
  assert len(load_manifest(place, check_files=True)) == 8
  write_manifest(build_manifest(data, tmp_path), place)
  assert len(load_manifest(place, check_files=True)) == 8


def test_check_finds_each_kind_of_problem(data, tmp_path, capsys):
  data[4]['identities'] = '100;003'  # 003 is a fake's second identity in train.
  data[6]['source_video_id'] = 'FF/0/000'
  shutil.copy(tmp_path / data[0]['path'], tmp_path / data[5]['path'])
  path = _written(data, tmp_path)
  (tmp_path / data[1]['path']).write_bytes(b'not an image')
  assert main(['check', path]) == 1
  problems = [line for line in capsys.readouterr().out.splitlines() if 'problem' in line]
  assert len(problems) == 5
  for line, start, case in zip(
    problems,
    (
      '1 files cannot be decoded',
      '1 files are not those',
      '1 identities stand',
      '1 source videos stand',
      '1 files with the same bytes stand',
    ),
    (
      'train/000/1.png: not an image',
      'train/000/1.png',
      'FF++:003 (test, train)',
      'FF/0/000 (test, train)',
      'test/100/1.png = train/000/0.png (test, train)',
    ),
    strict=True,
  ):
    assert line.startswith(f'problem: {start}'), line
    assert case in line


def test_identities_are_those_of_a_data_set_and_copies_within_a_split_are_fine(data, tmp_path):
  data[4]['identities'] = '100;003'
  data[4]['dataset'] = 'other'
  shutil.copy(tmp_path / data[0]['path'], tmp_path / data[1]['path'])
  calls = []
  assert find_problems(build_manifest(data, tmp_path), on_progress=calls.append) == []
  assert calls == list(range(1, 9))


def test_check_reports_what_the_loader_refuses(data, tmp_path, capsys):
  path = _written(data, tmp_path)
  (tmp_path / data[1]['path']).unlink()
  assert main(['check', path]) == 1
  assert 'problem: ' in capsys.readouterr().out
  assert main(['check', str(tmp_path / 'absent.parquet')]) == 2
  message = capsys.readouterr().err
  assert message.startswith(f'error: no manifest at {tmp_path}/absent.parquet; make one with ')
  assert 'data import` (from crops) or ' in message and 'preprocess` (from videos)' in message


def test_stats(data, tmp_path, capsys):
  (tmp_path / 'train/000/1.png').unlink()
  Image.new('RGB', (30, 20)).save(tmp_path / 'train/000/1.png')
  manifest = build_manifest(data, tmp_path)
  expected = pd.DataFrame(
    [
      ('FF', 'test', 'DF', 'fake', 1, 2, '8'),
      ('FF', 'test', 'real', 'real', 1, 2, '8'),
      ('FF', 'train', 'DF', 'fake', 1, 2, '8'),
      ('FF', 'train', 'real', 'real', 1, 2, '8-20'),
    ],
    columns=['dataset', 'split', 'method', 'label', 'videos', 'images', 'size_px'],
  )
  pd.testing.assert_frame_equal(stats(manifest), expected)
  assert main(['stats', _written(data, tmp_path)]) == 0
  assert '8-20' in capsys.readouterr().out


def test_import_folder_makes_a_manifest_that_loads_by_itself(tmp_path, capsys):
  for label in ('real', 'fake'):
    (tmp_path / 'faces' / label).mkdir(parents=True)
    Image.new('RGB', (4, 4), (len(label) * 9, 0, ord(label[0]))).save(
      tmp_path / 'faces' / label / 'a.png'
    )
  arguments = ['import', '--format', 'folder', '--input', str(tmp_path / 'faces')]
  output = ['--output', str(tmp_path / 'faces.csv')]
  assert main([*arguments, *output]) == 0  # Not divided: `split` does that.
  assert 'is not divided into splits: all of it is train now' in capsys.readouterr().out
  assert set(load_manifest(tmp_path / 'faces.csv').table['split']) == {'train'}
  assert main(['split', str(tmp_path / 'faces.csv'), '--output', str(tmp_path / 'two.csv'),
               '--shares', '0', '0.5', '0.5']) == 0  # fmt: skip
  assert sorted(load_manifest(tmp_path / 'two.csv').table['split']) == ['test', 'val']
  capsys.readouterr()
  assert main([*arguments, *output, '--split', 'test', '--dataset', 'mine']) == 0
  assert capsys.readouterr().out.startswith(f'wrote {tmp_path}/faces.csv: 2 images of 2 videos')
  manifest = load_manifest(tmp_path / 'faces.csv')
  assert manifest.table['path'].tolist() == ['faces/fake/a.png', 'faces/real/a.png']
  # Elsewhere, the paths start at the folder, and the command says so.
  elsewhere = tmp_path / 'out' / 'faces.parquet'
  assert main([*arguments, '--output', str(elsewhere), '--split', 'test']) == 0
  assert f'its paths start at {tmp_path}/faces' in capsys.readouterr().out
  assert len(load_manifest(elsewhere, root=tmp_path / 'faces')) == 2


def test_import_gend_lists_by_their_names(tmp_path, capsys):
  for split in ('train', 'val'):
    folder = tmp_path / 'FF' / 'real' / split
    folder.mkdir(parents=True)
    Image.new('RGB', (4, 4)).save(folder / '1.png')
    (tmp_path / f'{split}.txt').write_text(f'FF/real/{split}/1.png\n')
  lists = [str(tmp_path / f'{split}.txt') for split in ('train', 'val')]
  output = ['--output', str(tmp_path / 'm.parquet')]
  assert main(['import', '--format', 'gend', '--input', *lists, *output]) == 0
  assert load_manifest(tmp_path / 'm.parquet').table['split'].tolist() == ['train', 'val']
  assert 'its paths start' not in capsys.readouterr().out
  assert main(['import', '--format', 'gend', '--input', *lists, *output, '--split', 'test']) == 0
  assert set(load_manifest(tmp_path / 'm.parquet').table['split']) == {'test'}


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('import --format folder --input a b --output m.csv', 'takes one --input'),
    ('import --format folder --input a --output m.txt', 'a manifest is a .csv or .parquet'),
    ('import --format folder --input absent --output m.csv', 'no folder absent'),
    ('import --format gend --input l.txt --output m.csv', 'add --split'),
    ('import --format gend --input train.txt --output m.csv', 'cannot read the list'),
    ('import --format gend --input train.txt --output m.csv --dataset x', 'leave --dataset out'),
    ('stats absent.csv', 'no manifest at'),
    ('check absent.csv --threads 0', '--threads 0: give a whole number from 1 to 1024'),
    ('check absent.csv --threads 99999999999', '--threads'),
    ('split absent.csv --output m.csv --seed -1', '--seed'),
    (f'split absent.csv --output m.csv --seed {2**63}', '--seed'),
    ('sample absent.csv --output m.csv --frames 0', '--frames'),
    (f'sample absent.csv --output m.csv --frames {10**40}', 'a number of many digits'),
    ('synthetic --output x --size 1', '--size 1: give a whole number from 32 to 512'),
    ('synthetic --output x --size 99999999999', '--size'),
    ('synthetic --output x --identities 1000000000', 'from 1 to 100000'),
    (f'synthetic --output x --identities {10**25}', 'from 1 to 100000'),
    ('synthetic --output x --videos 1000000000', '--videos'),
    ('synthetic --output x --identities 100000 --videos 1000', 'at most 1000000 videos'),
    (f'synthetic --output x --frames {10**25}', '--frames'),
    ('synthetic --output x --processes 1000000', '--processes'),
  ],
)
def test_bad_input_gives_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert main(arguments.split()) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert message in error
  assert error.count('\n') == 1


def test_synthetic_makes_a_set_without_problems(tmp_path, capsys):
  out = tmp_path / 'set'
  sizes = '--size 32 --identities 10 --videos 1 --frames 1 --processes 1'
  assert main(['synthetic', '--output', str(out), *sizes.split()]) == 0
  assert 'say nothing about real deepfakes' in capsys.readouterr().out
  assert main(['check', str(out / 'manifest.parquet')]) == 0


def test_module_runs_as_a_command(tmp_path):
  command = [sys.executable, '-m', 'masm_jax.data', 'stats', str(tmp_path / 'absent.csv')]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith('error: no manifest at')


def test_a_manifest_remembers_where_its_paths_start(tmp_path, capsys):
  """Made elsewhere, it needs no --root in later commands; CSV has no place for it, and says so."""
  crops = tmp_path / 'crops'
  for label in ('real', 'fake'):
    (crops / label).mkdir(parents=True)
    Image.new('RGB', (4, 4), (len(label) * 9, 0, ord(label[0]))).save(crops / label / 'a.png')
  out = tmp_path / 'lists' / 'faces.parquet'
  arguments = ['import', '--format', 'folder', '--input', str(crops), '--split', 'test', '--output']
  assert main([*arguments, str(out)]) == 0
  assert f'its paths start at {crops}, which the file remembers' in capsys.readouterr().out
  assert main(['stats', str(out)]) == 0 and main(['check', str(out)]) == 0
  manifest = load_manifest(out)
  assert pathlib.Path(manifest.root).resolve() == crops.resolve()
  # Both moved together still fit; another root may be given; the hash does not know of it.
  shutil.move(tmp_path / 'lists', tmp_path / 'moved' / 'lists')
  shutil.move(crops, tmp_path / 'moved' / 'crops')
  moved = load_manifest(tmp_path / 'moved' / 'lists' / 'faces.parquet')
  assert moved.sha256 == manifest.sha256 and moved.images.read(0)
  with pytest.raises(UserError, match=r'no file|missing|not there'):
    load_manifest(tmp_path / 'moved' / 'lists' / 'faces.parquet', tmp_path)
  assert main(['sample', str(tmp_path / 'moved' / 'lists' / 'faces.parquet'), '--frames', '1',
               '--output', str(tmp_path / 'few.csv')]) == 0  # fmt: skip
  assert f'give --root={tmp_path}' in capsys.readouterr().out


def test_a_manifest_sends_nobody_to_strange_machines(tmp_path):
  table = pa.table({'path': ['a.png'], 'label': [0], 'dataset': ['d'], 'split': ['test'],
                    'video_id': ['v']})  # fmt: skip
  for root in ('ftp://127.0.0.1/x', 'gs://bucket/x::zip://y'):
    named = table.replace_schema_metadata({b'masm_jax.root': root.encode()})
    pa.parquet.write_table(named, tmp_path / 'm.parquet')
    with pytest.raises(UserError, match=f'names .{root}. as its root: give --root'):
      load_manifest(tmp_path / 'm.parquet')
