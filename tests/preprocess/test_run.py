"""Outcomes, resuming, refusals; and that a run's results depend on its input alone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from masm_jax.data.manifest import load_manifest
from masm_jax.preprocess import crops, pool
from masm_jax.preprocess.__main__ import main
from masm_jax.preprocess.faces import make_detector
from masm_jax.preprocess.templates import landmark_targets
from tests.preprocess.conftest import lines

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


EXPECTED = {
  'raw/DF/Größe 日本': ('too_short', 2, '2 frames, 4 were asked for'),
  'raw/DF/two words': ('ok', 4, ''),
  'raw/DF/zero': ('unreadable', 0, 'empty file'),
  'raw/NT/frames_of_one': ('ok', 3, 'frame 2: not an image'),
  'raw/fake/cut': ('unreadable', 0, 'Invalid data found when processing input'),
  'raw/real/a': ('ok', 4, ''),
  'raw/real/broken': ('unreadable', 0, 'not an image'),
  'raw/real/face': ('ok', 1, ''),
  'raw/real/noise': ('no_face', 0, 'no face in 4 frames'),
}


def test_every_outcome(run, tmp_path, capsys):
  assert run() == 0
  found = {
    line['video_id']: (line['outcome'], line['num_crops'], '; '.join(line['reasons']))
    for line in lines(tmp_path / 'out')
  }
  assert found == EXPECTED
  manifest = load_manifest(tmp_path / 'out' / 'manifest.parquet')
  counts = manifest.table.groupby('video_id').size().to_dict()
  assert counts == {name: count for name, (_, count, _) in EXPECTED.items() if count}
  table = capsys.readouterr().out
  assert 'no_face: real/noise.mp4: no face in 4 frames' in table
  assert 'unreadable: fake/DF/zero.mp4: empty file' in table
  assert 'too_short: fake/DF/Größe 日本.mp4: 2 frames, 4 were asked for' in table
  assert table.splitlines()[0].split() == [
    'dataset', 'split', 'method', 'ok', 'too_short', 'no_face', 'unreadable', 'crops', 'kept',
    'boxes', 'left', 'out', 'people', 'not', 'taken',
  ]  # fmt: skip
  assert next(line for line in table.splitlines() if ' all ' in line).split() == [
    'all', '4', '1', '1', '3', '14', '0', '0', '0',
  ]  # fmt: skip


def test_crops_are_upright_faces(run, tmp_path, settings, portrait):
  assert run('--size', 128) == 0
  crop = cv2.imread(str(tmp_path / 'out' / 'crops' / 'raw' / 'real' / 'face' / '000000.png'))
  detector = make_detector(settings.detector, model=settings.model, min_score=0.6)
  (face, *_) = detector.detect(crop[..., ::-1])
  targets = landmark_targets('deepfakebench', 128, 1.3)
  np.testing.assert_allclose(face.landmarks, targets, atol=10)


@pytest.mark.parametrize(
  ('option', 'told'),
  [
    (('--frames', '5'), 'num_frames 4 -> 5'),
    (('--template', 'gend'), "template 'deepfakebench' -> 'gend'"),
    (('--margin', '1.5'), 'margin 1.3 -> 1.5'),
    (('--size', 'native'), 'size_px 64 -> None'),
    (('--format', 'jpg'), "image_format 'png' -> 'jpg'"),
    (('--min_score', '0.5'), 'min_score 0.7 -> 0.5'),
    (('--dataset', 'other'), "dataset 'folder' -> 'other'"),
  ],
)
def test_other_parameters_are_refused(tmp_path, settings, option, told, capsys, clips):
  (tmp_path / 'raw' / 'real').mkdir(parents=True)
  shutil.copy(clips['no_face'], tmp_path / 'raw' / 'real' / 'a.mp4')
  command = [
    '--input', tmp_path / 'raw', '--output', tmp_path / 'out', '--layout', 'folder', '--split',
    'test', '--frames', '4', '--size', '64', '--processes', '0', '--detector', 'haar',
  ]  # fmt: skip
  assert main([str(word) for word in command]) == 1
  before = sorted((tmp_path / 'out').rglob('*'))
  assert main([str(word) for word in [*command, *option]]) == 2
  text = capsys.readouterr().err
  assert f'error: {tmp_path}/out was begun with other parameters ({told})' in text
  assert sorted((tmp_path / 'out').rglob('*')) == before


def test_crops_remember_what_their_videos_went_through(tmp_path, capsys, clips):
  """An evaluation holds a robustness curve's copy to it."""
  (tmp_path / 'raw' / 'real').mkdir(parents=True)
  shutil.copy(clips['no_face'], tmp_path / 'raw' / 'real' / 'a.mp4')
  record = tmp_path / 'raw' / 'perturbation.json'
  made = {'key': 'VC', 'level': 3, 'parameter': 35, 'seed': 0}
  record.write_text(json.dumps(made | {'keep': [], 'problems': {}}))
  command = [
    '--input', tmp_path / 'raw', '--output', tmp_path / 'out', '--layout', 'folder', '--split',
    'test', '--frames', '4', '--size', '64', '--processes', '0', '--detector', 'haar',
  ]  # fmt: skip
  command = [str(word) for word in command]
  assert main(command) == 1
  assert json.loads((tmp_path / 'out' / 'preprocess.json').read_text())['perturbation'] == made
  assert main(command) == 1
  capsys.readouterr()
  for content, told in (
    (json.dumps(made | {'level': 4}), "'level': 4"),
    ('{}', 'is no record of `python -m masm_jax.perturb_videos`'),
    ('nothing', 'is no record of'),
  ):
    record.write_text(content)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith('error: ') and error.count('\n') == 1
  record.unlink()
  assert main(command) == 2 and "perturbation {'key'" in capsys.readouterr().err


