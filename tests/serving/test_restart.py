"""What a data folder keeps: jobs over a restart, answers for their time, one server alone."""

import json
import os
import sqlite3
import time

import pytest

from masm_jax.errors import UserError
from masm_jax.serving import jobs as jobs_lib
from masm_jax.serving.store import Store
from tests.serving import fakes
from tests.serving.conftest import ended, serving, upload, wait_until


def killed_with(folder, files):
  """A data folder as a server leaves it that is killed: (bytes, state) of each job."""
  folder.mkdir()
  store = Store(folder)
  ids = []
  for i, (data, state) in enumerate(files):
    job_id = f'{i:032x}'
    store.upload(job_id).write_bytes(data)
    store.add(job_id, f'{i}.mp4', len(data))
    if state == 'running':
      assert store.begin(job_id) == 1
    ids.append(job_id)
  (store.uploads / f'{9:032x}').write_bytes(b'of a client whose upload was not accepted yet')
  store.close()
  return ids


def test_open_jobs_are_done_after_a_restart_in_order_and_once(tmp_path, scorer):
  states = ['running', 'running', 'queued', 'queued', 'queued']
  files = [(f'fake {i}'.encode(), state) for i, state in enumerate(states)]
  ids = killed_with(tmp_path / 'data', files)
  with serving(tmp_path / 'data', scorer, workers=1) as client:
    documents = [ended(client, f'/v1/predictions/{job_id}') for job_id in ids]
    assert [d['answer']['verdict'] for d in documents] == ['fake'] * 5
    assert [data for _, data in scorer.seen] == [data for data, _ in files]
    wait_until(lambda: not list(client.store.uploads.iterdir()))
    attempts = client.store._read('SELECT attempts FROM job ORDER BY number')
    assert attempts == [(2,), (2,), (1,), (1,), (1,)]
  with serving(tmp_path / 'data', scorer) as client:
    assert [client.get(f'/v1/predictions/{i}').json() for i in ids] == documents
  assert len(scorer.seen) == 5


def test_a_job_ends_once(tmp_path):
  (job_id,) = killed_with(tmp_path / 'data', [(b'x', 'running')])
  store = Store(tmp_path / 'data')
  first, second = fakes.answer('fake'), fakes.answer('real')
  assert store.finish(job_id, first, {'a.jpg': b'1'})
  assert not store.finish(job_id, second, {'a.jpg': b'2'}) and not store.fail(job_id, 'no')
  assert store.begin(job_id) == 0
  assert store.get(job_id).answer == json.loads(json.dumps(first))
  assert store.picture(job_id, 'a.jpg') == b'1' and store.get(job_id).error is None


def test_a_file_that_ends_the_server_again_and_again_is_given_up(tmp_path, scorer):
  (job_id,) = killed_with(tmp_path / 'data', [(b'fake 1', 'queued')])
  for attempt in range(jobs_lib.MAX_ATTEMPTS):
    store = Store(tmp_path / 'data')
    assert store.begin(job_id) == attempt + 1
    store.close()
  with serving(tmp_path / 'data', scorer) as client:
    document = ended(client, f'/v1/predictions/{job_id}')
    assert document['status'] == 'failed' and '5 times' in document['error']
    assert scorer.seen == []


def test_answers_are_deleted_after_their_time(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer, keep_s=1.0) as client:
    held = upload(client, b'hold 1').headers['location']
    place = upload(client, b'fake 1').headers['location']
    assert ended(client, place)['kept_until'] > '2020'
    wait_until(lambda: client.get(place).status_code == 404)
    assert client.store._read('SELECT count(*) FROM picture') == [(0,)]
    assert client.get(held).json()['status'] == 'running'  # Time counts from the end.
    scorer.gate.set()
    ended(client, held)
  time.sleep(1.0)
  with serving(tmp_path / 'data', scorer, keep_s=1.0) as client:
    wait_until(lambda: client.get(held).status_code == 404)


def test_what_is_deleted_is_not_in_the_file_either(tmp_path):
  (job_id,) = killed_with(tmp_path / 'data', [(b'x', 'running')])
  store = Store(tmp_path / 'data')
  store.finish(job_id, fakes.answer('fake', name='the secret name'), {'a.jpg': b'secret face' * 9})
  assert store.delete(job_id)
  store.close()
  data = b''.join(path.read_bytes() for path in (tmp_path / 'data').rglob('*') if path.is_file())
  assert b'secret' not in data


