"""The command: what it refuses, and a server under load that is killed in the middle."""

import json

import cv2
import numpy as np
import pytest

from benchmarks import serve as load
from masm_jax import processes, serve


@pytest.fixture
def refused(tmp_path, capsys):
  """Runs the command, which ends at once with one line; returns that line."""

  def run(*flags):
    token = tmp_path / 'good.txt'
    token.write_text('correct-horse-battery-staple\n')
    flags = [flag.format(token=token) for flag in flags]
    data = tmp_path / 'data'
    assert serve.main(['--model=nowhere', f'--data={data}', '--port=0', *flags]) == 2
    assert not data.exists() or [path.name for path in data.iterdir()] == ['.lock']
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    return error

  return run


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--host=0.0.0.0'], '--host=0.0.0.0 lets other machines ask: give --token-file'),
    (['--host=example.org'], 'give --token-file'),
    (['--allow-host=faces.example.org'], '--allow-host lets other machines ask'),
    (['--token-file=none.txt'], '--token-file=none.txt: cannot be read'),
    (['--keep=soon'], '--keep=soon: give a time such as'),
    (['--keep=0h'], '--keep=0h'),
    (['--queue=0'], '--queue'),
    (['--max-seconds=0'], 'limit seconds = 0.0: give more than 0'),
    (['--port=99999999'], '--port=99999999'),
    (['--host=192.0.2.1', '--token-file={token}'], 'cannot listen at 192.0.2.1:0'),
    (['--host=10.0..1', '--token-file={token}'], 'cannot listen at 10.0..1:0'),
    ([], 'nowhere'),  # No such run.
  ],
)
def test_what_cannot_be_served_is_one_line(refused, flags, said):
  assert said in refused(*flags)


@pytest.mark.parametrize('token', ['', 'short', 'with a space in the midst', 'ü' * 20])
def test_a_token_that_is_none_is_one_line(refused, tmp_path, token):
  path = tmp_path / 'token.txt'
  path.write_text(token)
  assert f'--token-file={path}' in refused(f'--token-file={path}')


def test_a_second_server_is_one_line(refused, tmp_path):
  owner = {
    'host': 'here',
    'machine': processes.machine(),
    'pid': 1,
    'started': processes.started(1),
  }
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / '.lock').write_text(json.dumps(owner | {'token': 'a', 'command': 'serve'}))
  assert f'{tmp_path / "data"} is in use by process 1 on here' in refused()


def test_no_job_is_lost_when_a_server_under_load_is_killed(trained_run, tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  rng = np.random.default_rng(0)
  for i in range(3):
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / f'{i}.png'), image)
  numbers = tmp_path / 'load.json'
  flags = ['--faces=whole', '--num-processes=1', '--queue=3']
  status = load.main(
    [f'--model={trained_run}', f'--files={tmp_path}', '--seconds=4', '--clients=4', '--kill',
     '--raw-seconds=0', f'--json={numbers}', '--', *flags]
  )  # fmt: skip
  found = json.loads(numbers.read_text())
  assert status == 0 and found['lost'] == 0 and found['accepted'] > 4
  assert found['statuses']['202'] == found['accepted']
  assert set(found['statuses']) <= {'0', '200', '202', '429', '503'}
  assert found['statuses']['429'] > 0 and found['statuses']['0'] > 0  # It was full, and killed.
