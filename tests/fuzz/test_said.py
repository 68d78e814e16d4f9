"""Names of strangers' files, sets and videos as they are said: no terminal obeys them."""

import pytest
from PIL import Image

from masm_jax import perturb_videos, terminal
from masm_jax.data.__main__ import main as data_commands
from masm_jax.evaluation import run
from masm_jax.parallel import locks
from masm_jax.perturbations import copies
from masm_jax.preprocess import outcomes, raw_video

_NAME = 'a\x1b]0;owned\x07\x1b[2J\nerror: all is well'


def test_no_terminal_obeys_names_of_a_manifest(tmp_path, capsys):
  Image.new('RGB', (8, 8)).save(tmp_path / '0.png')
  text = f'path,label,dataset,split,video_id\n0.png,0,"{_NAME}",test,v\n'
  (tmp_path / 'm.csv').write_text(text)
  assert data_commands(['stats', str(tmp_path / 'm.csv')]) == 0
  told = capsys.readouterr().out
  assert 'owned' in told and all(line.isprintable() for line in told.splitlines())
  assert not any(line.startswith('error') for line in told.splitlines())


def test_no_terminal_obeys_a_name_in_a_lock():
  told = locks.describe({'pid': 5, 'host': _NAME, 'since': _NAME, 'command': _NAME})
  assert 'owned' in told and told.isprintable()


def test_no_terminal_obeys_what_is_said_of_videos():
  counts = {'num_crops': 0, 'num_kept_boxes': 0, 'num_left_out': 0, 'num_people_not_taken': 0}
  video = raw_video.RawVideo(f'{_NAME}.mp4', 'video', _NAME, 'test', 0, 'real', _NAME)
  made = {'outcome': 'unreadable', 'reasons': [_NAME], **counts}
  table = outcomes.outcome_table([video], [made])
  told = terminal.plain(
    outcomes.summary(outcomes.Report(table, None, 0, f'skipped 1 files: {_NAME}'))
  )
  assert told.count('owned') >= 4 and all(line.isprintable() for line in told.splitlines())
  assert not any(line.startswith('error') for line in told.splitlines())


@pytest.mark.parametrize('kind', ['failed', 'problems', 'skipped'])
def test_no_terminal_obeys_what_is_said_of_copies(kind, tmp_path, monkeypatch, capsys):
  fields = {'failed': {}, 'problems': {}, 'skipped': []}
  fields[kind] = [_NAME] if kind == 'skipped' else {_NAME: 'cannot be read'}
  copied = copies.Copied({'video': 0, 'image': 0, 'other': 0}, **fields)
  monkeypatch.setattr(copies, 'copy_folder', lambda *args, **kwargs: copied)
  words = ['--input', tmp_path, '--output', tmp_path.parent / 'out', '--key', 'CS', '--level', 1]
  assert perturb_videos.main([str(word) for word in words]) == (kind == 'failed')
  told = capsys.readouterr().err
  assert 'owned' in told and told.count('\n') == 1 and told[:-1].isprintable()


def test_no_terminal_obeys_a_warning_of_an_evaluation(tmp_path, capsys):
  band = {level: {'low': 0.4, 'high': 0.6} for level in ('frame', 'video')}
  document = {
    'warnings': [{'text': _NAME}],
    'run': {'method': 'masm', 'backbone': 'demo_vit', 'checkpoint': 'best', 'step': 1},
    'protocol': {
      'bootstrap': {'confidence': 0.95}, 'band': {'fpr': 0.1, 'fnr': 0.1, **band},
      'temperature': None,
    },
    'sets': {},
  }  # fmt: skip
  run._print(document, tmp_path)
  told = capsys.readouterr().out.splitlines()
  assert told[0].startswith('WARNING: a') and all(line.isprintable() for line in told)
  assert not any(line.startswith('error') for line in told)
