"""SIGKILL at ten random moments: nothing lost, done twice or half-written; and Ctrl-C."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from masm_jax.preprocess.__main__ import main

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NUM_KILLS = 10
NUM_VIDEOS = 120


def _command(root, output, settings, processes):
  words = ['--input', root, '--layout', 'folder', '--split', 'train', '--output', output]
  words += ['--frames', 2, '--size', 48, '--processes', processes]
  words += ['--yunet', settings.model] if settings.model else ['--detector', 'haar']
  return [str(word) for word in words]


def _check_committed(output, known):
  """All folders are whole, and the very ones that were seen before; returns their count."""
  found = list(output.glob('crops/**/.outcome.json'))
  for path in found:
    record = json.loads(path.read_bytes())
    files = {crop['file']: crop['sha256'] for crop in record['crops']}
    there = {p.name: p for p in path.parent.iterdir() if p != path}
    assert there.keys() == files.keys()
    for name, file in there.items():
      assert hashlib.sha256(file.read_bytes()).hexdigest() == files[name]
    facts = path.stat()
    assert known.setdefault(path, (facts.st_ino, facts.st_mtime_ns)) == (
      facts.st_ino, facts.st_mtime_ns
    )  # fmt: skip
  assert known.keys() == set(found)
  crops = [p for p in output.glob('crops/**/*') if p.is_file()]
  assert {p.parent for p in crops} == {path.parent for path in found}
  return len(found)


def _files(output):
  return {
    path.relative_to(output): path.read_bytes() for path in output.rglob('*') if path.is_file()
  }


def test_ten_kills_lose_and_repeat_nothing(tmp_path, clips, settings):
  for i in range(NUM_VIDEOS):
    path = tmp_path / 'raw' / ('real' if i % 2 else 'fake') / f'{i:03d}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips['no_face' if i % 10 == 3 else 'ok'], path)
  output, whole = tmp_path / 'killed', tmp_path / 'whole'
  command = _command(tmp_path / 'raw', output, settings, 2)
  rng = random.Random(0)
  known: dict[pathlib.Path, tuple[int, int]] = {}
  done = 0
  for kill in range(NUM_KILLS):
    process = subprocess.Popen(
      [sys.executable, '-m', 'masm_jax.preprocess', *command],
      cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    # Any moment from the start of the work on; the parent alone or, in turn, all at once.
    while len(list(output.glob('crops/**/.outcome.json'))) <= done and process.poll() is None:
      time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    assert process.poll() is None, 'it was done before it could be killed'
    (os.killpg if kill % 2 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for_workers(process.pid)
    done = _check_committed(output, known)
    assert done < NUM_VIDEOS

  assert main(_command(tmp_path / 'raw', output, settings, 0)) == 0
  assert _check_committed(output, known) == NUM_VIDEOS
  assert main(_command(tmp_path / 'raw', whole, settings, 0)) == 0
  assert _files(output) == _files(whole)
  assert len(_files(whole)) == NUM_VIDEOS + 2 * (NUM_VIDEOS - NUM_VIDEOS // 10) + 3


def _wait_for_workers(session):
  """Workers whose parent was killed see it at once, but not before."""
  deadline = time.monotonic() + 20
  while _members(session):
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _members(session):
  members = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      state, _, _, process_session = stat.read_text().rpartition(')')[2].split()[:4]
    except (OSError, ValueError):
      continue
    if int(process_session) == session and state != 'Z':
      members.append(stat.parent.name)
  return members


def test_ctrl_c(tmp_path, clips):
  for i in range(200):
    path = tmp_path / 'raw' / 'real' / f'{i:03d}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips['ok'], path)
  output = tmp_path / 'out'
  command = ['--input', tmp_path / 'raw', '--output', output, '--layout', 'folder', '--split']
  command += ['test', '--detector', 'haar', '--processes', '1']
  process = subprocess.Popen(
    # A shell starts background jobs, such as these tests may be, with SIGINT ignored.
    ['env', '--default-signal=INT', sys.executable, '-m', 'masm_jax.preprocess',
     *map(str, command)],
    text=True, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    start_new_session=True,
  )  # fmt: skip
  try:
    while process.poll() is None and not list(output.glob('crops/**/.outcome.json')):
      time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does it: to all of them.
    _, told = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 130
  assert told.endswith('interrupted; what is done stays, and the same command resumes\n')
  assert 'Traceback' not in told
