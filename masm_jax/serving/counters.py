"""What the server counts of itself, in the text format of Prometheus."""

from collections.abc import Callable

import prometheus_client
from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ['CONTENT_TYPE', 'Counters']

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Counters:
  """Counters of one server; two in a process do not mix."""

  def __init__(self, num_faces: Callable[[], float]):
    """Counters at 0.

    Args:
      num_faces: how many faces were scored so far.
    """
    self._registry = own = prometheus_client.CollectorRegistry()
    self.requests = prometheus_client.Counter(
      'masm_jax_http_requests',
      'Requests by route, method and status.',
      ('route', 'method', 'status'),
      registry=own,
    )
    self.accepted = prometheus_client.Counter(
      'masm_jax_jobs_accepted', 'Uploads accepted.', registry=own
    )
    self.ended = prometheus_client.Counter(
      'masm_jax_jobs_ended', 'Jobs by their end: a verdict, or failed.', ('end',), registry=own
    )
    self.received = prometheus_client.Counter(
      'masm_jax_upload_bytes', 'Bytes of accepted uploads.', registry=own
    )
    self.seconds = prometheus_client.Histogram(
      'masm_jax_job_seconds', 'From acceptance to the answer.', buckets=_SECONDS, registry=own
    )
    faces = prometheus_client.Gauge(
      'masm_jax_faces_scored', 'Faces scored since the start.', registry=own
    )
    faces.set_function(num_faces)
    self.waiting = prometheus_client.Gauge('masm_jax_jobs_queued', 'Jobs that wait.', registry=own)
    self.running = prometheus_client.Gauge('masm_jax_jobs_running', 'Jobs under way.', registry=own)

  def text(self) -> bytes:
    """All of them, in Prometheus' text format."""
    return prometheus_client.generate_latest(self._registry)
