"""What the demo writes, and where it writes nothing."""

import json
import subprocess
import sys

import av
import pytest

from masm_jax import demo, places
from masm_jax.data import transforms


def test_inputs_are_pictures_and_a_clip(trained_run, tmp_path):
  paths = demo.write_inputs(trained_run, tmp_path / 'inputs')
  names = ['real_1.png', 'real_2.png', 'fake_1.png', 'fake_2.png', 'fake_clip.mp4']
  assert [path.name for path in paths] == names
  pictures = [transforms.decode(path) for path in paths[:-1]]
  assert len({picture.tobytes() for picture in pictures}) == 4
  with av.open(str(paths[-1])) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  assert len(frames) >= 8 and frames[0].shape == pictures[0].shape


@pytest.fixture
def start(tmp_path, monkeypatch):
  """Runs the demo in `tmp_path/out`, without its runs."""
  started = []
  for name, does in (
    ('_run', lambda title, *_: started.append(title) or 0),
    ('summarize', lambda _: (tmp_path / 'out' / 'results.json').touch()),
    ('write_inputs', lambda *_: []),
  ):
    monkeypatch.setattr(demo, name, does)
  monkeypatch.setattr(sys, 'argv', ['demo', f'--workdir={tmp_path / "out"}'])
  return lambda: (demo.main(), len(started))


def test_a_folder_of_the_user_is_no_workdir(tmp_path, start, capsys):
  out = tmp_path / 'out'
  for name in ('answers/mine', 'inputs/real_1.png'):
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('mine')
  before = sorted(out.rglob('*'))
  assert start() == (2, 0)
  error = capsys.readouterr().err
  assert 'holds other files: give a new folder for the demo' in error
  assert len(error.splitlines()) == 1 and sorted(out.rglob('*')) == before


@pytest.mark.parametrize('is_older', [False, True])  # Of a version that wrote no note.
def test_a_demo_replaces_its_answers_and_no_more(tmp_path, start, is_older):
  out = tmp_path / 'out'
  (out / 'masm').mkdir(parents=True)
  if is_older:
    for name in ('demo.png', 'results.json', 'masm/run.json'):
      (out / name).touch()
  else:
    (out / 'demo.json').write_text(json.dumps({'folder_of': places.DEMO}))
  (out / 'answers').mkdir()
  (out / 'answers' / 'mine').touch()
  assert start() == (0, 5)
  answers = ('predict.json', 'predictions.jsonl', '.predictions.jsonl.sha256', 'report.html')
  for name in answers:
    (out / 'answers' / name).touch()
  assert start() == (0, 10)
  assert [path.name for path in (out / 'answers').iterdir()] == ['mine']


def test_ctrl_c_waits_for_the_run_that_saves(monkeypatch):
  """`subprocess.run` would kill it after a quarter of a second."""
  waits = []

  class Process:
    def __init__(self, words):
      del words

    def wait(self):
      waits.append(self)
      if len(waits) == 1:
        raise KeyboardInterrupt
      return 130

  monkeypatch.setattr(subprocess, 'Popen', Process)
  with pytest.raises(KeyboardInterrupt):
    demo._run('masm', 'main')
  assert len(waits) == 2
