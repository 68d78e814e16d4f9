"""A server around a scorer that needs no model."""

import contextlib
import time

import jsonschema
import pytest
from starlette.testclient import TestClient

from masm_jax.serving import app as app_lib
from masm_jax.serving import openapi
from masm_jax.serving.store import Store
from tests.serving import fakes


@contextlib.contextmanager
def serving(folder, scorer, *, model=None, read=None, report=None, **settings):
  """A client of a server on a data folder."""
  folder.mkdir(exist_ok=True)
  store = Store(folder)
  app = app_lib.build(
    store,
    scorer,
    app_lib.Settings(**({'wait_s': 20.0, 'beat_s': 0.2, 'hosts': ('localhost',)} | settings)),
    model=model or {'model': fakes.MODEL, 'policy': fakes.POLICY},
    read=read or (lambda answer: {'headline': answer['verdict']}),
    report=report
    or (lambda answer, pictures: f'<!doctype html><title>{answer["verdict"]}</title>'),
  )
  client = TestClient(app, base_url='http://localhost', raise_server_exceptions=False)
  with client:
    client.store, client.jobs = store, app.state.jobs
    yield client
  store.close()


@pytest.fixture
def scorer():
  made = fakes.FakeScorer()
  yield made
  made.close()


@pytest.fixture
def client(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer) as made:
    yield made


def upload(client, data=b'fake 1', name='clip.mp4', **options):
  """Sends a file."""
  path = options.pop('path', '/v1/predictions')
  return client.post(path, files={'file': (name, data)}, **options)


def wait_until(condition, within_s=10.0):
  """Waits for what another thread does."""
  deadline = time.monotonic() + within_s
  while not (value := condition()):
    assert time.monotonic() < deadline, 'it did not happen'
    time.sleep(0.01)
  return value


def ended(client, place):
  """The document of a job at its end."""
  return wait_until(
    lambda: (doc := client.get(place).json())['status'] in ('done', 'failed') and doc
  )


def problem(response, status):
  """The sentence of an error, after a look at its form."""
  assert response.status_code == status, response.text
  assert response.headers['content-type'] == 'application/problem+json'
  body = response.json()
  jsonschema.validate(body, openapi.document()['components']['schemas']['Problem'])
  assert body['status'] == status and body['detail'].endswith('.')
  assert 'Traceback' not in response.text and 'secret' not in response.text
  return body['detail']