def test_formats_and_sizes(run, tmp_path):
  assert run('--size', 'native', '--format', 'jpg', '--template', 'gend') == 0
  table = load_manifest(tmp_path / 'out' / 'manifest.parquet').table
  assert table['path'].str.endswith('.jpg').all()
  assert (table['width'] == table['height']).all() and table['width'].between(90, 260).all()
  # The crop is 1.3 times the face's square, which in this template is wider than YuNet's box.
  assert (table['width'] / table['face_px']).between(1.2, 2.5).all()


def test_nothing_but_noise(tmp_path, clips, capsys):
  (tmp_path / 'raw').mkdir()
  shutil.copy(clips['no_face'], tmp_path / 'raw' / 'a.mp4')
  command = ['--input', f'{tmp_path}/raw', '--output', f'{tmp_path}/out', '--layout', 'folder']
  command += ['--split', 'test', '--label', 'fake', '--processes', '0', '--detector', 'haar']
  assert main(command) == 1
  assert 'error: no face in any of 1 videos' in capsys.readouterr().err
  assert lines(tmp_path / 'out')[0]['outcome'] == 'no_face'
  assert not (tmp_path / 'out' / 'manifest.parquet').exists()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--frames', '0'), '--frames 0: must be a whole number from 1 to 999999999'),
    (('--size', 'big'), '--size big'),
    (('--size', '\N{SUPERSCRIPT TWO}'), 'must be a whole number'),
    (('--size', '9' * 5000), 'must be a whole number'),
    (('--margin', '0.5'), '--margin 0.5'),
    (('--min_score', '1.5'), '--min_score 1.5'),
    (('--processes', '-1'), '--processes -1'),
    (('--input', 'nowhere'), '--input nowhere: no such folder or file'),
    (('--lists', 'nowhere'), 'no folder nowhere'),
    (('--masks', 'nowhere'), 'no folder nowhere'),
    (('--layout', 'ffpp', '--label', 'real'), '--label is for --layout folder'),
    (('--yunet', 'nowhere.onnx', '--detector', 'yunet'), 'no model file at nowhere.onnx'),
  ],
)
def test_bad_options(run, options, message, capsys):
  assert run(*options) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error and error.count('\n') == 1


def test_remote_folders_are_refused(run, capsys):
  with pytest.raises(SystemExit, match='2'):
    run('--output', 'gs://bucket/crops')
  assert 'gs://bucket/crops: videos are read, and crops written, on this' in capsys.readouterr().err


def test_a_folder_with_other_files_is_left_alone(run, tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'thesis.txt').touch()
  assert run() == 2
  assert 'holds other files' in capsys.readouterr().err
  assert os.listdir(tmp_path / 'out') == ['thesis.txt']


def test_the_mask_decides_whose_face_it_is(tmp_path, astronaut, write_clip, settings):
  # The one at the right is larger; the mask lies upon the one at the left.
  left = cv2.resize(astronaut[16:272, 96:352], (192, 192), interpolation=cv2.INTER_AREA)
  frame = np.hstack([np.pad(left, ((0, 64), (0, 0), (0, 0))), astronaut[16:272, 96:352]])
  mask = np.zeros_like(frame)
  mask[30:150, 50:140] = 255
  for top in ('real', 'fake'):
    write_clip(tmp_path / 'raw' / top / 'a.mp4', [frame] * 4)
  write_clip(tmp_path / 'masks' / 'fake' / 'a.mp4', [mask] * 4)
  detector = ('--yunet', settings.model) if settings.model else ('--detector', 'haar')
  command = [
    '--input', tmp_path / 'raw', '--output', tmp_path / 'out', '--layout', 'folder', '--split',
    'test', '--frames', 4, '--masks', tmp_path / 'masks', '--processes', 0, *detector,
  ]  # fmt: skip
  assert main([str(word) for word in command]) == 0
  boxes = {}
  for name in ('real', 'fake'):
    record = json.loads((tmp_path / 'out/crops/raw' / name / 'a/.outcome.json').read_text())
    boxes[name] = {crop['face_box'][0] for crop in record['crops']}
  assert max(boxes['fake']) < 192 < min(boxes['real'])


def _save(path, image, mode='RGB', **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).convert(mode).save(path, **options)


