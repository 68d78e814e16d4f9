"""Who may ask the server, from where, and what every response forbids."""

import pytest

from tests.serving.conftest import problem, serving, upload

TOKEN = 'correct-horse-battery-staple'


@pytest.fixture
def guarded(tmp_path, scorer):
  with serving(tmp_path / 'data', scorer, token=TOKEN, hosts=()) as made:
    yield made


@pytest.mark.parametrize(
  'given', ['', 'Bearer', 'Bearer wrong', f'Basic {TOKEN}', f'Bearer {TOKEN}x', 'Bearer \xe9']
)
def test_without_the_token_there_is_nothing(guarded, given):
  headers = [('authorization', given.encode('latin-1'))] if given else []
  paths = ('/v1/model', '/metrics', '/v1/predictions/x', '/v1/predictions/x/report', '/nothing')
  for path in paths:
    response = guarded.get(path, headers=headers)
    assert 'token' in problem(response, 401) and TOKEN not in response.text
    assert response.headers['www-authenticate'].startswith('Bearer')
  problem(upload(guarded, headers=headers), 401)
  for path in ('/', '/healthz', '/openapi.json', '/static/page.js'):
    assert guarded.get(path, headers=headers).status_code == 200


def test_with_the_token_there_is_all(guarded):
  headers = {'authorization': f'bearer {TOKEN}'}
  response = upload(guarded, headers=headers, path='/v1/predictions?wait=1')
  assert response.status_code == 200
  assert 'set-cookie' not in response.headers
  assert guarded.get('/v1/model', headers=headers).json()['model']['method'] == 'masm'


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    ('localhost', 200), ('localhost:8000', 200), ('LOCALHOST.:1', 200),
    ('evil.example', 421), ('localhost.evil.example', 421), ('evil@localhost', 421), ('', 421),
    ('127.0.0.1', 421),  # The names are those that the command gives.
  ],
)  # fmt: skip
def test_another_name_is_refused(client, host, status):
  assert client.get('/v1/model', headers={'host': host}).status_code == status


@pytest.mark.parametrize(
  ('headers', 'status'),
  [
    ({}, 202),
    ({'origin': 'http://localhost'}, 202),
    ({'origin': 'http://localhost', 'sec-fetch-site': 'same-origin'}, 202),
    ({'origin': 'https://evil.example'}, 403),
    ({'origin': 'null'}, 403),
    ({'sec-fetch-site': 'cross-site'}, 403),
    ({'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'origin': 'null'}, 403),
  ],
)
def test_a_page_of_another_site_cannot_post(client, scorer, headers, status):
  assert upload(client, headers=headers).status_code == status


def test_every_response_is_locked_down(client):
  place = upload(client, path='/v1/predictions?wait=1').json()['links']['self']
  paths = ('/', '/static/page.js', '/v1/model', place, f'{place}/report', '/nothing', '/healthz')
  for path in paths:
    headers = client.get(path, headers={'origin': 'http://localhost'}).headers
    policy = headers['content-security-policy']
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert "script-src 'self'" in policy or 'sandbox' in policy
    assert 'unsafe-eval' not in policy and ('unsafe-inline' not in policy or 'sandbox' in policy)
    assert headers['x-content-type-options'] == 'nosniff'
    assert headers['referrer-policy'] == 'no-referrer'
    assert not [name for name in headers if name.startswith('access-control-')]
    assert 'set-cookie' not in headers and 'server' not in headers
