import os

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from configs import cross_eval
from masm_jax.data.__main__ import main
from masm_jax.data.importers import names
from masm_jax.data.importers.folder import import_folder
from masm_jax.data.importers.gend_lists import import_gend_lists, split_of_list
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError


def _images(root, *paths):
  for i, path in enumerate(paths):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(root / path)


def _column(manifest, column):
  return dict(zip(manifest.table['path'], manifest.table[column], strict=True))


@pytest.mark.parametrize(
  ('video', 'identities', 'target'),
  [
    ('000', ['000'], ''),
    ('000_003', ['000', '003'], '000'),
    ('802_885', ['802', '885'], '802'),
    ('id0_0000', ['id0'], ''),
    ('id0_id16_0003', ['id0', 'id16'], 'id0_0003'),
    ('00000', ['00000'], ''),
    ('interview', [], ''),
    ('id0', [], ''),
    ('01__hugging_happy', ['01'], ''),
    ('01_03__hugging_happy__ISF9SP4G', ['01', '03'], '01__hugging_happy'),
    ('000_M101', ['000', 'M101'], '000'),
    ('0000_fake', ['0000'], '0000'),
  ],
)
def test_names_of_videos(video, identities, target):
  assert names.identities(video) == identities
  assert names.target_video(video) == target


def test_names_of_unknown_origin_and_families_of_data_sets():
  assert names.suggested_identities('802_885') == ['802', '885']
  assert names.suggested_identities('802') == ['802']
  assert names.suggested_identities('00012') == names.suggested_identities('interview') == []
  for family, datasets in {
    'FF++': ('FF', 'FaceForensics++', 'FaceShifter', 'DF40-ff', 'DeeperForensics-1.0', 'FF-DF'),
    'Celeb-DF': ('CDFv2', 'Celeb-DF-v1', 'CelebDFv2', 'DF40-cdf'),
    'DFDC': ('DFDC',),
  }.items():
    assert {names.identity_scope(dataset) for dataset in datasets} == {family}


def test_families_know_the_names_of_the_suites_sets():
  sets = {
    name
    for protocol in ('within', 'cross_dataset', 'cross_manipulation')
    for name in cross_eval.get_config(f'protocol={protocol}').sets
  }
  families = {
    'FF++': {'ffpp_c23', 'ffpp_c40', 'ffpp_DF', 'ffpp_F2F', 'ffpp_FS', 'ffpp_NT', 'dfo'}
    | {'faceshifter'},
    'Celeb-DF': {'cdfv1', 'cdfv2', 'cdfv3'},
  }
  for family, members in families.items():
    assert {name for name in sets if names.identity_scope(name) == family} == members
  alone = sets - families['FF++'] - families['Celeb-DF']
  assert 'ffiw' in alone and all(names.identity_scope(name) == name for name in alone)


def test_frame_numbers():
  assert [names.frame_number(stem) for stem in ('012', 'frame_7', 'x', 'a1b22')] == [12, 7, 0, 22]


def test_gend_lists_of_real_crops(shared_data, tmp_path):
  root = shared_data / 'real_crops'
  for split, dataset in (('train', 'FF'), ('test', 'CDFv2')):
    found = sorted(str(path) for path in (root / dataset).rglob('*.png'))
    # One list of absolute, one of relative paths.
    lines = found if split == 'train' else [os.path.relpath(path, root) for path in found]
    (tmp_path / f'{dataset}_{split}.txt').write_text('\n'.join(lines[::-1]))
  lists = {'train': [tmp_path / 'FF_train.txt'], 'test': [tmp_path / 'CDFv2_test.txt']}
  manifest = import_gend_lists(lists, root)
  rows = manifest.table.groupby('video_id').agg('first')
  assert len(manifest) == 32
  assert manifest.table.groupby('video_id').size().tolist() == [4] * 8
  real, swap = 'CDFv2/Celeb-real/id0_0000', 'CDFv2/Celeb-synthesis/id0_id1_0000'
  expected = {
    real: (0, 'CDFv2', 'test', 'real', real, 'id0'),
    swap: (1, 'CDFv2', 'test', 'Celeb-synthesis', real, 'id0;id1'),
    'CDFv2/YouTube-real/00000': (0, 'CDFv2', 'test', 'real', 'CDFv2/YouTube-real/00000', '00000'),
    'FF/real/000': (0, 'FF', 'train', 'real', 'FF/real/000', '000'),
  }
  for method in ('DF', 'F2F', 'FS', 'NT'):
    expected[f'FF/{method}/000_003'] = (1, 'FF', 'train', method, 'FF/real/000', '000;003')
  columns = ['label', 'dataset', 'split', 'method', 'source_video_id', 'identities']
  assert {video: tuple(row) for video, row in rows[columns].iterrows()} == expected
  assert _column(manifest, 'frame')['CDFv2/YouTube-real/00000/043.png'] == 43
  assert set(manifest.table['width']) == {256}


