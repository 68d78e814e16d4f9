"""The API over HTTP: uploads, answers, events, and every refusal in one sentence."""

import contextlib
import json
import os
import threading
import time

import jsonschema
import pytest

from masm_jax.prediction import answers
from masm_jax.serving import jobs, openapi
from tests.disks import small_disk
from tests.serving.conftest import ended, problem, serving, upload, wait_until


def check_prediction(document):
  """Holds the document to the server's own description."""
  schemas = openapi.document()['components']['schemas']
  shape = {key: value for key, value in schemas['Prediction'].items()}
  shape['properties'] = shape['properties'] | {'answer': {}}
  jsonschema.validate(document, shape)
  if document['answer'] is not None:
    jsonschema.validate(document['answer'], answers.schema())


@pytest.mark.parametrize('verdict', answers.VERDICTS)
def test_an_upload_gets_its_answer(client, scorer, verdict):
  accepted = upload(client, f'{verdict} 1'.encode())
  assert accepted.status_code == 202
  place = accepted.headers['location']
  check_prediction(accepted.json())
  document = ended(client, place)
  check_prediction(document)
  assert (document['status'], document['answer']['verdict']) == ('done', verdict)
  assert document['words'] == {'headline': verdict} and document['name'] == 'clip.mp4'
  assert (document['answer']['probability'] is None) == (verdict == 'no_answer')
  assert scorer.seen == [('clip.mp4', f'{verdict} 1'.encode())]
  wait_until(lambda: not list(client.store.uploads.iterdir()))  # Strangers' files are not kept.
  (name,) = document['pictures']
  picture = client.get(f'{place}/pictures/{name}')
  assert picture.headers['content-type'] == 'image/jpeg' and picture.content[:2] == b'\xff\xd8'
  report = client.get(f'{place}/report')
  assert 'sandbox' in report.headers['content-security-policy']
  assert report.headers['content-type'].startswith('text/html')


def test_wait_answers_at_once(client):
  response = upload(client, b'fake 1', path='/v1/predictions?wait=1')
  assert response.status_code == 200 and response.json()['answer']['verdict'] == 'fake'


def test_a_wait_that_lasts_ends_with_202(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer, wait_s=0.2) as client:
    response = upload(client, b'hold 1', path='/v1/predictions?wait=1')
    assert response.status_code == 202 and response.json()['status'] == 'running'
    assert client.get(response.headers['location']).status_code == 200
    scorer.gate.set()
    assert ended(client, response.headers['location'])['status'] == 'done'


def events(text):
  """(event, data) of a stream."""
  blocks = [block for block in text.split('\n\n') if block.startswith('event: ')]
  return [
    (event.removeprefix('event: '), json.loads(data.removeprefix('data: ')))
    for event, data in (block.split('\n') for block in blocks)
  ]


def test_events_tell_of_progress_and_of_the_end(client, scorer):
  place = upload(client, b'hold 1').headers['location']
  threading.Timer(0.5, scorer.gate.set).start()
  response = client.get(f'{place}/events')  # Ends with the job.
  assert response.headers['content-type'].startswith('text/event-stream')
  told = events(response.text)
  assert told[-1][0] == 'done' and told[-1][1]['status'] == 'done'
  assert {name for name, _ in told[:-1]} == {'progress'}
  stages = [state['progress']['stage'] for _, state in told if state['progress']]
  assert stages and stages[-1] == 'score'
  assert ': still here' in response.text  # While nothing changes, the line is kept open.
  for _, state in told:
    jsonschema.validate(state, openapi.document()['components']['schemas']['State'])
  again = events(client.get(f'{place}/events').text)
  assert [name for name, _ in again] == ['done']


def test_a_full_queue_says_when_to_come_again(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer, queue=3, workers=1) as client:
    places = [upload(client, b'hold 1').headers['location'] for _ in range(3)]
    wait_until(lambda: client.get(places[0]).json()['status'] == 'running')
    assert [client.get(place).json()['ahead'] for place in places] == [None, 0, 1]
    refused = upload(client, b'hold 4')
    assert 'full' in problem(refused, 429) and 1 <= int(refused.headers['retry-after']) <= 60
    assert len(list(client.store.uploads.iterdir())) == 3
    scorer.gate.set()
    assert all(ended(client, place)['status'] == 'done' for place in places)
    assert upload(client, b'fake 5').status_code == 202


