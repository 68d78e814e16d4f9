"""What is read, what is skipped and said to be, and data without labels."""

import builtins
import importlib
import json
import os
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from masm_jax.data import raster
from masm_jax.data.crop_settings import CropSettings, read_crop_settings
from masm_jax.data.manifest import load_manifest
from masm_jax.preprocess import raw_video
from masm_jax.preprocess.__main__ import main
from masm_jax.preprocess.layouts import Options, base, list_videos


@pytest.fixture
def run(tmp_path, settings):
  """Runs the command on an input; returns its exit status."""
  detector = ('--yunet', settings.model) if settings.model else ('--detector', 'haar')

  def run(path, *options, output='out'):
    words = ['--input', path, '--output', tmp_path / output, '--frames', 4, '--size', 64]
    return main([str(word) for word in [*words, '--processes', 0, *detector, *options]])

  return run


def outcomes(output):
  lines = (output / 'outcomes.jsonl').read_text().splitlines()
  return {line['video_id']: line['outcome'] for line in map(json.loads, lines)}


def test_skipped_files_are_counted_by_suffix(tmp_path, run, clips, capsys):
  raw = tmp_path / 'raw'
  (raw / 'real' / 'more').mkdir(parents=True)
  (raw / 'fake').mkdir()
  shutil.copy(clips['ok'], raw / 'real' / 'a.mp4')
  shutil.copy(clips['ok'], raw / 'fake' / 'b.mp4')
  for name in (
    'real/1.PSD', 'real/more/2.psd', 'real/notes', 'real/._a.mp4', 'fake/.DS_Store', 'fake/x.eps',
    'fake/list.txt', 'fake/metadata.json',
  ):  # fmt: skip
    (raw / name).touch()
  (raw / 'fake' / 'b.png').write_bytes(b'')  # Of a video and an image of one name, the video.
  for _ in range(2):
    assert run(raw, '--split', 'test', '--output', raw / 'real' / 'crops') == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2] == 'skipped 7 files: 2 .psd, 2 hidden, 1 .eps, 1 .png, 1 without a suffix'


def test_heic_needs_its_extra(monkeypatch):
  monkeypatch.setattr(raster, 'HAS_HEIF', False)
  told = base.skipped_text({'a/1.HEIC', 'a/2.heic'})
  assert told == 'skipped 2 files: 2 .heic (pip install pillow-heif reads HEIC)'
  monkeypatch.setattr(raster, 'HAS_HEIF', True)
  assert base.skipped_text({'a/1.HEIC'}) == 'skipped 1 files: 1 .heic'
  assert base.skipped_text(set()) == ''


def test_heic_is_read_where_pillow_heif_is(monkeypatch):
  """By a stand-in: what is opened and found follows from what is installed."""
  called = []

  class PillowHeif:
    register_heif_opener = staticmethod(lambda: called.append(True))

  def find(name, *args, **kwargs):
    return PillowHeif if name == 'pillow_heif' else real(name, *args, **kwargs)

  real = builtins.__import__
  try:
    with monkeypatch.context() as patch:
      patch.setattr(builtins, '__import__', find)
      importlib.reload(raster)
    assert called == [True] and 'HEIF' in raster.FORMATS
    assert raw_video.is_picture('IMG_1.HEIC') and not raw_video.is_picture('._IMG_1.HEIC')
  finally:
    importlib.reload(raster)


