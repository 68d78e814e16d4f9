"""What a connection may do before it has asked for anything, and how much the log says of it."""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import resource
import sys
import termios
import time
from typing import Any

import h11
from uvicorn.protocols.http import h11_impl

_MOST = 1024  # Connections at a time.
_HEAD_S = 10.0  # For the head of a request, from the connection or the last response's end on.
_UNREAD_S = 60.0  # So long a client may read nothing of what waits to be sent, as nginx has it.
_LOOK_S = 1.0
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
  """uvicorn's, with an end to waiting for a request, and for a client that does not read.

  A response takes what it takes, as long as some of it is read now and then. Where there are too
  many connections, the one that has waited longest gives way: who opens connections and asks for
  nothing, or reads nothing, keeps nobody out.
  """

  def __init__(self, *args: Any, most: int = _MOST, **options: Any):
    """As uvicorn's; one of `most` connections at a time."""
    super().__init__(*args, **options)
    self._most = most
    self._end: asyncio.TimerHandle | None = None
    self._look: asyncio.TimerHandle | None = None  # While something waits to be sent.
    self._left, self._read_at = 0, 0.0  # Bytes that waited at the last look; when some were read.

  def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
    """See asyncio."""
    super().connection_made(transport)
    self._watch()
    if len(self.connections) > self._most:
      others = [other for other in self.connections if isinstance(other, Connection)]
      since = {other: other._waits_since() for other in others if other is not self}
      waiting = {other: at for other, at in since.items() if at is not None} or {self: 0.0}
      last = min(waiting, key=waiting.__getitem__)
      self.connections.discard(last)
      last.transport.abort()

  def connection_lost(self, exc: Exception | None) -> None:
    """See asyncio."""
    for timer in (self._end, self._look):
      if timer:
        timer.cancel()
    self._end = self._look = None
    super().connection_lost(exc)

  def data_received(self, data: bytes) -> None:
    """See asyncio."""
    super().data_received(data)
    self._watch()

  def on_response_complete(self) -> None:
    """See uvicorn."""
    super().on_response_complete()
    self._watch()

  def pause_writing(self) -> None:
    """See asyncio."""
    super().pause_writing()
    self._follow()

  def resume_writing(self) -> None:
    """See asyncio."""
    super().resume_writing()
    self._read_at = self.loop.time()  # However much is written right after it.

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
    elif is_waiting and self.transport.get_write_buffer_size():
      self._follow()  # The wait begins when the response is sent.
    elif not self._end and is_waiting and not self.transport.is_closing():
      self._end = self.loop.call_later(_HEAD_S, self.transport.abort)

  def _follow(self) -> None:
    """Watches whether the client reads, until nothing waits to be sent."""
    if not self._look:
      self._left, self._read_at = self._unread(), self.loop.time()
      self._look = self.loop.call_later(_LOOK_S, self._see)

  def _see(self) -> None:
    self._look = None
    if not self.transport.get_write_buffer_size():
      self._watch()
      return
    left, now = self._unread(), self.loop.time()
    if left < self._left:
      self._read_at = now
    self._left = left
    if now - self._read_at > _UNREAD_S:
      self.transport.abort()
    else:
      self._look = self.loop.call_later(_LOOK_S, self._see)

  def _unread(self) -> int:
    """Bytes that the client has not taken yet.

    The system holds megabytes, and takes more only when a good part of them is gone: a slow reader
    would seem to read nothing for minutes.
    """
    left = self.transport.get_write_buffer_size()
    made = self.transport.get_extra_info('socket')
    with contextlib.suppress(OSError):  # Not every system tells.
      held = fcntl.ioctl(made.fileno(), termios.TIOCOUTQ, bytes(4))
      left += int.from_bytes(held, sys.byteorder)
    return left

  def _waits_since(self) -> float | None:
    """When the server began to wait for this client, by its loop's clock; None if it does not."""
    if self._end:
      return self._end.when() - _HEAD_S
    # A pause in reading is no reason to be cut off, before a request would be.
    is_still = self._look and self.loop.time() - self._read_at > _HEAD_S
    return self._read_at if is_still else None


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