def test_delete_takes_all_that_there_is(client, scorer):
  place = upload(client, b'fake 1').headers['location']
  ended(client, place)
  assert client.delete(place).status_code == 204
  for path in (place, f'{place}/events', f'{place}/report', f'{place}/pictures/view-0.jpg'):
    problem(client.get(path), 404)
  problem(client.delete(place), 404)
  held = [upload(client, b'hold 1').headers['location'] for _ in range(5)]  # Four run, one waits.
  wait_until(lambda: len(scorer.seen) == 5)
  assert [client.delete(place).status_code for place in held] == [204] * 5
  scorer.gate.set()
  wait_until(lambda: not client.jobs._live)
  assert list(client.store.uploads.iterdir()) == [] and client.store.unfinished() == []
  assert client.store._read('SELECT count(*) FROM picture') == [(0,)]


def test_an_error_of_the_scorer_is_one_sentence(client, caplog):
  document = ended(client, upload(client, b'crash 1').headers['location'])
  assert document['status'] == 'failed' and document['answer'] is None
  assert 'log' in document['error'] and 'secret' not in json.dumps(document)
  assert 'secret of the server' in caplog.text
  problem(client.get(document['links']['report']), 409)
  assert upload(client, b'fake 1', path='/v1/predictions?wait=1').status_code == 200


@pytest.mark.parametrize(
  ('name', 'shown'),
  [
    ('../../../etc/passwd', 'passwd'),
    ('..\\..\\boot.ini', 'boot.ini'),
    ('a/../..', 'upload'),
    ('x\u202egpj.exe', 'xgpj.exe'),
    ('n' * 10_000, 'n' * 200),
    ('日本.mp4', '日本.mp4'),
    ('<img src=x onerror=alert(1)>.png', '<img src=x onerror=alert(1)>.png'),
  ],
)
def test_names_are_shown_and_are_no_paths(client, scorer, tmp_path, name, shown):
  before = {path for path in tmp_path.rglob('*') if 'uploads' not in path.parts}
  document = upload(client, b'real 1', name=name, path='/v1/predictions?wait=1').json()
  assert document['name'] == shown and scorer.seen[0][0] == shown
  assert {path for path in tmp_path.rglob('*') if 'uploads' not in path.parts} <= before | {
    client.store.uploads.parent / f'jobs.sqlite{end}' for end in ('', '-wal', '-shm')
  }


BOUNDARY = 'multipart/form-data; boundary=b'
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nfake 1\r\n'


def part(head, body=b'fake 1'):
  return b'--b\r\nContent-Disposition: form-data; ' + head + b'\r\n\r\n' + body + b'\r\n'


@pytest.mark.parametrize(
  ('content', 'kind', 'status'),
  [
    (b'fake 1', 'application/octet-stream', 415),
    (b'{"url": "http://169.254.169.254/"}', 'application/json', 415),
    (b'url=file:///etc/passwd', 'application/x-www-form-urlencoded', 415),
    (PART, 'multipart/form-data', 415),
    (b'', BOUNDARY, 400),
    (b'nonsense', BOUNDARY, 400),
    (PART, BOUNDARY, 400),  # Cut off.
    (PART + PART + b'--b--\r\n', BOUNDARY, 400),  # Two files.
    (part(b'name="url"', b'http://x') + b'--b--\r\n', BOUNDARY, 400),
    (part(b'name="other"; filename="a"') + b'--b--\r\n', BOUNDARY, 400),
    (part(b'name="file"') + b'--b--\r\n', BOUNDARY, 400),  # A field, not a file.
    (PART + b'--b--\r\n' + b'x' * 40_000, BOUNDARY, 400),
    (part(b'name="file"; filename="' + b'a' * 20_000 + b'"') + b'--b--\r\n', BOUNDARY, 400),
    (PART + b'--b--\r\n', BOUNDARY, 202),
    (part(b'name="file"; filename=""', b'') + b'--b--\r\n', BOUNDARY, 202),  # Empty: unreadable.
    (part(b'name="file"; filename="a\x00\x1b[31m\xff"') + b'--b--\r\n', BOUNDARY, 202),
  ],
)
def test_bodies_that_are_no_upload(client, scorer, content, kind, status):
  response = client.post('/v1/predictions', content=content, headers={'content-type': kind})
  if status == 202:
    ended(client, response.headers['location'])
    assert scorer.seen[0][0] in ('a', 'upload', 'a[31m�')
    return
  problem(response, status)
  assert scorer.seen == [] and list(client.store.uploads.iterdir()) == []
  assert client.jobs._arriving == 0 and client.store.unfinished() == []


