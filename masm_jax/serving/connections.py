"""What a connection may do before it has asked for anything, and how much the log says of it."""

import asyncio
import errno
import logging
import os
import resource
import time
from typing import Any

import h11
from uvicorn.protocols.http import h11_impl

_MOST = 1024  # Connections at a time.
_HEAD_S = 10.0  # For the head of a request, from the connection or the last response on.
_EVERY_S = 60.0
_MANY_KINDS = 100
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_connections() -> int:
  """How many connections a server may hold: half of the files that it may still open."""
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  if limit == resource.RLIM_INFINITY:
    return _MOST
  place = '/proc/self/fd'
  taken = len(os.listdir(place)) if os.path.isdir(place) else 64
  return max(4, min(_MOST, (limit - taken) // 2))


class Connection(h11_impl.H11Protocol):
  """uvicorn's, with an end to waiting for a request.

  Where there are too many, the one that has waited longest gives way: who opens connections and
  asks for nothing keeps nobody out.
  """

  def __init__(self, *args: Any, most: int = _MOST, **options: Any):
    """As uvicorn's; one of `most` connections at a time."""
    super().__init__(*args, **options)
    self._most = most
    self._end: asyncio.TimerHandle | None = None

  def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
    """See asyncio."""
    super().connection_made(transport)
    self._watch()
    if len(self.connections) > self._most:
      waiting = [other for other in self.connections if isinstance(other, Connection)]
      waiting = [other for other in waiting if other._end and other is not self] or [self]
      last = min(waiting, key=lambda other: other._end.when() if other._end else 0.0)
      self.connections.discard(last)
      last.transport.abort()

  def connection_lost(self, exc: Exception | None) -> None:
    """See asyncio."""
    if self._end:
      self._end.cancel()
      self._end = None
    super().connection_lost(exc)

  def data_received(self, data: bytes) -> None:
    """See asyncio."""
    super().data_received(data)
    self._watch()

  def on_response_complete(self) -> None:
    """See uvicorn."""
    super().on_response_complete()
    self._watch()

  def send_400_response(self, msg: str) -> None:
    """The answer to what is no HTTP; none where another one is on its way."""
    if self.cycle and not self.cycle.response_complete:
      self.cycle.disconnected = True  # What is still sent or read of the request comes to nothing.
      self.cycle.message_event.set()
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
      super().send_400_response(msg)
    else:
      self.transport.close()

  def _watch(self) -> None:
    is_waiting = self.cycle is None or self.cycle.response_complete
    if self._end and not is_waiting:
      self._end.cancel()
      self._end = None
    elif not self._end and is_waiting and not self.transport.is_closing():
      self._end = self.loop.call_later(_HEAD_S, self.transport.abort)


class Terse(logging.Filter):
  """Lets a kind of message pass once a minute, so that no client can fill the disk by the log."""

  def __init__(self, every_s: float = _EVERY_S):
    """One that lets a kind pass every so many seconds."""
    super().__init__()
    self._every_s = every_s
    self._last: dict[str, tuple[float, int]] = {}  # By kind: when it passed, how many did not.

  def filter(self, record: logging.LogRecord) -> bool:
    """See logging."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, OSError) and error.errno in _NO_MORE:
      record.msg = f'no more connections can be taken: {error.strerror}; see `ulimit -n`'
      record.args = record.exc_info = record.exc_text = None
    kind = str(record.msg).partition('\n')[0][:100]
    now = time.monotonic()
    passed, dropped = self._last.get(kind, (-self._every_s, 0))
    if now - passed < self._every_s:
      self._last[kind] = passed, dropped + 1
      return False
    if len(self._last) > _MANY_KINDS:
      self._last.clear()
    self._last[kind] = now, 0
    if dropped:
      record.msg, record.args = f'{record.getMessage().rstrip()} ({dropped} more like it)', None
    return True


def quieten() -> None:
  """Has the loggers of the server's libraries say each thing once a minute."""
  for name in ('asyncio', 'uvicorn.error'):
    logging.getLogger(name).addFilter(_TERSE)


_TERSE = Terse()  # One, so that it is added once.
