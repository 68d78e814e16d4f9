"""The socket, and uvicorn on it: started, told to stop, stopped without losing a job."""

import asyncio
import contextlib
import errno
import functools
import ipaddress
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from masm_jax.errors import UserError
from masm_jax.serving import connections

_BACKLOG = 512
_AT_ONCE = 8  # Connections that the loop takes before it looks after those that it has.
_GRACE_S = 15  # For responses under way when the server is told to stop.


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches an address.

  >>> is_loopback('127.0.0.1'), is_loopback('localhost'), is_loopback('0.0.0.0')
  (True, True, False)
  """
  try:
    return host == 'localhost' or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def bind(host: str, port: int) -> socket.socket:
  """A socket that listens.

  Raises:
    UserError: the address is taken, or none of this machine's.
  """
  with contextlib.ExitStack() as stack:
    try:
      info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
      family, kind, protocol, _, address = info[0]
      made = stack.enter_context(socket.socket(family, kind, protocol))
      made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      made.bind(address)
      made.listen(_BACKLOG)
    except (OSError, ValueError) as error:  # A ValueError of what no address can be.
      is_taken = getattr(error, 'errno', None) == errno.EADDRINUSE
      what, flag = ('the port is in use', '--port') if is_taken else (error, '--host or --port')
      raise UserError(f'cannot listen at {host}:{port}: {what}; give another {flag}') from error
    stack.pop_all()
  return made


def address_of(listening: socket.socket) -> str:
  """The URL of a socket that listens."""
  host, port = listening.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


class Server(uvicorn.Server):
  """uvicorn around an app of `app.build`; a signal ends waiting requests and event streams too."""

  def __init__(self, app: Starlette):
    """A server; `run([socket])` runs it."""
    protocol: Any = functools.partial(connections.Connection, most=connections.most_connections())
    config = uvicorn.Config(
      app,
      loop='asyncio',
      http=protocol,
      ws='none',
      lifespan='on',
      log_level='warning',
      log_config=None,
      access_log=False,  # Names and ids of files are nobody's business.
      proxy_headers=False,
      server_header=False,
      backlog=_AT_ONCE,
      timeout_graceful_shutdown=_GRACE_S,
    )
    super().__init__(config)
    self._jobs = app.state.jobs

  async def serve(self, sockets: list[socket.socket] | None = None) -> None:
    """See uvicorn."""
    self._loop = asyncio.get_running_loop()
    await super().serve(sockets)

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    """See uvicorn."""
    connections.quieten()
    await super().startup(sockets)
    for made in sockets or ():
      made.listen(_BACKLOG)  # The loop has made it as short as what it takes at once.

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Of SIGTERM and SIGINT."""
    # Not uvicorn's own: it would end the process by the signal before the engine is closed.
    if self.should_exit and sig == signal.SIGINT:
      self.force_exit = True
    self.should_exit = True
    self._loop.call_soon_threadsafe(self._jobs.stop)

  def stop(self) -> None:
    """The same from another thread."""
    self.handle_exit(signal.SIGTERM, None)
