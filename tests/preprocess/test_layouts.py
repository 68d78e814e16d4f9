"""Every raw layout in miniature: from raw files to a training batch, and the errors on the way."""

import importlib.util
import json
import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from masm_jax.data.manifest import load_manifest
from masm_jax.data.pipeline import train_iterator
from masm_jax.data.samplers import make_sampler
from masm_jax.errors import UserError
from masm_jax.preprocess.__main__ import main
from masm_jax.preprocess.layouts import LAYOUTS, Options, list_videos
from masm_jax.preprocess.layouts.faceforensics import pair_splits

_SPEC = importlib.util.spec_from_file_location(
  'raw_layouts', pathlib.Path(__file__).with_name('raw_layouts.py')
)
raw_layouts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(raw_layouts)
MINIATURES = raw_layouts.MINIATURES
ORIGINALS = 'original_sequences'


@pytest.fixture
def put(tmp_path, clips, portrait):
  """Puts a clip, a folder of four frames or an image below tmp_path/raw."""

  def put(path, kind='video'):
    target = tmp_path / 'raw' / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == 'video':
      shutil.copy(clips['ok'], target)
    elif kind == 'image':
      cv2.imwrite(os.fspath(target), portrait[..., ::-1])
    else:
      target.mkdir()
      for number in (0, 10, 20, 30):
        cv2.imwrite(os.fspath(target / f'{number:03d}.png'), portrait[..., ::-1])

  return put


def run(root, output, layout, detector, *options):
  command = ['--input', root, '--layout', layout, '--output', output, '--processes', 0]
  command += ['--frames', 4, '--size', 32, *detector, *options]
  return main([str(word) for word in command])


@pytest.fixture
def detector(settings):
  return ('--yunet', settings.model) if settings.model else ('--detector', 'haar')


def test_every_layout_has_its_miniature():
  assert [miniature.layout for miniature in MINIATURES] == list(LAYOUTS)


@pytest.mark.parametrize('miniature', MINIATURES, ids=lambda miniature: miniature.layout)
def test_from_raw_files_to_a_training_batch(miniature, tmp_path, put, detector, caplog):
  root, output = tmp_path / 'raw', tmp_path / 'crops'
  root.mkdir()
  miniature.build(root, put)
  assert run(root, output, miniature.layout, detector, *miniature.options) == 0

  manifest = load_manifest(output / 'manifest.parquet')
  videos = manifest.table.groupby('video_id').agg('first')
  columns = ['label', 'split', 'method', 'compression', 'source_video_id', 'identities']
  rows = {row[0]: row[1:] for row in videos[columns].itertuples(name=None)}
  assert rows == miniature.rows
  assert set(manifest.table['width']) == set(manifest.table['height']) == {32}
  assert manifest.table['face_detected'].all()
  counts = manifest.table.groupby('video_id').size()
  single = [name for name in rows if name.endswith('photo')]
  assert (counts.drop(single) == 4).all() and (counts[single] == 1).all()

  lines = [json.loads(line) for line in (output / 'outcomes.jsonl').read_text().splitlines()]
  assert [line['video_id'] for line in lines] == sorted(rows)
  assert {line['outcome'] for line in lines} == {'ok'}

  train = manifest.select(split='train')
  batches = train_iterator(
    train, batch_size=4, image_size=32, augment='gend', seed=0, num_steps=1,
    sampler=make_sampler('balanced', train.table, seed=0),
  )  # fmt: skip
  batch = next(batches)
  assert batch['image'].shape == (4, 32, 32, 3) and batch['image'].dtype == np.uint8
  assert batch['label'].tolist() == [0, 1, 0, 1]
  assert batch['image'].std() > 20


def listed(root, layout, **options):
  return {video.video_id: video for video in list_videos(root, layout, Options(**options))}


def test_masks_are_found(tmp_path, put):
  root = tmp_path / 'raw'
  for miniature in MINIATURES:
    if miniature.layout in ('ffpp', 'ffiw'):
      miniature.build(root / miniature.layout, lambda p, k, m=miniature: put(f'{m.layout}/{p}', k))
  masks = {
    name: v.mask for name, v in listed(root / 'ffpp', 'ffpp', split='test').items() if v.mask
  }
  assert masks == {
    'FaceForensics++/DF/c23/000_003': 'manipulated_sequences/Deepfakes/masks/videos/000_003.mp4'
  }
  masks = {name: v.mask for name, v in listed(root / 'ffiw', 'ffiw').items() if v.mask}
  assert masks == {'FFIW/fake/train/train_00000003': 'target_mask/train/train_00000003.mp4'}


