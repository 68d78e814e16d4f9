"""One file of a multipart upload, written to the disk as it arrives.

No more than a chunk of it is in memory, and not a byte over the limit on the disk. What the client
calls the file is text to show; where it is written is for the caller to say.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import re
import time
import unicodedata
from typing import BinaryIO

import python_multipart.multipart as multipart
from python_multipart.exceptions import FormParserError
from starlette.requests import ClientDisconnect, Request

from masm_jax import files
from masm_jax.serving.problems import Problem

FIELD = 'file'
_MAX_NAME = 200
_MAX_HEADERS = 16_384  # Bytes of the headers of a part, and of what may stand around the parts.
_DRAIN_S = 10.0
_NO_FILE = f'Send one file, as the part {FIELD!r} of a multipart/form-data body.'


@dataclasses.dataclass(frozen=True)
class Upload:
  """What arrived: `name` is what the client calls it, to be shown only; `size` in bytes."""

  name: str
  size: int


async def receive(
  request: Request, target: pathlib.Path, *, max_bytes: int, timeout_s: float
) -> Upload:
  """Writes the file of a request to `target`, whole or not at all.

  Args:
    request: a POST of multipart/form-data with one part, `file`.
    target: where the file goes; nothing is there yet.
    max_bytes: the largest file.
    timeout_s: seconds within which all of it has to arrive.

  Raises:
    Problem: 400, 408, 413, 415; or 503 where the disk is full.
    ClientDisconnect: the client left.
  """
  kind, options = multipart.parse_options_header(request.headers.get('content-type', ''))
  if kind != b'multipart/form-data' or not options.get(b'boundary'):
    raise Problem(415, _NO_FILE)
  declared = request.headers.get('content-length', '')
  # Python reads no number of 5,000 digits.
  if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes + _MAX_HEADERS):
    raise _too_large(max_bytes)
  try:
    with contextlib.ExitStack() as stack:
      path = stack.enter_context(files.replacing(target))
      with path.open('wb') as file:
        form = _Form(options[b'boundary'], file, max_bytes)
        async with asyncio.timeout(timeout_s):
          async for chunk in request.stream():
            form.feed(chunk)
        upload = form.finish()
      # Waits for the disk; the loop must not.
      await asyncio.shield(asyncio.to_thread(stack.pop_all().close))
  except TimeoutError as error:
    raise Problem(408, f'The upload took longer than {timeout_s:.0f} s.') from error
  except FormParserError as error:
    raise Problem(400, _NO_FILE) from error
  except OSError as error:
    raise no_room() from error
  return upload


async def drain(request: Request, max_bytes: int) -> None:
  """Reads what a refused request still sends, within limits, so that its client sees the answer.

  A connection that is closed with bytes unread is reset, and the answer is lost with it.
  """
  deadline, left = time.monotonic() + _DRAIN_S, max_bytes
  with contextlib.suppress(ClientDisconnect, RuntimeError, TimeoutError):
    async with asyncio.timeout_at(asyncio.get_running_loop().time() + _DRAIN_S):
      async for chunk in request.stream():
        left -= len(chunk)
        if left < 0 or time.monotonic() > deadline:
          return


def shown_name(name: str) -> str:
  r"""What a client calls its file, fit to be shown: the last part, without control characters.

  >>> shown_name('../../etc/pass\nwd'), shown_name('C:\\clips\\a.mp4'), shown_name('..')
  ('passwd', 'a.mp4', 'upload')
  """
  last = re.split(r'[/\\]', name)[-1]
  # Cc and Cf: control characters, and those that turn the direction of writing around.
  kept = ''.join(c for c in last if unicodedata.category(c) not in ('Cc', 'Cf', 'Cs', 'Co', 'Cn'))
  return kept.strip('. ')[:_MAX_NAME].strip() or 'upload'


def no_room() -> Problem:
  """The disk is full, or fails."""
  text = 'The server cannot store the file now; try again later.'
  return Problem(503, text, retry_after_s=60)


def _too_large(max_bytes: int) -> Problem:
  return Problem(413, f'The file is larger than {max_bytes / 1e6:g} MB.')


class _Form:
  """Takes the body's chunks; passes on the bytes of the one file."""

  def __init__(self, boundary: bytes, file: BinaryIO, max_bytes: int):
    self._file, self._max = file, max_bytes
    self._around, self._size = 0, 0
    self._name: str | None = None
    self._header: list[bytes] = [b'', b'']
    self._headers: dict[bytes, bytes] = {}
    self._is_over = False
    self._parser = multipart.MultipartParser(
      boundary,
      {
        'on_part_begin': self._headers.clear,
        'on_header_field': lambda data, start, end: self._add(0, data[start:end]),
        'on_header_value': lambda data, start, end: self._add(1, data[start:end]),
        'on_header_end': self._end_header,
        'on_headers_finished': self._begin_part,
        'on_part_data': self._write,
        'on_end': self._end,
      },
      max_header_size=_MAX_HEADERS,
    )

  def feed(self, chunk: bytes) -> None:
    """Raises what is wrong with the chunk, as `receive` tells it."""
    before = self._size
    self._parser.write(chunk)
    self._around += len(chunk) - (self._size - before)
    if self._around > 2 * _MAX_HEADERS:
      raise Problem(400, _NO_FILE)

  def finish(self) -> Upload:
    """The upload; raises where the body ended early or had no file."""
    self._parser.finalize()
    if self._name is None or not self._is_over:
      raise Problem(400, _NO_FILE)
    return Upload(self._name, self._size)

  def _add(self, which: int, data: bytes) -> None:
    self._header[which] += data
    if len(self._header[which]) > _MAX_HEADERS:
      raise Problem(400, _NO_FILE)

  def _end_header(self) -> None:
    name, value = self._header
    self._headers[name.lower()] = value
    self._header = [b'', b'']

  def _begin_part(self) -> None:
    value = self._headers.get(b'content-disposition', b'')
    kind, options = multipart.parse_options_header(value)
    is_file = kind == b'form-data' and options.get(b'name') == FIELD.encode()
    if not is_file or b'filename' not in options or self._name is not None:
      raise Problem(400, _NO_FILE)
    self._name = shown_name(options[b'filename'].decode('utf-8', 'replace'))

  def _write(self, data: bytes, start: int, end: int) -> None:
    self._size += end - start
    if self._size > self._max:
      raise _too_large(self._max)
    self._file.write(memoryview(data)[start:end])

  def _end(self) -> None:
    self._is_over = True