def test_photos_and_clips_of_phones(tmp_path, run, portrait, clips):
  real = tmp_path / 'raw' / 'real'
  real.mkdir(parents=True)
  Image.fromarray(portrait).save(real / 'photo.avif', quality=90)
  moved = [Image.fromarray(np.roll(portrait, t, 1)) for t in range(4)]
  moved[0].save(real / 'moving.gif', save_all=True, append_images=moved[1:], duration=40)
  with (
    av.open(str(clips['ok'])) as source,
    av.open(str(real / 'phone.3gp'), 'w', format='mp4') as target,
  ):
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(source.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        target.mux(packet)
  assert run(tmp_path / 'raw', '--split', 'test') == 0
  assert outcomes(tmp_path / 'out') == dict.fromkeys(
    ['raw/real/moving', 'raw/real/phone', 'raw/real/photo'], 'ok'
  )


def test_a_folder_without_labels(tmp_path, run, clips, capsys):
  (tmp_path / 'raw' / 'inbox').mkdir(parents=True)
  shutil.copy(clips['ok'], tmp_path / 'raw' / 'a.mp4')
  shutil.copy(clips['ok'], tmp_path / 'raw' / 'inbox' / 'b.mp4')
  assert run(tmp_path / 'raw') == 2
  assert 'for data without labels, add --label unknown' in capsys.readouterr().err
  assert run(tmp_path / 'raw', '--label', 'unknown') == 0
  manifest = load_manifest(tmp_path / 'out' / 'manifest.parquet')
  assert set(manifest.labels) == {-1} and set(manifest.table['split']) == {''}
  assert set(manifest.table['method']) == {'unlabelled'}
  assert sorted(set(manifest.video_ids)) == ['raw/unlabelled/a', 'raw/unlabelled/inbox/b']
  assert run(tmp_path / 'raw', '--label', 'unknown', '--split', 'test', output='other') == 0
  assert set(load_manifest(tmp_path / 'other' / 'manifest.parquet').table['split']) == {'test'}


@pytest.mark.parametrize('name', ['Anna & Bob.mp4', os.fsdecode(b'm\xfcller.mp4'), 'video'])
def test_one_file(tmp_path, run, clips, name):
  (tmp_path / 'inbox').mkdir()
  shutil.copy(clips['ok'], tmp_path / 'inbox' / name)
  shutil.copy(clips['ok'], tmp_path / 'inbox' / 'another.mp4')
  for _ in range(2):
    assert run(tmp_path / 'inbox' / name) == 0
  manifest = load_manifest(tmp_path / 'out' / 'manifest.parquet')
  stem = {'Anna & Bob.mp4': 'Anna & Bob', 'video': 'video'}.get(name, 'm%FCller')
  assert set(manifest.video_ids) == {f'inbox/unlabelled/{stem}'} and len(manifest) == 4
  assert set(manifest.labels) == {-1}
  assert run(tmp_path / 'inbox' / name, '--label', 'fake', '--split', 'test', output='known') == 0
  assert set(load_manifest(tmp_path / 'known' / 'manifest.parquet').labels) == {1}
  assert run(tmp_path / 'inbox' / name, '--layout', 'ffpp', output='ffpp') == 2


def test_one_photo(tmp_path, run, portrait):
  Image.fromarray(portrait).save(tmp_path / 'photo.png')
  assert run(tmp_path / 'photo.png') == 0
  assert len(load_manifest(tmp_path / 'out' / 'manifest.parquet')) == 1


def test_the_manifest_says_how_its_crops_were_made(tmp_path, run, portrait):
  Image.fromarray(portrait).save(tmp_path / 'photo.png')
  options = ('--template', 'gend', '--margin', '1.5', '--size', 'native')
  assert run(tmp_path / 'photo.png', *options) == 0 and run(tmp_path / 'photo.png', output='b') == 0
  made = [
    read_crop_settings(load_manifest(tmp_path / folder / 'manifest.parquet'))
    for folder in ('out', 'b')
  ]
  assert made == [(CropSettings('gend', 1.5, 0),), (CropSettings('deepfakebench', 1.3, 64),)]
  beside = json.loads((tmp_path / 'out' / 'preprocess.json').read_text())
  assert (beside['template'], beside['margin'], beside['size_px']) == ('gend', 1.5, None)


@pytest.mark.parametrize(
  ('layout', 'metadata', 'told'),
  [
    (
      'dfdc',
      {'metadata.json': {f'{n}.mp4': {'label': 'FAKE', 'split': 'train'} for n in 'abcdef'}},
      '3 of the 6 videos that its metadata names are not there: d, e, f',
    ),
    (
      'dfdcp',
      {
        'dataset.json': {
          f'method_A/{n}.mp4': {'label': 'fake', 'set': 'train'} for n in 'abcdefgh'
        }
      },
      '5 of the 8 videos that dataset.json names are not there: method_A/d, method_A/e, '
      'method_A/f, ...',
    ),
  ],
)  # fmt: skip
def test_videos_that_metadata_name_and_that_are_not_there(tmp_path, layout, metadata, told, caplog):
  for name, content in metadata.items():
    (tmp_path / name).write_text(json.dumps(content))
  folder = tmp_path / 'method_A' if layout == 'dfdcp' else tmp_path
  folder.mkdir(exist_ok=True)
  for name in 'abc':
    (folder / f'{name}.mp4').touch()
  assert len(list_videos(tmp_path, layout, Options())) == 3
  assert caplog.messages == [told]