def test_masks_with_the_paths_of_the_videos(tmp_path, put):
  put('real/a.mp4')
  put('fake/b.mp4')
  put('masks/fake/b.mkv')
  (tmp_path / 'raw' / 'masks').rename(tmp_path / 'masks')
  found = listed(tmp_path / 'raw', 'folder', split='test', masks=tmp_path / 'masks')
  assert {name: v.mask for name, v in found.items()} == {
    'raw/real/a': '', 'raw/fake/b': 'fake/b.mkv'
  }  # fmt: skip


def test_one_compression_alone(tmp_path, put):
  root = tmp_path / 'raw'
  MINIATURES[0].build(root, put)
  found = listed(root, 'ffpp', split='test', compressions=('c40',))
  assert {video.compression for video in found.values()} == {'c40'} and len(found) == 2


def test_official_pair_lists(tmp_path):
  (tmp_path / 'train.json').write_text('[["071", "054"], ["087", "081"]]')
  (tmp_path / 'test.json').write_text('[["953", "974"]]')
  splits = pair_splits(tmp_path)
  assert splits['054'] == splits['071_054'] == splits['054_071'] == 'train'
  assert splits['974_953'] == 'test' and len(splits) == 12
  (tmp_path / 'val.json').write_text('{"a": 1}')
  with pytest.raises(UserError, match='not a list of pairs'):
    pair_splits(tmp_path)


def test_all_videos_of_one_label(tmp_path, put):
  put('deep/down/a.mp4')
  put('b.mp4')
  found = listed(tmp_path / 'raw', 'folder', split='test', label=1, dataset='Own')
  assert {name: (v.label, v.method) for name, v in found.items()} == {
    'Own/deep/down/a': (1, 'deep'), 'Own/fake/b': (1, 'fake')
  }  # fmt: skip


@pytest.mark.parametrize(
  ('layout', 'paths', 'options', 'message'),
  [
    ('ffpp', ['a.mp4'], {}, 'as FaceForensics'),
    ('ffpp', [f'{ORIGINALS}/youtube/c23/videos/000.mp4'], {}, 'no train.json.*--lists.*--split'),
    ('ffpp', [f'{ORIGINALS}/actors/c23/videos/01__a.mp4'], {}, 'no official split; add --split'),
    ('dfd', ['a.mp4'], {'split': 'test'}, 'DFD_original'),
    ('deeperforensics', ['a.mp4'], {}, 'as DeeperForensics'),
    ('deeperforensics', ['manipulated_videos/end_to_end/000_M101.mp4'], {}, 'no list in'),
    ('celebdf_v2', ['Celeb-real/id0_0000.mp4'], {}, 'no List_of_testing_videos.txt'),
    ('celebdf_v2', ['a.mp4'], {}, 'as Celeb-DF'),
    ('dfdc', ['a.mp4'], {}, 'no metadata.json'),
    ('dfdcp', ['a.mp4'], {}, 'cannot read .*dataset.json'),
    ('uadfv', ['real/0000.mp4'], {}, 'no official split'),
    ('wilddeepfake', ['a.mp4'], {}, 'no frames in'),
    ('wilddeepfake', ['real_train/3.tar.gz'], {}, 'unpack'),
    ('ffiw', ['a.mp4'], {}, 'as FFIW'),
    ('folder', ['a.mp4'], {}, 'needs either real/ and fake/'),
    ('folder', ['real/a.mp4'], {}, 'not divided into splits; add --split'),
    ('folder', ['a.mp4'], {'label': 1}, 'add --split'),
    ('faces', ['a.mp4'], {}, "no layout 'faces'; there are ffpp"),
  ],
)  # fmt: skip
def test_errors_say_what_to_do(tmp_path, layout, paths, options, message):
  for path in paths:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
  with pytest.raises(UserError, match=message) as error:
    listed(tmp_path, layout, **options)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('layout', 'name', 'content'),
  [
    ('celebdf_v2', 'List_of_testing_videos.txt', '1 ../../secret/id0_0000.mp4\n'),
    ('dfdcp', 'dataset.json', '{"../secret.mp4": {"label": "real", "set": "train"}}'),
    ('dfdc', 'metadata.json', '{"../../secret.mp4": {"label": "REAL"}}'),
    ('dfdc', 'metadata.csv', 'videoname,label\n/etc/secret.mp4,REAL\n'),
  ],
)
def test_lists_that_leave_the_data_set(tmp_path, layout, name, content):
  (tmp_path / 'Celeb-real').mkdir()
  (tmp_path / 'Celeb-real' / 'id0_0000.mp4').touch()
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match='leaves the data set'):
    listed(tmp_path, layout)


