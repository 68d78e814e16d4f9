import functools
import hashlib
import http.server
import threading

import pytest

from masm_jax import plain_files
from masm_jax.errors import UserError
from masm_jax.preprocess import model_file
from masm_jax.preprocess.__main__ import main

CONTENT = b'a model' * 100


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache, and a short file that counts as the published one."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(model_file, 'SHA256', hashlib.sha256(CONTENT).hexdigest())
  return tmp_path / 'cache' / 'masm_jax' / 'models' / model_file.NAME


@pytest.fixture
def server(tmp_path):
  """Serves a folder over HTTP; gives its address, the folder, and the paths asked for."""
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      asked.append(self.path)

  folder = tmp_path / 'served'
  folder.mkdir()
  handler = functools.partial(Handler, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f'http://127.0.0.1:{running.server_port}', folder, asked
    running.shutdown()
    thread.join()


def test_one_download_and_no_second(server, cache):
  address, folder, asked = server
  (folder / 'good').write_bytes(CONTENT)
  (folder / 'bad').write_bytes(CONTENT[1:])
  urls = [f'{address}/{name}' for name in ('missing', 'bad', 'good', 'never')]
  assert model_file.yunet_model(urls=urls) == str(cache)
  assert cache.read_bytes() == CONTENT
  assert list(cache.parent.iterdir()) == [cache]
  assert '/good' in asked and '/never' not in asked
  asked.clear()
  assert model_file.yunet_model(urls=urls) == str(cache)
  assert asked == []


def test_a_damaged_cache_is_fetched_anew(server, cache):
  address, folder, _ = server
  (folder / 'good').write_bytes(CONTENT)
  cache.parent.mkdir(parents=True)
  cache.write_bytes(b'half')
  model_file.yunet_model(urls=[f'{address}/good'])
  assert cache.read_bytes() == CONTENT


def test_nothing_wrong_is_kept(server, cache):
  address, folder, _ = server
  (folder / 'bad').write_bytes(b'<html>')
  with pytest.raises(UserError) as error:
    model_file.yunet_model(urls=[f'{address}/bad', f'{address}/missing', 'http://127.0.0.1:1/x'])
  text = str(error.value)
  for part in ('SHA-256 differs', '404', 'refused', '--yunet FILE', '--detector haar'):
    assert part in text
  assert not cache.exists() and '\n' not in text


def test_each_command_names_its_own_flag(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  with pytest.raises(UserError, match='the weaker --faces haar'):
    model_file.yunet_model(urls=['http://127.0.0.1:1/x'], instead='--faces haar')


def test_nothing_is_fetched_for_input_that_is_not_there(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(model_file, 'yunet_model', lambda path, **_: pytest.fail('fetches the model'))
  assert main(['--input', f'{tmp_path}/none', '--output', f'{tmp_path}/out']) == 2
  assert capsys.readouterr().err == f'error: --input {tmp_path}/none: no such folder or file\n'


def test_files_by_path(tmp_path):
  (tmp_path / 'own.onnx').write_bytes(b'own')
  assert model_file.yunet_model(tmp_path / 'own.onnx', urls=()) == str(tmp_path / 'own.onnx')
  with pytest.raises(UserError, match='no model file at'):
    model_file.yunet_model(tmp_path / 'none.onnx')


def test_the_check_copy_is_the_pinned_one(yunet, monkeypatch, tmp_path):
  monkeypatch.undo()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  fetched = model_file.yunet_model(urls=[f'file://{yunet}'])
  assert plain_files.sha256(fetched) == model_file.SHA256
