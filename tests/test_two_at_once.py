"""Two of everything at once: one works, the other says who holds it, and damages nothing.

`report`, `pretrain` and what makes manifests write one file, whole; the server's folder is in
serving/test_serve.py.
"""

import json
import os
import re
import subprocess
import sys
import threading
from unittest import mock

import pytest
from absl.testing import flagsaver

from configs import demo
from masm_jax import cli, compare, perturb_videos, processes
from masm_jax import demo as demo_command
from masm_jax.analysis import __main__ as analysis
from masm_jax.convert import __main__ as convert
from masm_jax.data import synthetic, tfds_builder
from masm_jax.data.manifest import load_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.evaluation.run import evaluate
from masm_jax.export import __main__ as export
from masm_jax.parallel import locks
from masm_jax.prediction import results as prediction
from masm_jax.preprocess import __main__ as preprocess
from masm_jax.sweep import __main__ as sweep
from masm_jax.training.loop import train
from tests.test_strangers import make_suite

# Of tfds' and ml_collections' own parts.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')
TOLD = rf'is in use by process {os.getppid()} on \S+, which runs since'


def hold(folder, name=locks.NAME):
  """Makes a folder and its lock, as another process would have them: the parent of this one."""
  folder.mkdir(parents=True, exist_ok=True)
  owner = locks._own() | {'pid': os.getppid(), 'started': processes.started(os.getppid())}
  (folder / name).write_text(json.dumps(owner | {'token': 'another'}))


def _preprocess(folder):
  (folder / 'raw').mkdir()
  (folder / 'raw' / 'a.mp4').touch()
  words = ['--input', folder / 'raw', '--output', folder / 'out', '--detector', 'haar']
  return preprocess.main([*map(str, words), '--split', 'test', '--label', 'real'])


def _perturb(folder):
  (folder / 'raw').mkdir()
  (folder / 'raw' / 'a.mp4').touch()
  words = ['--input', folder / 'raw', '--output', folder / 'out', '--key', 'VC', '--level', '1']
  return perturb_videos.main(list(map(str, words)))


def _sweep(folder):
  return sweep.main(['components', f'--workdir={folder / "out"}', '--write=commands'])


def _export(folder):
  words = ['--run', folder / 'run', '--format', 'detector', '--out', folder / 'out']
  return export.main([*map(str, words)])


def _convert(folder):
  words = [folder / 'a.pth', '--from', 'effort', '--out', folder / 'out']
  return convert.main([*map(str, words)])


def _compare(folder):
  return compare.main(['a', 'b', '--out', str(folder / 'out')])


@pytest.mark.parametrize('command', [_export, _convert, _compare])
def test_the_second_to_write_a_whole_folder_is_told(command, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, 'start_jax', lambda **_: None)
  hold(tmp_path, '.out.lock')
  assert command(tmp_path) == 2
  error = capsys.readouterr().err
  assert 'is in use by process' in error and len(error.splitlines()) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['.out.lock']


def test_the_second_prediction_is_refused(tmp_path):
  hold(tmp_path / 'out')
  with pytest.raises(UserError, match=TOLD):
    prediction.Folder(tmp_path / 'out', {'model': 'a'})
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.lock']


def test_two_imports_to_one_manifest_leave_one_of_them_whole(portraits, tmp_path):
  """An import writes one file, whole: the last one stays, and nobody waits."""
  manifest, out = load_manifest(portraits), tmp_path / 'm.parquet'
  write_manifest(manifest, out)
  writers = [threading.Thread(target=write_manifest, args=(manifest, out)) for _ in range(4)]
  for writer in writers:
    writer.start()
  while any(writer.is_alive() for writer in writers):
    assert load_manifest(out, manifest.root, check_files=False).sha256 == manifest.sha256
  assert load_manifest(out, manifest.root).sha256 == manifest.sha256
  assert [path.name for path in tmp_path.iterdir()] == ['m.parquet']


def _fair(folder):
  return sweep.main(['fair', f'--workdir={folder / "out"}'])


def _demo(folder):
  with mock.patch.object(sys, 'argv', ['demo', f'--workdir={folder / "out"}']):
    return demo_command.main()


def test_the_second_explanation_is_one_line_and_status_2(tmp_path):
  hold(tmp_path, '.out.lock')
  words = ['--model=run', '--source=a.png', f'--out={tmp_path / "out"}']
  argv = [sys.executable, '-m', 'masm_jax.explain', *words]  # Its flags are another command's too.
  done = subprocess.run(argv, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert re.search(TOLD, done.stderr)
  assert [path.name for path in tmp_path.iterdir()] == ['.out.lock']


@pytest.mark.parametrize('command', [_preprocess, _perturb, _sweep, _fair, _demo])
def test_the_second_command_is_one_line_and_status_2(command, tmp_path, capsys):
  hold(tmp_path / 'out')
  assert command(tmp_path) == 2
  error = capsys.readouterr().err
  assert 'is in use by process' in error and len(error.splitlines()) == 1
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.lock']


def test_the_second_training_is_refused_and_leaves_nothing(tmp_path):
  hold(tmp_path)
  with pytest.raises(UserError, match=TOLD):
    train(demo.get_config('method=linear'), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_the_second_evaluation_is_refused(tmp_path):
  hold(tmp_path)
  with pytest.raises(UserError, match=TOLD):
    evaluate(tmp_path / 'run', make_suite(), tmp_path)


def test_the_second_analysis_is_refused(tmp_path, monkeypatch):
  hold(tmp_path, '.analysis.lock')
  monkeypatch.setattr(cli, 'start_jax', lambda **_: None)
  with flagsaver.flagsaver(workdir=[str(tmp_path)]), pytest.raises(UserError, match=TOLD):
    analysis.main(['analysis'])


def test_the_second_build_of_a_tfds_set_is_refused(portraits, tmp_path):
  hold(tmp_path, '.face_crops.known.lock')
  with pytest.raises(UserError, match=TOLD):
    tfds_builder.build(load_manifest(portraits), tmp_path, 'known')


def test_the_second_drawing_waits_for_the_first_and_uses_its_set(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(locks, '_POLL_S', 0.05)
  hold(tmp_path, '.set.lock')
  threading.Timer(0.3, (tmp_path / '.set.lock').unlink).start()
  path = synthetic.materialize(
    tmp_path / 'set',
    num_identities=6, videos_per_identity=1, frames_per_video=1, num_processes=1, progress=False,
  )  # fmt: skip
  assert path.is_file() and [found.name for found in tmp_path.iterdir()] == ['set']
  assert f'waiting for process {os.getppid()} on ' in capsys.readouterr().err
