"""The record names what ran; a commit is only claimed for tracked code."""

import json
import platform
import subprocess

import jax
import ml_collections
import pytest

import masm_jax
from masm_jax import telemetry
from masm_jax.export import detector as export
from masm_jax.telemetry import record, run_record


def test_record_is_plain_json_and_repeats():
  config = ml_collections.ConfigDict({'mask': {'keep': 0.5}, 'mean': (0.5, 0.4), 'path': None})
  found = run_record(config, {'train': 'ab12'})
  assert json.loads(json.dumps(found)) == found == run_record(config, {'train': 'ab12'})
  assert found['config'] == {'mask': {'keep': 0.5}, 'mean': [0.5, 0.4], 'path': None}
  assert found['manifest_sha256'] == {'train': 'ab12'}
  assert found['versions']['jax'] == jax.__version__
  assert found['versions']['masm_jax'] == masm_jax.__version__
  assert found['python'] == platform.python_version()
  assert found['devices'] == {'backend': 'cpu', 'kind': 'cpu', 'count': 8, 'hosts': 1}


def test_config_that_json_cannot_hold_is_refused():
  with pytest.raises(TypeError, match='no place in JSON'):
    run_record({'a': object()}, {})


@pytest.mark.parametrize('by', ['sha1', 'sha256'])
def test_git_state_is_of_tracked_code_only(tmp_path, monkeypatch, by):
  def git(*arguments):
    identity = ('-c', 'user.name=t', '-c', 'user.email=t@example.org')
    command = ['git', '-C', str(tmp_path), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  file = tmp_path / 'code.py'
  file.write_text('a = 1\n')
  assert record.git_state(file) is None  # No repository.
  git('init', '-q', f'--object-format={by}')
  assert record.git_state(file) is None  # Not tracked, as an installed copy in .venv would be.
  git('add', 'code.py')
  assert record.git_state(file) is None  # No commit yet.
  git('-c', 'commit.gpgsign=false', 'commit', '-q', '-m', 'x')
  assert record.git_state(file) == {'commit': git('rev-parse', 'HEAD'), 'changed_files': False}
  (tmp_path / 'untracked').write_text('')
  assert record.git_state(file)['changed_files'] is False
  file.write_text('a = 2\n')
  found = record.git_state(file)
  assert found['changed_files'] is True
  for state, commit in (
    (found, f'{found["commit"]}+changes'),
    (found | {'changed_files': None}, None),
    (None, None),
  ):
    monkeypatch.setattr(telemetry, 'git_state', lambda state=state: state)
    assert export._code().commit == commit


@pytest.mark.parametrize('says', [b'', b'abc', b'\xff\xfe', b'a' * 41, b'a' * 40 + b'\nnonsense'])
def test_a_git_that_talks_nonsense_names_no_commit(tmp_path, monkeypatch, says):
  (tmp_path / 'says').write_bytes(says)
  (tmp_path / 'git').write_text(f'#!/bin/sh\nexec /bin/cat {tmp_path / "says"}\n')
  (tmp_path / 'git').chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path))
  assert record.git_state(tmp_path / 'code.py') is None


def test_missing_git_program_is_no_error(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert record.git_state(tmp_path / 'code.py') is None
