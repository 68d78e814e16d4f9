"""What is no plain file is refused wherever one is read, and never waited for."""

import io
import os
import pathlib
import re
import resource
import socket

import pytest

from masm_jax import errors, files, plain_files, telemetry
from masm_jax.checkpoints import positions
from masm_jax.data import storage
from masm_jax.errors import UnfitFileError, UserError
from masm_jax.evaluation import results as evaluations
from masm_jax.metrics import scores
from masm_jax.perturbations import copies
from masm_jax.prediction import command, inputs
from masm_jax.prediction import results as predictions
from masm_jax.preprocess import run as preprocessing
from masm_jax.preprocess import video
from masm_jax.preprocess.layouts import base
from tests.waiting import ends_within

HOLES = 200 * 2**30


@pytest.fixture(autouse=True)
def no_waiting():
  """No test waits for somebody to write into a pipe."""
  with ends_within(20):
    yield


def pipe(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  os.mkfifo(path)


def device(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to('/dev/zero')


def listen(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  folder = os.open(path.parent, os.O_RDONLY)  # Addresses are short.
  with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(f'/proc/self/fd/{folder}/{path.name}')
  os.close(folder)


def holes(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('wb') as file:
    file.truncate(HOLES)


@pytest.mark.parametrize(
  ('make', 'told'),
  [
    (pipe, 'a named pipe'),
    (device, 'a device'),
    (listen, 'a socket'),
    (holes, r'214,748,364,800 bytes; the limit is 268,435,456'),
  ],
)
def test_what_is_no_plain_file_is_one_line(tmp_path, make, told):
  make(tmp_path / 'a.json')
  with pytest.raises(UnfitFileError, match=told) as raised:
    plain_files.read_bytes(tmp_path / 'a.json')
  assert re.search(told, errors.storage_text(raised.value))  # Where nobody has caught it.
  with pytest.raises(UserError, match=told):
    files.read_json(tmp_path / 'a.json')


def test_plain_files_are_read_whole_and_up_to_their_limit(tmp_path):
  path = tmp_path / 'a'
  for size in (0, 1, 2**20, 2**20 + 1, 3 * 2**20):
    path.write_bytes(os.urandom(size))
    assert plain_files.read_bytes(path, max_bytes=size) == path.read_bytes()
    if size:
      with pytest.raises(UnfitFileError, match='the limit is'):
        plain_files.read_bytes(path, max_bytes=size - 1)
  (tmp_path / 'link').symlink_to('a')
  assert plain_files.read_bytes(tmp_path / 'link') == path.read_bytes()
  with pytest.raises(UnfitFileError, match='a link'):
    plain_files.open_file(tmp_path / 'link', follows_links=False)
  for wrong, kind in (('none', FileNotFoundError), ('', IsADirectoryError)):
    with pytest.raises(kind) as raised:
      plain_files.open_file(tmp_path / wrong)
    assert raised.value.filename == os.fspath(tmp_path / wrong)


def test_a_large_table_has_no_holes(tmp_path, monkeypatch):
  path = tmp_path / 'metrics.jsonl'
  with path.open('wb') as file:
    file.truncate(2**32)
  for read in (telemetry.read_lines, scores.read_scores):
    with pytest.raises(UserError, match='4,294,967,296 bytes that has a hole: it is damaged'):
      read(path)
  monkeypatch.setattr(plain_files, 'MAX_DOCUMENT_BYTES', 10)
  path.write_text('{"step": 1}\n' * 3000)
  assert len(telemetry.read_lines(path)) == 3000


def test_the_memory_is_what_the_limits_leave(monkeypatch):
  found = plain_files.memory_bytes()
  assert 2**28 < found <= os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  limits = {resource.RLIMIT_AS: found // 2, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
  monkeypatch.setattr(resource, 'getrlimit', lambda kind: (limits[kind], resource.RLIM_INFINITY))
  assert plain_files.memory_bytes() == found // 2


def test_a_file_that_does_not_tell_its_size_is_read_up_to_the_limit():
  assert b'Pid:' in plain_files.read_bytes('/proc/self/status')
  with pytest.raises(UnfitFileError, match='the limit is 16'):
    plain_files.read_bytes('/proc/self/status', max_bytes=16)


# Each reads a file of this name in a folder.
READERS = {
  'results.json': files.read_json,
  '.a.json.spare': lambda path: [
    path.with_name('a.json').write_text('{'),
    files.read_json(path.with_name('a.json')),
  ],
  'metrics.jsonl': telemetry.read_lines,
  '.metrics.jsonl.spare': lambda path: [
    path.with_name('metrics.jsonl').write_text('{"step": 1}\n'),
    telemetry.read_lines(path.with_name('metrics.jsonl')),
  ],
  'process_0-of-1.json': lambda path: positions.read(path.parent, 1, {}),
  'preprocess.json': lambda path: preprocessing._check_parameters(path.parent, {'a': 1}),
  'predictions.jsonl': predictions.read_lines,
  'perturbation.json': lambda path: copies._begin(path.parent, {'a': 1}),
  'image.png': lambda path: storage.read_bytes(path, max_bytes=2**20),
  'test.txt': base.read_list,
  'weights.safetensors': plain_files.sha256,
  'clip.mp4': lambda path: video.read_video(path, 1),
}


@pytest.mark.parametrize('make', [pipe, device])
@pytest.mark.parametrize('name', READERS)
def test_no_reader_waits(tmp_path, name, make):
  make(tmp_path / name)
  with pytest.raises((UserError, OSError, video.UnreadableError)):
    READERS[name](tmp_path / name)


def test_a_sparse_file_is_no_evaluation_and_takes_no_memory(tmp_path):
  holes(tmp_path / 'results.json')
  with pytest.raises(UserError, match='the limit is'):
    evaluations.read(tmp_path)


def test_a_pipe_among_the_files_to_predict_is_passed_to_the_engine_which_names_it(tmp_path):
  pipe(tmp_path / 'a.png')
  device(tmp_path / 'b.mp4')
  found = inputs.list_files([str(tmp_path)], stdin=io.StringIO())
  assert [pathlib.Path(path).name for path in found] == ['a.png', 'b.mp4']
  nothing = command._sha256(str(tmp_path / 'none'))
  assert [command._sha256(path) for path in found] == [nothing, nothing]
