"""Connections that ask for nothing, or for no HTTP, keep nobody out and fill no log."""

import contextlib
import errno
import http.client
import logging
import socket
import threading
import time
import types

import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from masm_jax.serving import app as app_lib
from masm_jax.serving import connections, listening
from masm_jax.serving.store import Store

TOKEN = 'correct-horse-battery-staple'
ASKS = f'Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n'


@contextlib.contextmanager
def live(folder, scorer):
  """The port of a server in a thread."""
  folder.mkdir()
  store = Store(folder)
  app = app_lib.build(
    store, scorer, app_lib.Settings(token=TOKEN, hosts=('localhost',), beat_s=0.1),
    model={}, read=lambda answer: {}, report=lambda answer, pictures: '',
  )  # fmt: skip
  with served(app) as (port, _):
    assert status(port) == 200
    yield port
  store.close()


@contextlib.contextmanager
def served(app):
  """Port and server of an app in a thread."""
  listens = listening.bind('127.0.0.1', 0)
  server = listening.Server(app)
  thread = threading.Thread(target=server.run, args=([listens],))
  thread.start()
  yield listens.getsockname()[1], server
  server.stop()
  thread.join()


@pytest.fixture
def port(tmp_path, scorer):
  with live(tmp_path / 'data', scorer) as made:
    yield made


def connected(port):
  return socket.create_connection(('127.0.0.1', port), timeout=5)


def status(port, path='/healthz'):
  client = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
  client.request('GET', path, headers={'Host': 'localhost'})
  found = client.getresponse().status
  client.close()
  return found


def said(port, request):
  """All that the server answers to these bytes."""
  with connected(port) as one:
    one.sendall(request)
    found = b''
    while block := one.recv(4096):
      found += block
  return found.decode()


def test_who_asks_for_nothing_keeps_nobody_out(tmp_path, scorer, monkeypatch):
  monkeypatch.setattr(connections, 'most_connections', lambda: 6)
  with live(tmp_path / 'data', scorer) as port, contextlib.ExitStack() as stack:
    upload = stack.enter_context(connected(port))  # It has asked, and stays.
    upload.sendall(
      f'POST /v1/predictions HTTP/1.1\r\n{ASKS}Content-Length: 9\r\n'
      'Content-Type: multipart/form-data; boundary=b\r\n\r\n'.encode()
    )
    time.sleep(0.1)
    idle = [stack.enter_context(connected(port)) for _ in range(40)]
    assert [status(port) for _ in range(3)] == [200, 200, 200]
    idle[0].settimeout(2)
    with contextlib.suppress(ConnectionResetError):
      assert idle[0].recv(1) == b''  # The one that has waited longest gives way.
    upload.sendall(b'no form..')
    assert upload.recv(20).startswith(b'HTTP/1.1 400')


def test_a_head_has_its_time_and_an_answer_takes_what_it_takes(tmp_path, scorer, monkeypatch):
  monkeypatch.setattr(connections, '_HEAD_S', 0.4)
  with live(tmp_path / 'data', scorer) as port:
    start = time.monotonic()
    with connected(port) as slow, pytest.raises(OSError):
      for letter in b'GET / HTTP/1.1\r\nX: ' + b'a' * 100:
        slow.sendall(bytes([letter]))
        time.sleep(0.05)
    assert 0.3 < time.monotonic() - start < 3
    with connected(port) as upload:  # Its body comes later than a head may.
      upload.sendall(
        f'POST /v1/predictions HTTP/1.1\r\n{ASKS}Content-Length: 9\r\n'
        'Content-Type: multipart/form-data; boundary=b\r\n\r\n'.encode()
      )
      time.sleep(0.8)
      upload.sendall(b'no form..')
      assert upload.recv(20).startswith(b'HTTP/1.1 400')


BIG = 8_000_000  # Bytes: more than the system holds of a response that nobody reads.