@pytest.mark.parametrize(
  ('layout', 'name', 'content', 'message'),
  [
    ('celebdf_v2', 'List_of_testing_videos.txt', 'Celeb-real/id0_0000.mp4\n', 'is not `LABEL'),
    ('celebdf_v2', 'List_of_testing_videos.txt', '0 Celeb-real/id0_0000.mp4\n', 'the other label'),
    ('celebdf_v2', 'List_of_testing_videos.txt', '1 Celeb-real/id9_0000.mp4\n', 'names none of'),
    ('dfdc', 'metadata.json', '{"id0_0000.mp4": {"label": "MAYBE"}}', "'maybe', not REAL or FAKE"),
    ('dfdc', 'metadata.json', '[1, 2]', 'one object per video'),
    ('dfdc', 'metadata.json', '{"id0_0000.mp4": {"label": "REAL"}}', 'add --split'),
    ('dfdc', 'labels.csv', 'name,label\nid0_0000.mp4,1\n', 'no column filename'),
    ('dfdcp', 'dataset.json', '{', 'not JSON'),
  ],
)
def test_lists_that_cannot_be_used(tmp_path, layout, name, content, message):
  (tmp_path / 'Celeb-real').mkdir()
  (tmp_path / 'Celeb-real' / 'id0_0000.mp4').touch()
  place = tmp_path / 'Celeb-real' if layout == 'dfdc' else tmp_path
  (place / name).write_text(content)
  with pytest.raises(UserError, match=message):
    listed(tmp_path, layout)


def test_names_that_would_break_a_manifest(tmp_path):
  odd = ['a\nb.mp4', '50%.mp4', 'c:d.mp4', 'e\\f.mp4', '..g.mp4', os.fsdecode(b'h\xff.mp4')]
  (tmp_path / 'real').mkdir()
  for name in [*odd, '.hidden.mp4', 'plain.txt']:
    (tmp_path / 'real' / name).touch()
  found = listed(tmp_path, 'folder', split='test', dataset='D')
  assert sorted(found) == sorted([
    'D/real/a%0Ab', 'D/real/50%25', 'D/real/c:d', 'D/real/e%5Cf', 'D/real/h%FF',
  ])  # fmt: skip
  assert found['D/real/a%0Ab'].path == 'real/a\nb.mp4'


def test_names_that_become_too_long_by_their_escapes_are_cut(tmp_path):
  (tmp_path / 'real').mkdir()
  names = ['%' * 250, '%' * 249 + 'a', '\N{CJK UNIFIED IDEOGRAPH-540D}' * 83]
  for name in names:
    (tmp_path / 'real' / f'{name}.mp4').touch()
  found = listed(tmp_path, 'folder', split='test', dataset='D')
  assert len(found) == 3 and f'D/real/{names[2]}' in found
  assert {video.path for video in found.values()} == {f'real/{name}.mp4' for name in names}
  for video_id in found:
    (tmp_path / 'crops' / video_id).mkdir(parents=True)


def test_same_name_in_two_containers_and_beside_its_frames(tmp_path, put):
  put('fake/a.mp4')
  put('fake/a.mkv')
  put('fake/b.mp4')
  put('fake/b', 'frames')
  put('fake/masks/b', 'frames')
  put('real/c.png', 'image')
  found = listed(tmp_path / 'raw', 'folder', split='test')
  assert {name: v.kind for name, v in found.items()} == {
    'raw/fake/a.mkv': 'video', 'raw/fake/a.mp4': 'video', 'raw/fake/b': 'video',
    'raw/real/c': 'image',
  }  # fmt: skip


def test_links_are_followed_but_not_in_circles(tmp_path, put):
  put('real/a.mp4')
  (tmp_path / 'elsewhere').mkdir()
  shutil.copy(tmp_path / 'raw/real/a.mp4', tmp_path / 'elsewhere/b.mp4')
  (tmp_path / 'raw/real/more').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'raw/real/again').symlink_to(tmp_path / 'raw/real')
  assert sorted(listed(tmp_path / 'raw', 'folder', split='test')) == [
    'raw/real/a', 'raw/real/more/b'
  ]  # fmt: skip