def test_gend_twin_of_the_real_crops(tmp_path):
  _images(
    tmp_path,
    'FF/real/000/000.png',
    'FF/DF/000_003/012.png',
    'FF/DF/001_002/012.png',
    'C/Celeb-REAL/id0_0000/3.png',
    'C/Celeb-synthesis/id0_id1_0000/3.png',
    'C/Celeb-synthesis/id5_id1_0009/3.png',
  )
  (tmp_path / 'a.txt').write_text(
    '\ufeff# comment\nFF/real/000/000.png\r\n\n  FF\\DF\\000_003\\012.png\nFF/DF/001_002/012.png\n'
    f'{tmp_path}/C/Celeb-REAL/id0_0000/3.png\n./C/Celeb-synthesis/id0_id1_0000/3.png\n'
    'C/Celeb-synthesis/id5_id1_0009/3.png'
  )
  manifest = import_gend_lists({'val': [tmp_path / 'a.txt']}, tmp_path)
  assert manifest.labels.tolist() == [0, 1, 1, 1, 1, 0]
  assert _column(manifest, 'source_video_id') == {
    'C/Celeb-REAL/id0_0000/3.png': 'C/Celeb-REAL/id0_0000',
    'C/Celeb-synthesis/id0_id1_0000/3.png': 'C/Celeb-REAL/id0_0000',
    'C/Celeb-synthesis/id5_id1_0009/3.png': 'C/Celeb-real/id5_0009',
    'FF/DF/000_003/012.png': 'FF/real/000',
    'FF/DF/001_002/012.png': 'FF/real/001',
    'FF/real/000/000.png': 'FF/real/000',
  }


def test_gend_root_inside_the_data_set(tmp_path):
  _images(tmp_path, 'FF/real/000/000.png')
  (tmp_path / 'l.txt').write_text('real/000/000.png')
  table = import_gend_lists({'val': [tmp_path / 'l.txt']}, tmp_path / 'FF').table
  assert (table['path'][0], table['video_id'][0]) == ('real/000/000.png', 'FF/real/000')


def test_only_the_source_folder_decides_on_the_label(tmp_path):
  root = tmp_path / 'real_crops'
  _images(root, 'real/DF/real/real.png')
  (root / 'l.txt').write_text('real/DF/real/real.png')
  assert import_gend_lists({'val': [root / 'l.txt']}, root).labels.tolist() == [1]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('FF/DF/1/9.png', 'missing file'),
    ('../x/real/1/9.png', r'l.txt:1: .* leaves the root'),
    ('/x/FF/real/1/9.png', r'l.txt:1: .* leaves the root'),
    ('', 'no image in'),
    ('FF/real/1/0.png\nFF/real/1/0.png', 'duplicate path'),
  ],
)
def test_gend_bad_lines(tmp_path, line, message):
  _images(tmp_path, 'FF/real/1/0.png')
  (tmp_path / 'l.txt').write_text(line)
  with pytest.raises(UserError, match=message):
    import_gend_lists({'val': [tmp_path / 'l.txt']}, tmp_path)


def test_gend_list_that_cannot_be_read(tmp_path):
  with pytest.raises(UserError, match=r'cannot read the list .*No such file'):
    import_gend_lists({'val': [tmp_path / 'l.txt']}, tmp_path)
  (tmp_path / 'l.txt').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(UserError, match='not UTF-8'):
    import_gend_lists({'val': [tmp_path / 'l.txt']}, tmp_path)


@pytest.mark.parametrize(
  ('name', 'split'),
  [('train.txt', 'train'), ('FF_Test.txt', 'test'), ('a-val2.txt', 'val'), ('validation', 'val')],
)
def test_split_of_list(name, split):
  assert split_of_list(f'lists/train/{name}') == split


@pytest.mark.parametrize('name', ['FF.txt', 'train_test.txt', 'latest.txt', 'constraint.txt'])
def test_list_names_without_one_split(name):
  with pytest.raises(UserError, match='add --split'):
    split_of_list(name)


