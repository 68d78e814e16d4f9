"""What every request passes: limits on it, who may ask, and headers on every response."""

import hashlib
import hmac
import pathlib
import re
import urllib.parse
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masm_jax.errors import UserError
from masm_jax.serving.problems import Problem, response

_MIN_TOKEN = 16
_MAX_OPEN = 512  # Requests at a time; a page that listens for progress is one.
# The page loads its own files alone, and nobody frames it. What it shows of a file is a blob.
PAGE_POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:;"
  " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none';"
  " require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
  'Content-Security-Policy': PAGE_POLICY,
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), microphone=(), geolocation=()',
  'Cache-Control': 'no-store',
}
# What anybody may read: the page without its data, the description of the API, a sign of life.
_OPEN_TO_ALL = re.compile(r'/|/static/[\w.]+|/healthz|/openapi\.json')


def read_token(path: pathlib.Path) -> str:
  """The token in a file.

  Raises:
    UserError: the file cannot be read, or holds no token of 16 characters or more on one line.
  """
  try:
    token = path.read_text(encoding='ascii').strip()
  except (OSError, ValueError) as error:
    raise UserError(f'--token-file={path}: cannot be read as one line of ASCII text') from error
  if len(token) < _MIN_TOKEN or re.search(r'\s', token):
    raise UserError(
      f'--token-file={path}: the token needs {_MIN_TOKEN} characters or more, without spaces;'
      f' `openssl rand -hex 32 > {path}` makes one'
    )
  return token


class Guard:
  """ASGI middleware; see the module."""

  def __init__(self, app: ASGIApp, *, token: str | None, hosts: Sequence[str]):
    """Guards an app.

    Args:
      app: what is guarded.
      token: that requests have to bear; None for none.
      hosts: names that a request may ask this server by, without ports; () for any.
    """
    self._app, self._hosts = app, frozenset(hosts)
    self._token = _digest(token) if token is not None else None
    self._open = 0

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """One request."""
    if scope['type'] != 'http':
      if scope['type'] == 'lifespan':
        await self._app(scope, receive, send)
      return

    async def send_guarded(message: Message) -> None:
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
          headers.setdefault(name, value)
      await send(message)

    if problem := self._refusal(Request(scope)):
      await response(problem)(scope, receive, send_guarded)
      return
    self._open += 1
    try:
      await self._app(scope, receive, send_guarded)
    finally:
      self._open -= 1

  def _refusal(self, request: Request) -> Problem | None:
    headers = request.headers
    if self._open >= _MAX_OPEN:
      return Problem(503, 'Too many requests are open; try again in a moment.', retry_after_s=2)
    host = headers.get('host', '')
    # A page of another site may have its name lead to this address (DNS rebinding).
    if self._hosts and _name_of(host) not in self._hosts:
      return Problem(421, 'This server is not known by that name; see --allow-host.')
    if _is_of_another_site(headers, host):
      return Problem(403, 'Requests of pages of other sites are refused.')
    if self._token is not None and not _OPEN_TO_ALL.fullmatch(request.url.path):
      kind, _, given = headers.get('authorization', '').partition(' ')
      if kind.lower() != 'bearer' or not hmac.compare_digest(_digest(given.strip()), self._token):
        challenge = {'WWW-Authenticate': 'Bearer realm="masm_jax"'}
        return Problem(401, 'This server wants its token.', headers=challenge)
    return None


def _digest(token: str) -> bytes:
  """Of one length for every token, so that a comparison tells nothing of either."""
  return hashlib.sha256(token.encode()).digest()


def _name_of(host: str) -> str:
  """The name in a Host header, without the port.

  >>> _name_of('localhost:8000'), _name_of('[::1]:8000'), _name_of('a@b:1')
  ('localhost', '::1', '')
  """
  match = re.fullmatch(r'(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d{1,5})?', host)
  return (match[1] or match[2]).lower().rstrip('.') if match else ''


def _is_of_another_site(headers: Headers, host: str) -> bool:
  """Whether a browser says that a page of another origin asks: it may send a form unasked."""
  if headers.get('sec-fetch-site', 'none') not in ('none', 'same-origin'):
    # To follow a link to the page is fine; to fetch or to post from elsewhere is not.
    return not (headers.get('sec-fetch-mode') == 'navigate' and 'origin' not in headers)
  origin = headers.get('origin')
  return origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != host.lower()
