"""The routes: uploads in, answers out, and the page."""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import logging
import pathlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from masm_jax.serving import openapi, problems, uploads
from masm_jax.serving.counters import CONTENT_TYPE, Counters
from masm_jax.serving.guard import Guard
from masm_jax.serving.jobs import Jobs, Scorer
from masm_jax.serving.problems import Problem
from masm_jax.serving.store import Job, Store

_STATIC = pathlib.Path(__file__).parent / 'static'
_MEDIA_TYPES = {
  'index.html': 'text/html; charset=utf-8',
  'page.css': 'text/css; charset=utf-8',
  'page.js': 'text/javascript; charset=utf-8',
  'result.js': 'text/javascript; charset=utf-8',
  'icon.svg': 'image/svg+xml',
}
# A report is one file with its style inside; it runs nothing, and loads nothing.
_REPORT_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
  " form-action 'none'; frame-ancestors 'none'; sandbox"
)
_NO_JOB = 'There is no such prediction; it may have been deleted after its time.'


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the command line says of the server.

  Attributes:
    queue: open jobs at which uploads are refused.
    workers: jobs that are given to the scorer at a time.
    keep_s: seconds for which an answer is kept.
    max_bytes: the largest upload.
    upload_s: seconds that an upload may take.
    wait_s: seconds that `?wait=1` waits at most.
    beat_s: seconds between signs of life in a stream of events.
    token: that requests have to bear, or None.
    hosts: names that the server answers to; () for any.
  """

  queue: int = 64
  workers: int = 4
  keep_s: float = 24 * 3600.0
  max_bytes: int = 500_000_000
  upload_s: float = 600.0
  wait_s: float = 600.0
  beat_s: float = 15.0
  token: str | None = None
  hosts: tuple[str, ...] = ()


class _Service:
  """What the routes share."""

  def __init__(
    self,
    settings: Settings,
    jobs: Jobs,
    store: Store,
    counters: Counters,
    model: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    report: Callable[[Mapping[str, Any], Mapping[str, bytes]], str],
  ):
    self.settings, self.jobs, self.store, self.counters = settings, jobs, store, counters
    self._model, self._read, self._report = model, read, report

  async def create(self, request: Request) -> Response:
    """`POST /v1/predictions`."""
    try:
      job = await self._take(request)
    except Problem as problem:
      if problem.status != 408:
        await uploads.drain(request, self.settings.max_bytes)
      raise
    status = 202
    if request.query_params.get('wait', '0') not in ('0', 'false', ''):
      job = await self._end_of(job, request)
      status = 200 if job.is_over else 202
    return self._document(job, status)

  async def _take(self, request: Request) -> Job:
    with self.jobs.place():
      job_id = secrets.token_hex(16)
      upload = await uploads.receive(
        request,
        self.store.upload(job_id),
        max_bytes=self.settings.max_bytes,
        timeout_s=self.settings.upload_s,
      )
      # Whole, even if the request ends meanwhile: no file without its job, no job without its file.
      return await asyncio.shield(self.jobs.accept(job_id, upload.name, upload.size))

  async def _end_of(self, job: Job, request: Request) -> Job:
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(self.settings.wait_s):
        async for news in self.jobs.changes(job.id, every_s=1.0):
          job = news or job
          if await request.is_disconnected():
            break
    return job

  async def show(self, request: Request) -> Response:
    """`GET /v1/predictions/{id}`."""
    return self._document(await self._job(request), 200)

  async def delete(self, request: Request) -> Response:
    """`DELETE /v1/predictions/{id}`."""
    if not await self.jobs.delete(request.path_params['id']):
      raise Problem(404, _NO_JOB)
    return Response(status_code=204)

  async def events(self, request: Request) -> Response:
    """`GET /v1/predictions/{id}/events`: server-sent events until the job's end."""
    job = await self._job(request)

    async def stream() -> AsyncIterator[str]:
      last = ''
      async for news in self.jobs.changes(job.id, every_s=self.settings.beat_s):
        if news is None:
          yield ': still here\n\n'
          continue
        name = 'done' if news.is_over else 'progress'
        data = self._state(news)
        if (event := f'event: {name}\ndata: {json.dumps(data)}\n\n') != last:
          last = event
          yield event

    headers = {'X-Accel-Buffering': 'no'}  # nginx would hold events back.
    return StreamingResponse(stream(), media_type='text/event-stream', headers=headers)

  async def report(self, request: Request) -> Response:
    """`GET /v1/predictions/{id}/report`."""
    job = await self._job(request)
    if job.answer is None:
      raise Problem(409, 'There is no report before the answer.')
    pictures = await asyncio.to_thread(self.store.pictures, job.id)
    text = await asyncio.to_thread(self._report, job.answer, pictures)
    headers = {
      'Content-Security-Policy': _REPORT_POLICY,
      'Content-Disposition': f'inline; filename="report-{job.id[:8]}.html"',
    }
    return Response(text, headers=headers, media_type='text/html; charset=utf-8')

  async def picture(self, request: Request) -> Response:
    """`GET /v1/predictions/{id}/pictures/{name}`."""
    job = await self._job(request)
    name = request.path_params['name']
    jpeg = await asyncio.to_thread(self.store.picture, job.id, name)
    if jpeg is None:
      raise Problem(404, 'There is no such picture.')
    return Response(jpeg, media_type='image/jpeg')

  async def model(self, request: Request) -> Response:
    """`GET /v1/model`."""
    settings = self.settings
    server = {'max_bytes': settings.max_bytes, 'keep_s': settings.keep_s, 'queue': settings.queue}
    return JSONResponse({**self._model, 'server': server})

  async def health(self, request: Request) -> Response:
    """`GET /healthz`."""
    if self.jobs.is_stopping:
      raise Problem(503, 'The server is stopping.', retry_after_s=5)
    return JSONResponse({'status': 'ok'})

  async def metrics(self, request: Request) -> Response:
    """`GET /metrics`."""
    return Response(self.counters.text(), headers={'Content-Type': CONTENT_TYPE})

  async def description(self, request: Request) -> Response:
    """`GET /openapi.json`."""
    return JSONResponse(openapi.document())

  async def static(self, request: Request) -> Response:
    """The page's own files."""
    name = request.path_params.get('name', 'index.html')
    if name not in _MEDIA_TYPES:
      raise Problem(404, 'There is no such page.')
    headers = {'Cache-Control': 'no-cache'}
    return FileResponse(_STATIC / name, media_type=_MEDIA_TYPES[name], headers=headers)

  async def _job(self, request: Request) -> Job:
    job = await asyncio.to_thread(self.store.get, request.path_params['id'])
    if job is None:
      raise Problem(404, _NO_JOB)
    return job

  def _state(self, job: Job) -> dict[str, Any]:
    """How far a job is."""
    return {
      'id': job.id,
      'status': job.state,
      'ahead': self.jobs.position(job.id),
      'progress': None if job.is_over else self.jobs.progress(job.id),
      'error': job.error,
    }

  def _document(self, job: Job, status: int) -> Response:
    place = f'/v1/predictions/{job.id}'
    body = self._state(job) | {
      'name': job.name,
      'bytes': job.size,
      'created': _iso(job.created),
      'kept_until': _iso(job.finished + self.settings.keep_s) if job.finished else None,
      'answer': job.answer,
      'words': self._read(job.answer) if job.answer else None,
      'pictures': self.store.picture_names(job.id) if job.answer else [],
      'links': {'self': place, 'events': f'{place}/events', 'report': f'{place}/report'},
    }
    headers = {'Location': place} if status == 202 else {}
    return JSONResponse(body, status, headers)