def test_no_byte_over_the_limit_is_stored(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer, max_bytes=100_000) as client:
    assert '0.1 MB' in problem(upload(client, b'x' * 200_000), 413)  # By its Content-Length.
    sent = []

    def endless():
      yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
      for _ in range(60):
        sent.append(max((p.stat().st_size for p in client.store.uploads.iterdir()), default=0))
        yield b'x' * 10_000

    response = client.post('/v1/predictions', content=endless(), headers={'content-type': BOUNDARY})
    problem(response, 413)
    assert max(sent) <= 100_000 and list(client.store.uploads.iterdir()) == []
    assert upload(client, b'real ' + b'x' * 99_995).status_code == 202


def test_a_disk_that_is_full_is_told_of(client, monkeypatch):
  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  refused = upload(client)
  assert 'store' in problem(refused, 503) and refused.headers['retry-after']
  assert list(client.store.uploads.iterdir()) == []


def test_the_database_of_a_disk_that_is_full_loses_no_job(tmp_path, scorer, monkeypatch):
  """What was accepted is done as soon as there is room; what was not leaves no file."""
  monkeypatch.setattr(jobs, '_RETRY_S', 0.05)
  with small_disk(tmp_path / 'disk', 2**12) as disk, serving(disk / 'data', scorer) as client:
    accepted = upload(client, b'hold 1')
    assert accepted.status_code == 202
    wait_until(lambda: scorer.seen)
    filler = disk / 'filler'
    with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
      while True:
        file.write(b'x' * 4096)
    # Room for an upload, and none for what the database writes of it.
    os.truncate(filler, filler.stat().st_size - 4096)
    refused = upload(client)
    assert 'store' in problem(refused, 503) and refused.headers['retry-after']
    scorer.gate.set()
    time.sleep(0.3)
    assert client.get(accepted.headers['location']).json()['status'] == 'running'
    filler.unlink()
    assert ended(client, accepted.headers['location'])['status'] == 'done'
    wait_until(lambda: not list(client.store.uploads.iterdir()))
    assert ended(client, upload(client).headers['location'])['status'] == 'done'


def test_other_methods_and_addresses(client):
  problem(client.get('/v1/nothing'), 404)
  assert 'POST' in client.get('/v1/predictions').headers['allow']
  problem(client.get('/v1/predictions'), 405)
  for name in ('..%2f..%2fapp.py', 'app.py', '.', '%00'):
    assert client.get(f'/static/{name}').status_code == 404


def test_the_description_names_every_route(client):
  document = client.get('/openapi.json').json()
  described = {(path, method) for path, item in document['paths'].items()
               for method in item if method != 'parameters'}  # fmt: skip
  routes = {
    (route.path.replace(':str', ''), method.lower())
    for route in client.app.routes
    for method in route.methods - {'HEAD'}
  }
  assert described == routes - {('/', 'get'), ('/static/{name}', 'get')}
  for schema in document['components']['schemas'].values():
    jsonschema.Draft202012Validator.check_schema(schema)


def test_metrics_count_what_happened(client):
  upload(client, b'fake 1', path='/v1/predictions?wait=1')
  ended(client, upload(client, b'crash 1').headers['location'])
  client.get('/v1/predictions/none')
  # A job is seen as ended a moment before it is counted.
  failed = 'masm_jax_jobs_ended_total{end="failed"} 1.0'
  wait_until(lambda: failed in client.get('/metrics').text)
  text = client.get('/metrics').text
  for line in (
    'masm_jax_jobs_accepted_total 2.0',
    'masm_jax_jobs_ended_total{end="fake"} 1.0',
    'masm_jax_jobs_ended_total{end="failed"} 1.0',
    'masm_jax_upload_bytes_total 13.0',
    'masm_jax_jobs_queued 0.0',
    'masm_jax_job_seconds_count 1.0',
    'masm_jax_http_requests_total{method="GET",route="/v1/predictions/{id:str}",status="404"} 1.0',
  ):
    assert line in text.splitlines(), line
  assert 'clip.mp4' not in text


def test_a_server_that_stops_takes_nothing_and_loses_nothing(tmp_path, scorer):
  with contextlib.ExitStack() as stack:
    client = stack.enter_context(serving(tmp_path / 'data', scorer))
    place = upload(client, b'hold 1').headers['location']
    wait_until(lambda: scorer.seen)
    client.jobs.stop()
    assert problem(upload(client), 503) and client.get('/healthz').status_code == 503
    assert upload(client).headers['retry-after']
    assert [name for name, _ in events(client.get(f'{place}/events').text)] == ['progress']
  scorer.gate.set()
  with serving(tmp_path / 'data', scorer) as client:
    assert ended(client, place)['status'] == 'done'
