"""The description of the API for machines: OpenAPI 3.1. A test compares it with the routes."""

import functools
from typing import Any

import masm_jax
from masm_jax.prediction import answers

_ID = {
  'name': 'id',
  'in': 'path',
  'required': True,
  'schema': {'type': 'string', 'pattern': '^[0-9a-f]{32}$'},
}
_PROBLEMS = {
  400: 'The body is not a form with one file.',
  401: 'The token is missing or wrong.',
  403: 'A page of another site asks.',
  404: 'There is no such prediction, or no more.',
  408: 'The upload took too long.',
  409: 'The job has no answer yet.',
  413: 'The file is too large.',
  415: 'The body is not multipart/form-data.',
  421: 'The server is not known by the name in Host.',
  429: 'The queue is full; Retry-After says when to try again.',
  503: 'The server is stopping, or cannot store a file now; Retry-After says when to try again.',
}


def _null_or(schema: dict[str, Any]) -> dict[str, Any]:
  return {'anyOf': [{'type': 'null'}, schema]}


_TEXT_OR_NULL = {'type': ['string', 'null']}
_STATE = {
  'id': _ID['schema'],
  'status': {
    'enum': ['queued', 'running', 'done', 'failed'],
    'description': '`done` has an answer, which may be `no_answer`; `failed` has an error.',
  },
  'ahead': {'type': ['integer', 'null'], 'description': 'Jobs that wait before this one.'},
  'progress': _null_or(
    {
      'type': 'object',
      'properties': {
        'stage': {'enum': ['read', 'decode', 'faces', 'score']},
        'share': {'type': 'number', 'minimum': 0, 'maximum': 1},
      },
      'required': ['stage', 'share'],
    }
  ),
  'error': _TEXT_OR_NULL | {'description': 'One sentence, where the status is `failed`.'},
}
_SCHEMAS = {
  'State': {'type': 'object', 'properties': _STATE, 'required': list(_STATE)},
  'Prediction': {
    'type': 'object',
    'properties': _STATE
    | {
      'name': {'type': 'string', 'description': "The client's name of the file, to be shown."},
      'bytes': {'type': 'integer'},
      'created': {'type': 'string', 'format': 'date-time'},
      'kept_until': _TEXT_OR_NULL | {'description': 'When it will be deleted.'},
      'answer': _null_or({'$ref': '#/components/schemas/Answer'}),
      'words': _null_or({'type': 'object', 'description': 'The answer in plain words.'}),
      'pictures': {'type': 'array', 'items': {'type': 'string'}},
      'links': {'type': 'object', 'additionalProperties': {'type': 'string'}},
    },
    'required': [
      *_STATE, 'name', 'bytes', 'created', 'kept_until', 'answer', 'words', 'pictures', 'links'
    ],
  },
  'Problem': {
    'type': 'object',
    'description': 'RFC 9457.',
    'properties': {
      'type': {'type': 'string'},
      'title': {'type': 'string'},
      'status': {'type': 'integer'},
      'detail': {'type': 'string', 'description': 'One sentence for a person.'},
    },
    'required': ['type', 'title', 'status', 'detail'],
  },
}  # fmt: skip
_PREDICTION = {'application/json': {'schema': {'$ref': '#/components/schemas/Prediction'}}}
_JSON = {'application/json': {'schema': {'type': 'object'}}}


def _operation(
  summary: str,
  answers_: dict[int, tuple[str, dict[str, Any]]],
  problems: tuple[int, ...] = (),
  *,
  is_open: bool = False,
  **rest: Any,
) -> dict[str, Any]:
  content = {'application/problem+json': {'schema': {'$ref': '#/components/schemas/Problem'}}}
  common = (403, 421, 503) if is_open else (401, 403, 421, 503)
  responses = {
    str(status): {'description': text} | ({'content': body} if body else {})
    for status, (text, body) in answers_.items()
  } | {
    str(status): {'description': _PROBLEMS[status], 'content': content}
    for status in sorted({*problems, *common})
  }
  return {
    'summary': summary,
    'responses': responses,
    **({'security': []} if is_open else {}),
  } | rest


@functools.cache
def document() -> dict[str, Any]:
  """The whole description; the schema of an answer is the package's own."""
  upload = {
    'type': 'object',
    'properties': {'file': {'type': 'string', 'contentMediaType': 'application/octet-stream'}},
    'required': ['file'],
  }
  wait = {
    'name': 'wait',
    'in': 'query',
    'schema': {'enum': ['0', '1']},
    'description': '1: the response comes with the answer, if that takes no more than 10 minutes.',
  }
  one: dict[str, Any] = {'parameters': [_ID]}
  return {
    'openapi': '3.1.0',
    'info': {
      'title': 'masm_jax',
      'version': masm_jax.__version__,
      'description': 'Is a picture or a video of a face a deepfake? One job for each upload.',
    },
    'security': [{'token': []}, {}],
    'paths': {
      '/v1/predictions': {
        'post': _operation(
          'Upload one picture or video.',
          {
            200: ('With `wait=1`: the answer.', _PREDICTION),
            202: ('Accepted; Location says where the answer will be.', _PREDICTION),
          },
          (400, 408, 413, 415, 429),
          parameters=[wait],
          requestBody={'required': True, 'content': {'multipart/form-data': {'schema': upload}}},
        )
      },
      '/v1/predictions/{id}': one
      | {
        'get': _operation('A job and its answer.', {200: ('The job.', _PREDICTION)}, (404,)),
        'delete': _operation(
          'Delete a job, its upload and its answer.', {204: ('Deleted.', {})}, (404,)
        ),
      },
      '/v1/predictions/{id}/events': one
      | {
        'get': _operation(
          'Server-sent events: `progress`, then `done`; the data of both is a State.',
          {200: ('The events.', {'text/event-stream': {'schema': {'type': 'string'}}})},
          (404,),
        )
      },
      '/v1/predictions/{id}/report': one
      | {
        'get': _operation(
          'The answer as a page to print or to mail, one file.',
          {200: ('The page.', {'text/html': {'schema': {'type': 'string'}}})},
          (404, 409),
        )
      },
      '/v1/predictions/{id}/pictures/{name}': {
        'parameters': [
          _ID,
          {'name': 'name', 'in': 'path', 'required': True, 'schema': {'type': 'string'}},
        ],
        'get': _operation(
          'A picture of a face, one of those that the job lists.',
          {200: ('The picture.', {'image/jpeg': {}})},
          (404,),
        ),
      },
      '/v1/model': {
        'get': _operation('The detector, its rules, its limits.', {200: ('The detector.', _JSON)})
      },
      '/healthz': {
        'get': _operation('Whether the server takes jobs.', {200: ('Yes.', _JSON)}, is_open=True)
      },
      '/metrics': {
        'get': _operation(
          'Counters, in the text format of Prometheus.',
          {200: ('The counters.', {'text/plain': {'schema': {'type': 'string'}}})},
        )
      },
      '/openapi.json': {
        'get': _operation('This document.', {200: ('The document.', _JSON)}, is_open=True)
      },
    },
    'components': {
      'schemas': {**_SCHEMAS, 'Answer': answers.schema()},
      'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}},
    },
  }