def build(
  store: Store,
  scorer: Scorer,
  settings: Settings,
  *,
  model: Mapping[str, Any],
  read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
  report: Callable[[Mapping[str, Any], Mapping[str, bytes]], str],
) -> Starlette:
  """The server's application; `app.state.jobs` is its queue.

  Args:
    store: of the jobs; whoever opened it closes it.
    scorer: makes the answers.
    settings: see `Settings`.
    model: what `GET /v1/model` shows of the detector.
    read: an answer in plain words, by its document.
    report: the printable page of an answer; its second argument has the pictures by name.
  """
  counters = Counters(lambda: scorer.num_faces)
  jobs = Jobs(
    store,
    scorer,
    counters,
    limit=settings.queue,
    workers=settings.workers,
    keep_s=settings.keep_s,
  )
  service = _Service(settings, jobs, store, counters, model, read, report)
  one = '/v1/predictions/{id:str}'
  routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
    ('/', 'GET', service.static),
    ('/static/{name:str}', 'GET', service.static),
    ('/v1/predictions', 'POST', service.create),
    (one, 'GET', service.show),
    (one, 'DELETE', service.delete),
    (f'{one}/events', 'GET', service.events),
    (f'{one}/report', 'GET', service.report),
    (f'{one}/pictures/{{name:str}}', 'GET', service.picture),
    ('/v1/model', 'GET', service.model),
    ('/healthz', 'GET', service.health),
    ('/metrics', 'GET', service.metrics),
    ('/openapi.json', 'GET', service.description),
  ]

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with jobs.running():
      yield

  app = Starlette(
    routes=[
      Route(path, _counted(endpoint, path, counters), methods=[method])
      for path, method, endpoint in routes
    ],
    middleware=[Middleware(Guard, token=settings.token, hosts=settings.hosts)],
    exception_handlers={HTTPException: _of_starlette, OSError: _of_storage, Exception: _of_a_bug},
    lifespan=lifespan,
  )
  app.state.jobs = jobs
  return app


def _counted(
  endpoint: Callable[[Request], Awaitable[Response]], path: str, counters: Counters
) -> Callable[[Request], Awaitable[Response]]:
  """The endpoint with its problems as responses, and a count of each."""

  async def respond(request: Request) -> Response:
    status = 500
    try:
      try:
        response = await endpoint(request)
      except Problem as problem:
        response = problems.response(problem)
      except ClientDisconnect:
        response = Response(status_code=400)  # Nobody reads it.
      status = response.status_code
      return response
    finally:
      counters.requests.labels(path, request.method, str(status)).inc()

  return respond


async def _of_starlette(request: Request, error: Exception) -> Response:
  """404 and 405 of the router."""
  assert isinstance(error, HTTPException)
  detail = {
    404: 'There is nothing at this address; /openapi.json says what there is.',
    405: 'This address takes other methods; see the Allow header.',
  }.get(error.status_code, 'The request cannot be answered.')
  return problems.response(Problem(error.status_code, detail, headers=error.headers))


async def _of_storage(request: Request, error: Exception) -> Response:
  """A disk that is full: nothing was changed."""
  logging.warning('%s %s: %s', request.method, request.url.path, error)
  return problems.response(uploads.no_room())


async def _of_a_bug(request: Request, error: Exception) -> Response:
  """Whatever else is raised: the log has the traceback, the client a sentence."""
  logging.error('%s %s', request.method, request.url.path, exc_info=error)
  return problems.response(Problem(500, 'An error of the server; its log says what happened.'))


def _iso(unix_time: float) -> str:
  return datetime.datetime.fromtimestamp(unix_time, datetime.UTC).isoformat(timespec='seconds')