def test_folder_with_splits(tmp_path):
  _images(
    tmp_path / 'set',
    'train/Real/v1/f001.PNG',
    'train/Real/v1/f002.jpg',
    'train/fake/v1/f001.png',
    'train/fake/DF/v1/f001.png',
    'train/fake/flat.png',
    'valid/real/some name é.webp',
    'TEST/fake/a/b/c/9.bmp',
  )
  (tmp_path / 'set/train/fake/notes.txt').write_text('x')
  (tmp_path / 'set/train/fake/.hidden.png').write_text('x')
  (tmp_path / 'set/masks').mkdir()
  table = import_folder(tmp_path / 'set').table
  columns = ['path', 'label', 'split', 'method', 'video_id', 'frame']
  assert [tuple(row) for row in table[columns].to_numpy().tolist()] == [
    ('TEST/fake/a/b/c/9.bmp', 1, 'test', 'a', 'set/TEST/fake/a/b/c', 9),
    ('train/Real/v1/f001.PNG', 0, 'train', 'real', 'set/train/Real/v1', 1),
    ('train/Real/v1/f002.jpg', 0, 'train', 'real', 'set/train/Real/v1', 2),
    ('train/fake/DF/v1/f001.png', 1, 'train', 'DF', 'set/train/fake/DF/v1', 1),
    ('train/fake/flat.png', 1, 'train', 'fake', 'set/train/fake/flat.png', 0),
    ('train/fake/v1/f001.png', 1, 'train', 'fake', 'set/train/fake/v1', 1),
    ('valid/real/some name é.webp', 0, 'val', 'real', 'set/valid/real/some name é.webp', 0),
  ]
  assert set(table['dataset']) == {'set'}


def test_folder_without_splits(tmp_path):
  _images(tmp_path, 'set/real/a.png', 'set/fake/a.png')
  manifest = import_folder(tmp_path / 'set', root=tmp_path, split='test', dataset='mine')
  assert manifest.table['path'].tolist() == ['set/fake/a.png', 'set/real/a.png']
  assert manifest.labels.tolist() == [1, 0]
  assert set(manifest.table['split']) == {'test'}
  assert manifest.video_ids.tolist() == ['mine/fake/a.png', 'mine/real/a.png']


def test_folder_follows_links_but_not_in_circles(tmp_path):
  _images(tmp_path, 'elsewhere/v/1.png', 'set/fake/w/1.png')
  (tmp_path / 'set/real').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'set/fake/w/again').symlink_to(tmp_path / 'set/fake')
  manifest = import_folder(tmp_path / 'set', split='train')
  assert manifest.table['path'].tolist() == ['fake/w/1.png', 'real/v/1.png']


def test_folder_errors(tmp_path):
  with pytest.raises(UserError, match='no folder'):
    import_folder(tmp_path / 'nowhere')
  with pytest.raises(UserError, match=r'needs either real/ and fake/.*it has nothing'):
    import_folder(tmp_path)
  _images(tmp_path, 'flat/real/a.png', 'both/train/real/a.png', 'both/real/a.png')
  with pytest.raises(UserError, match='add --split'):
    import_folder(tmp_path / 'flat')
  with pytest.raises(UserError, match='it has real, train'):
    import_folder(tmp_path / 'both')
  (tmp_path / 'empty/train/real').mkdir(parents=True)
  with pytest.raises(UserError, match='no image in its real and fake folders'):
    import_folder(tmp_path / 'empty')
  with pytest.raises(UserError, match='leave --split out'):
    import_folder(tmp_path / 'empty', split='train')
  with pytest.raises(UserError, match='leaves the root'):
    import_folder(tmp_path / 'flat', split='train', root=tmp_path / 'both')


@pytest.mark.parametrize(
  'arguments',
  [
    'folder --input {} --split train',
    'gend --input {}/train.txt --root {}',
    'dfdc --input {}/metadata.json --split train',
  ],
)
def test_remote_folders_give_what_local_ones_do(tmp_path, arguments):
  local = tmp_path / 'set'
  _images(local, 'real/000/0.png', 'fake/DF/000_003/7.png', 'fake/.hidden/1.png', 'fake/lone.png')
  lines = f'{local}/real/000/0.png\nfake/DF/000_003/7.png\n'
  (local / 'metadata.json').write_text('{"000.mp4": {"label": "REAL"}}')
  (local / 'train.txt').write_text(lines)
  memory = fsspec.filesystem('memory')
  for path in local.rglob('*.*'):
    if path.is_file():
      memory.pipe(f'/raw/set/{path.relative_to(local)}', path.read_bytes())
  memory.pipe('/raw/set/train.txt', lines.replace(str(local), 'memory://raw/set').encode())
  tables = []
  for root in (str(local), 'memory://raw/set'):
    words = arguments.replace('{}', root).split()
    assert main(['import', '--format', *words, '--output', f'{root}/m.parquet']) == 0
    tables.append(load_manifest(f'{root}/m.parquet').table)
  pd.testing.assert_frame_equal(*tables)
  assert 0 < len(tables[0]) < 4
  memory.store.clear()


def test_links_in_circles_and_to_nowhere(tmp_path):
  _images(tmp_path, 'real/v/0.png', 'fake/v/0.png')
  (tmp_path / 'fake/v/again').symlink_to(tmp_path / 'fake')
  assert len(import_folder(tmp_path, split='train')) == 2
  (tmp_path / 'fake/v/1.png').symlink_to(tmp_path / 'gone.png')
  with pytest.raises(UserError, match=r'missing file .*fake/v/1.png'):
    import_folder(tmp_path, split='train')
