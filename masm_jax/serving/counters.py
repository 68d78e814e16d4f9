"""What the server counts of itself, in the text format of Prometheus."""

import prometheus_client
from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ['CONTENT_TYPE', 'Counters']

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Counters:
  """Counters of one server; two in a process do not mix."""

  def __init__(self) -> None:
    self._registry = prometheus_client.CollectorRegistry()
    kinds = {'registry': self._registry, 'namespace': 'masm_jax'}
    self.requests = prometheus_client.Counter(
      'http_requests', 'Requests by route, method and status.', ('route', 'method', 'status'),
      **kinds,
    )  # fmt: skip
    self.accepted = prometheus_client.Counter('jobs_accepted', 'Uploads accepted.', **kinds)
    self.ended = prometheus_client.Counter(
      'jobs_ended', 'Jobs by their end: a verdict, or failed.', ('end',), **kinds
    )
    self.received = prometheus_client.Counter('upload_bytes', 'Bytes of accepted uploads.', **kinds)
    self.seconds = prometheus_client.Histogram(
      'job_seconds', 'From acceptance to the answer.', buckets=_SECONDS, **kinds
    )
    self.waiting = prometheus_client.Gauge('jobs_queued', 'Jobs that wait.', **kinds)
    self.running = prometheus_client.Gauge('jobs_running', 'Jobs under way.', **kinds)

  def text(self) -> bytes:
    """All of them, in Prometheus' text format."""
    return prometheus_client.generate_latest(self._registry)