@pytest.fixture
def big(monkeypatch):
  """Port and server of an app whose answer is big, in one piece or in many."""
  for name, value in (('_HEAD_S', 0.3), ('_LOOK_S', 0.05), ('_UNREAD_S', 1.5)):
    monkeypatch.setattr(connections, name, value)
  monkeypatch.setattr(connections, 'most_connections', lambda: 3)

  async def many():
    for _ in range(100):
      yield b'x' * (BIG // 100)

  app = Starlette(
    routes=[
      Route('/one', lambda _: Response(b'x' * BIG)),
      Route('/many', lambda _: StreamingResponse(many())),
    ]
  )
  app.state.jobs = types.SimpleNamespace(stop=lambda: None)
  with served(app) as made:
    yield made


def asks(port, path, *, keeps):
  """A connection with a small buffer, which has asked."""
  one = socket.socket()
  one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
  one.settimeout(5)
  one.connect(('127.0.0.1', port))
  close = '' if keeps else 'Connection: close\r\n'
  one.sendall(f'GET {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n'.encode())
  return one


@pytest.mark.parametrize(('path', 'keeps'), [('/one', True), ('/many', False)])
def test_who_reads_slowly_reads_all_and_who_reads_nothing_is_left(big, path, keeps):
  port, server = big
  with asks(port, path, keeps=keeps) as slow, asks(port, path, keeps=keeps):
    got = 0
    for _ in range(4):  # Longer than a head may take, and all together than nothing may be read.
      time.sleep(0.5)
      for _ in range(40):
        got += len(slow.recv(65536))
    until = time.monotonic() + 5
    while len(server.server_state.connections) > 1 and time.monotonic() < until:
      got += len(slow.recv(4096))
      time.sleep(0.05)
    assert len(server.server_state.connections) == 1  # The other one reads nothing.
    while got < BIG:
      block = slow.recv(65536)
      assert block, f'{got} of {BIG} bytes came'
      got += len(block)


def test_who_reads_nothing_keeps_nobody_out(big):
  port, server = big
  with contextlib.ExitStack() as stack:
    for _ in range(3):
      stack.enter_context(asks(port, '/one', keeps=True))
    time.sleep(0.6)
    assert len(server.server_state.connections) == 3
    assert stack.enter_context(asks(port, '/one', keeps=True)).recv(20).startswith(b'HTTP/1.1 200')
    assert len(server.server_state.connections) == 3


@pytest.mark.parametrize('late_s', [0, 0.2])
@pytest.mark.parametrize('headers', ['Host: localhost\r\n', ASKS])
def test_a_body_that_is_no_http_is_400_and_one_line(port, caplog, headers, late_s):
  connections._TERSE._last.clear()
  form = 'Content-Type: multipart/form-data; boundary=b\r\n'
  head = f'POST /v1/predictions HTTP/1.1\r\n{headers}{form}Transfer-Encoding: chunked\r\n\r\n'
  with connected(port) as one:
    one.sendall(head.encode() + (b'' if late_s else b'ZZZ\r\n'))
    time.sleep(late_s)
    one.sendall(b'ZZZ\r\n' if late_s else b'')
    answer = one.recv(4096)
  assert answer.split()[1] in ((b'400', b'401') if late_s else (b'400',))
  assert status(port) == 200
  lines = [record.getMessage() for record in caplog.records]
  assert lines == ['Invalid HTTP request received.'] and not caplog.records[0].exc_info


@pytest.mark.parametrize(
  ('boundary', 'length'), [('b' * 257, '0'), ('b' * 300, '5'), ('b', '9' * 5000), ('b', '9' * 19)]
)
def test_a_form_that_is_none_is_told_without_a_traceback(client, caplog, boundary, length):
  headers = {'content-type': f'multipart/form-data; boundary={boundary}', 'content-length': length}
  response = client.post('/v1/predictions', content=b'12345', headers=headers)
  assert response.status_code in (400, 413)
  assert not [record for record in caplog.records if record.exc_info]


def test_the_log_says_each_thing_once_a_minute(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(connections.time, 'monotonic', lambda: now[0])
  terse = connections.Terse()

  def passes(message, error=None):
    info = (type(error), error, None) if error else None
    record = logging.LogRecord('asyncio', logging.ERROR, 'x', 1, message, (), info)
    return record.getMessage() if terse.filter(record) and not record.exc_info else None

  full = OSError(errno.EMFILE, 'Too many open files')
  assert 'ulimit -n' in passes('socket.accept() out of system resource\nsocket: 7', full)
  for number in range(5):
    assert not passes(f'socket.accept() out of system resource\nsocket: {number}', full)
  assert passes('Invalid HTTP request received.') == 'Invalid HTTP request received.'
  now[0] = 61
  assert passes('x', full).endswith('(5 more like it)')
  for number in range(1000):
    passes(f'{number}')
  assert len(terse._last) <= 101