def test_the_folder_is_for_its_owner_alone(tmp_path):
  killed_with(tmp_path / 'data', [])
  assert os.stat(tmp_path / 'data' / 'uploads').st_mode & 0o077 == 0


def contents(folder):
  return {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')}


@pytest.mark.parametrize(
  'what', ['text', 'version', 'folder', 'foreign', 'foreign version', 'photos', 'link', 'notes']
)
def test_a_folder_that_is_none_of_ours_is_one_line_and_keeps_all(tmp_path, what):
  folder = tmp_path / 'data'
  path = folder / 'jobs.sqlite'
  folder.mkdir()
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / f'{1:032x}').write_bytes(b'the only copy')
  if what == 'text':
    path.write_text('no database' * 100)
  elif what == 'folder':
    path.mkdir()
  elif what == 'photos':
    (tmp_path / 'photos').rename(folder / 'uploads')
  elif what == 'link':
    (folder / 'uploads').symlink_to(tmp_path / 'photos')
  elif what == 'notes':
    (folder / 'notes.txt').touch()
  else:
    with sqlite3.connect(path) as db:
      if what.startswith('foreign'):
        db.execute('CREATE TABLE photo (name TEXT)')
      db.execute(
        f'PRAGMA user_version={0 if what == "foreign" else 1 if "foreign" in what else 99}'
      )
    db.close()
  before = contents(tmp_path)
  with pytest.raises(UserError, match=r'as --data|remove it') as error:
    Store(folder)
  assert str(folder) in str(error.value) and '\n' not in str(error.value)
  assert contents(tmp_path) == before


def test_what_came_into_the_uploads_is_left_alone(tmp_path, scorer):
  killed_with(tmp_path / 'data', [])
  others = tmp_path / 'data' / 'uploads' / 'photos', tmp_path / 'data' / 'uploads' / 'photo.jpg'
  others[0].mkdir()
  others[1].touch()
  stray = tmp_path / 'data' / 'uploads' / f'{9:032x}'
  with serving(tmp_path / 'data', scorer):
    wait_until(lambda: not stray.exists())
    assert all(path.exists() for path in others)


def test_a_first_start_that_was_killed_is_done_again(tmp_path):
  for path in ('jobs.sqlite', 'jobs.sqlite-wal', '.lock', '.lock.1-2-3'):
    (tmp_path / path).touch()
  (tmp_path / 'uploads').mkdir()
  Store(tmp_path).close()
  assert (tmp_path / 'jobs.sqlite').stat().st_size


def test_a_damaged_database_is_one_line(tmp_path):
  """Whichever byte is another one: it is refused, or what it says is sound."""
  ids = killed_with(tmp_path / 'data', [(b'x', 'running'), (b'y', 'queued')])
  store = Store(tmp_path / 'data')
  store.finish(ids[0], fakes.answer('fake'), {'a.jpg': b'1'})
  store.close()
  path = tmp_path / 'data' / 'jobs.sqlite'
  good = path.read_bytes()
  used = [i for i, byte in enumerate(good) if byte]
  outcomes = []
  for i in used[::48]:
    path.write_bytes(good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :])
    try:
      store = Store(tmp_path / 'data')
    except UserError as error:
      assert '\n' not in str(error)
      outcomes.append(False)
    else:
      store.remove_strays()
      assert all(store.get(job_id) for job_id in store.unfinished())
      store.close()
      outcomes.append(True)
    for end in ('-wal', '-shm'):
      path.with_name(path.name + end).unlink(missing_ok=True)
  assert {*outcomes} == {True, False}


def test_a_job_whose_id_is_a_path_is_damage(tmp_path):
  killed_with(tmp_path / 'data', [(b'x', 'queued')])
  with sqlite3.connect(tmp_path / 'data' / 'jobs.sqlite') as db:
    db.execute("UPDATE job SET id = '../../photo'")
  db.close()
  with pytest.raises(UserError, match='it is damaged, in a job'):
    Store(tmp_path / 'data')
