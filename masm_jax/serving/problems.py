"""Errors as JSON problem documents (RFC 9457): one sentence for a person, never a traceback."""

import http
import json
from collections.abc import Mapping

from starlette.responses import Response


class Problem(Exception):
  """An error that the client is told.

  >>> Problem(429, 'The queue is full.', retry_after_s=2.4).headers
  {'Retry-After': '3'}

  Attributes:
    status: of HTTP.
    detail: one sentence: what is wrong and what to do.
    headers: of the response.
  """

  def __init__(
    self,
    status: int,
    detail: str,
    *,
    retry_after_s: float | None = None,
    headers: Mapping[str, str] | None = None,
  ):
    super().__init__(detail)
    self.status = status
    self.detail = detail
    self.headers = dict(headers or {})
    if retry_after_s is not None:
      self.headers['Retry-After'] = str(max(1, -int(-retry_after_s // 1)))


def response(problem: Problem) -> Response:
  """The problem as a document of `application/problem+json`."""
  body = {
    'type': 'about:blank',
    'title': http.HTTPStatus(problem.status).phrase,
    'status': problem.status,
    'detail': problem.detail,
  }
  return Response(
    json.dumps(body), problem.status, problem.headers, media_type='application/problem+json'
  )
