"""A perturbed copy of a data set keeps its layout, resumes after a stop, hides no failure."""

import json
import os

import av
import cv2
import numpy as np
import pytest

from masm_jax import perturb_videos
from masm_jax.perturbations import catalogue as robustness
from masm_jax.preprocess.layouts import Options, list_videos
from tests.disks import unfinished


def clip(path, seed=0, num_frames=3):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  image = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
  with av.open(f'file:{path}', 'w') as container:
    stream = container.add_stream('libx264rgb', rate=25, options={'qp': '0'})
    stream.height, stream.width, stream.pix_fmt = 48, 64, 'rgb24'
    for t in range(num_frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(image, t, axis=1)), 'rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def frames(path):
  with av.open(str(path)) as container:
    return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def bytes_below(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*.*')}


@pytest.fixture
def raw(tmp_path):
  folder = tmp_path / 'raw'
  clip(folder / 'real' / 'a.mp4', 0)
  clip(folder / 'fake' / 'b.avi', 1)
  clip(folder / 'fake' / 'masks' / 'b.mp4', 2)
  (folder / 'real' / 'c').mkdir()
  image = np.random.default_rng(3).integers(0, 255, (32, 40, 3), np.uint8)
  cv2.imwrite(str(folder / 'real' / 'c' / '007.png'), image)
  (folder / 'list.txt').write_text('1 a.mp4\n')
  return folder


def run(raw, out, *arguments, key='GB', level=2):
  return perturb_videos.main(
    [f'--input={raw}', f'--output={out}', f'--key={key}', f'--level={level}', *arguments]
  )


def test_the_copy_has_the_layout_and_the_perturbation(raw, tmp_path, capsys):
  out = tmp_path / 'out'
  assert run(raw, out, '--keep', '*/masks/*', '--processes=0', key='BW') == 0
  assert '2 videos, 1 images and 2 other files' in capsys.readouterr().out
  copied = sorted(path.relative_to(out).as_posix() for path in out.rglob('*') if path.is_file())
  assert copied == [
    'fake/b.mp4', 'fake/masks/b.mp4', 'list.txt', 'perturbation.json', 'real/a.mp4',
    'real/c/007.png',
  ]  # fmt: skip
  for kept in ('list.txt', 'fake/masks/b.mp4'):
    assert (out / kept).read_bytes() == (raw / kept).read_bytes()
  for source, copy in (('real/a.mp4', 'real/a.mp4'), ('fake/b.avi', 'fake/b.mp4')):
    expected = [
      robustness.perturb(frame, 'BW', 2, robustness.make_rng(0, source, t, 'BW', 2))
      for t, frame in enumerate(frames(raw / source))
    ]
    np.testing.assert_array_equal(frames(out / copy), expected)
  image = cv2.imread(str(raw / 'real/c/007.png'))[..., ::-1]
  expected = robustness.perturb(image, 'BW', 2, robustness.make_rng(0, 'real/c', 7, 'BW', 2))
  np.testing.assert_array_equal(cv2.imread(str(out / 'real/c/007.png'))[..., ::-1], expected)
  record = json.loads((out / 'perturbation.json').read_text())
  assert record['key'] == 'BW' and record['parameter'] == 32 and record['failed'] == {}
  names = [(v.path, v.label) for v in list_videos(out, 'folder', Options(split='test'))]
  assert ('real/a.mp4', 0) in names and ('fake/b.mp4', 1) in names


def test_it_goes_on_where_it_stopped_and_with_any_number_of_processes(raw, tmp_path):
  assert run(raw, tmp_path / 'one', '--processes=0') == 0
  assert run(raw, tmp_path / 'two', '--processes=2') == 0
  whole = bytes_below(tmp_path / 'one')
  assert len(whole) == 6 and whole == bytes_below(tmp_path / 'two')
  (tmp_path / 'two' / 'fake' / 'b.mp4').unlink()
  kept = (tmp_path / 'two' / 'real' / 'a.mp4').stat().st_mtime_ns
  assert run(raw, tmp_path / 'two', '--processes=0') == 0
  assert bytes_below(tmp_path / 'two') == whole
  assert (tmp_path / 'two' / 'real' / 'a.mp4').stat().st_mtime_ns == kept


def test_what_cannot_be_read_is_named_and_the_rest_is_done(raw, tmp_path, capsys):
  (raw / 'fake' / 'broken.mp4').write_bytes(b'nothing')
  out = tmp_path / 'out'
  assert run(raw, out, '--processes=0', key='VC') == 1
  errors = capsys.readouterr().err
  assert 'failed: fake/broken.mp4: Invalid data' in errors
  assert 'failed: real/c/007.png: an image: VC compresses videos' in errors
  record = json.loads((out / 'perturbation.json').read_text())
  assert sorted(record['failed']) == ['fake/broken.mp4', 'real/c/007.png']
  assert (out / 'real' / 'a.mp4').exists() and not (out / 'fake' / 'broken.mp4').exists()


def test_damage_is_still_known_after_another_start(raw, tmp_path, capsys):
  """The file is there and is not done again; what was wrong with its source must not be lost."""
  with av.open(str(raw / 'real' / 'torn.avi'), 'w') as container:
    stream = container.add_stream('libx264', rate=25, options={'g': '3'})
    stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
    for t in range(12):
      image = np.random.default_rng(t).integers(0, 255, (48, 64, 3), np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
    container.mux(stream.encode())
  torn = bytearray((raw / 'real' / 'torn.avi').read_bytes())
  torn[len(torn) // 3 : len(torn) // 2] = bytes(len(torn) // 2 - len(torn) // 3)
  (raw / 'real' / 'torn.avi').write_bytes(torn)
  (raw / 'fake' / 'broken.mp4').write_bytes(b'nothing')
  out = tmp_path / 'out'
  assert run(raw, out, '--processes=0') == 1
  first = json.loads((out / 'perturbation.json').read_text())
  assert first['problems'] == {'real/torn.avi': 'damaged frames, left out'}
  before = (out / 'real' / 'torn.mp4').stat().st_ino
  capsys.readouterr()
  assert run(raw, out, '--processes=0') == 1
  assert json.loads((out / 'perturbation.json').read_text()) == first
  assert (out / 'real' / 'torn.mp4').stat().st_ino == before
  assert f'damaged: real/torn.avi: {first["problems"]["real/torn.avi"]}' in capsys.readouterr().err
  assert not list(out.rglob('*.new'))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--key=JPEG'], "no perturbation 'JPEG'; there are CS"),
    (['--key=gend_blur'], 'gend_blur is defined on crops; on videos there are CS, CC'),
    (['--level=9'], 'GB has levels 1 to 5, not 9'),
    (['--seed=-1'], '--seed -1: is negative'),
    (['--processes=-1'], '--processes -1: is negative'),
    (['--input=nowhere'], '--input nowhere: no such folder'),
    (['--output=raw/copy'], '--output raw/copy lies within --input'),
    (['--output=raw'], '--output raw lies within --input'),
    (['--output=.'], '. would be written over raw, which is read'),
    (['--input=raw/fake/masks/../../real/c/empty'], 'no such folder'),
  ],
)
def test_bad_input_is_one_line(raw, tmp_path, monkeypatch, capsys, arguments, message):
  monkeypatch.chdir(tmp_path)
  assert run('raw', 'out', *arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error and error.count('\n') == 1


def test_another_perturbation_needs_another_folder(raw, tmp_path, capsys):
  out = tmp_path / 'out'
  assert run(raw, out, '--processes=0') == 0
  assert run(raw, out, '--processes=0', level=3) == 2
  assert 'holds a copy made in another way' in capsys.readouterr().err
  clip(raw / 'fake' / 'b.mp4')
  assert run(raw, tmp_path / 'new', '--processes=0') == 2
  assert 'would both become fake/b.mp4' in capsys.readouterr().err


def test_link_loops_and_pipes_are_skipped_with_a_line(raw, tmp_path, capsys):
  """A link back to a folder above would be copied for ever, a pipe would wait for ever."""
  (raw / 'real' / 'again').symlink_to(raw)
  (raw / 'lost.txt').symlink_to(raw / 'nowhere')
  os.mkfifo(raw / 'pipe.mp4')
  out = tmp_path / 'out'
  assert run(raw, out, '--processes=0') == 0
  printed = capsys.readouterr()
  assert '3 videos, 1 images and 1 other files' in printed.out
  skipped = [line for line in printed.err.splitlines() if 'skipped' in line]
  assert [line.split(':')[1].strip() for line in skipped] == ['lost.txt', 'pipe.mp4']
  assert json.loads((out / 'perturbation.json').read_text())['skipped'] == ['lost.txt', 'pipe.mp4']
  assert not (out / 'real' / 'again').exists()


def test_a_copy_killed_in_its_first_write_resumes(raw, tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  unfinished(out / 'perturbation.json').write_text('{"key"')
  assert run(raw, out, '--processes=0') == 0
  assert not list(out.rglob('.*.partial'))