def test_images_of_every_kind(tmp_path, portrait, settings):
  root = tmp_path / 'raw' / 'real'
  for name, mode in (('grey', 'L'), ('rgba', 'RGBA'), ('palette', 'P')):
    _save(root / f'{name}.png', portrait, mode)
  _save(root / 'cmyk.jpg', portrait, 'CMYK')
  exif = Image.Exif()
  exif[274] = 6  # To be turned by a quarter, clockwise.
  _save(root / 'rotated.jpg', np.ascontiguousarray(np.rot90(portrait)), exif=exif)
  flipped = Image.fromarray(portrait[::-1])
  _save(root / 'animated.webp', portrait, save_all=True, append_images=[flipped])
  grey16 = portrait.mean(axis=2).astype(np.uint16) << 8
  Image.fromarray(grey16).save(root / 'sixteen_bits.png')
  _save(root / 'one_pixel.png', portrait[:1, :1])
  Image.new('1', (12_000, 12_000)).save(root / 'huge.png')
  (root / 'cut.png').write_bytes((root / 'grey.png').read_bytes()[:-200])
  detector = ('--yunet', settings.model) if settings.model else ('--detector', 'haar')
  command = ['--input', tmp_path / 'raw', '--output', tmp_path / 'out', '--layout', 'folder']
  command += ['--split', 'test', '--processes', 0, '--size', 64, *detector]
  assert main([str(word) for word in command]) == 0
  found = {line['video_id'].rpartition('/')[2]: line for line in lines(tmp_path / 'out')}
  sound = {'grey', 'rgba', 'palette', 'cmyk', 'rotated', 'animated', 'sixteen_bits'}
  assert {name for name, line in found.items() if line['outcome'] == 'ok'} == sound
  others = {name: (line['outcome'], '; '.join(line['reasons'])) for name, line in found.items()}
  assert others['one_pixel'] == ('no_face', 'no face in 1 frames')
  assert others['huge'][0] == 'unreadable' and 'pixels' in others['huge'][1]
  assert others['cut'][0] == 'unreadable' and len(found) == 10
  crop = lambda name: cv2.imread(str(tmp_path / f'out/crops/raw/real/{name}/000000.png'), 0)
  for name in sound:
    assert np.corrcoef(crop(name).ravel(), crop('rgba').ravel())[0, 1] > 0.7, name


def test_a_video_that_kills_its_readers(run, raw, tmp_path, monkeypatch):
  def results(tasks, *args, **options):
    for task in tasks:
      done = crops.Cropper(*args[1])(task) if task.name != 'a' else pool.Died('signal SIGSEGV')
      yield task, done

  monkeypatch.setattr(pool, 'run', results)
  assert run() == 0
  (line,) = [line for line in lines(tmp_path / 'out') if line['video_id'] == 'raw/real/a']
  assert line['outcome'] == 'unreadable'
  assert line['reasons'] == ['the process that read it died twice (signal SIGSEGV)']
  monkeypatch.undo()
  before = (tmp_path / 'out' / 'manifest.parquet').read_bytes()
  assert run() == 0  # It is not tried again and again.
  assert (tmp_path / 'out' / 'manifest.parquet').read_bytes() == before


def test_workers_never_load_jax(tmp_path):
  code = (
    'import sys, masm_jax.preprocess.run\n'
    'print(sorted({"jax", "tensorflow", "torch", "flax", "grain"} & set(sys.modules)))'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == '[]'


def test_names_that_are_not_utf8(tmp_path, clips, settings):
  """Of files, of the folders that name method and data set, and of the output."""
  raw, out = (tmp_path / os.fsdecode(name) for name in (b'set\xe8', b'out\xe7'))
  names = [b'real/latin1_\xe9.mp4', b'fake/m\xe9thode/b.mp4', b'fake/m\xe9thode/none_\xe9.mp4']
  for name, kind in zip(names, ('ok', 'ok', 'no_face'), strict=True):
    path = raw / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips[kind], path)
  detector = ('--yunet', settings.model) if settings.model else ('--detector', 'haar')
  words = ['--input', raw, '--layout', 'folder', '--split', 'test', '--frames', 4, '--size', 64]
  words += ['--processes', 0, '--output', out, *detector]
  command = [sys.executable, '-m', 'masm_jax.preprocess', *(os.fsencode(str(w)) for w in words)]
  seen = []
  for _ in range(2):
    environment = os.environ | {'PYTHONIOENCODING': 'utf-8'}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    assert 'no_face: fake/m%E9thode/none_%E9.mp4: no face in 4 frames' in done.stdout
    seen.append({p: p.read_bytes() for p in sorted(out.rglob('*')) if p.is_file()})
  assert seen[0] == seen[1]
  table = load_manifest(out / 'manifest.parquet').table
  assert table.groupby(['video_id', 'dataset', 'method']).size().to_dict() == {
    ('set%E8/real/latin1_%E9', 'set%E8', 'real'): 4,
    ('set%E8/m%E9thode/b', 'set%E8', 'm%E9thode'): 4,
  }
  inputs = [line['input'] for line in lines(out)]
  assert inputs == [os.fsdecode(name) for name in names[1:] + names[:1]]
