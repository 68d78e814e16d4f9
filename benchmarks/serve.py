"""Load for the server: many clients, one detector, and a kill in the middle if wanted.

python -m benchmarks.serve --model runs/demo/linear --files runs/demo/data --seconds 60
python -m benchmarks.serve --model DETECTOR --files FOLDER --seconds 300 --kill --json load.json
python -m benchmarks.serve --model DETECTOR --files FOLDER -- --faces whole

Starts `masm_jax.serve` on a free port of loopback; words behind `--` are its flags. Each client
sends a file, listens to its events, reads its answer, and sends the next one; at 429 and 503 it
waits as it was told. At the end every accepted job has to have one answer, the same whenever it is
read; with --kill the server is killed (SIGKILL) in the middle and started again. Exit status 1
where a job was lost or a status other than 2xx, 429 and 503 was seen.
"""

import argparse
import collections
import dataclasses
import http.client
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import numpy as np

from benchmarks import measure

SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.mp4', '.mov', '.webm', '.mkv', '.avi'}
_START_S, _END_S, _ANSWER_S = 180.0, 60.0, 600.0


class Server:
  """The server's process; may be killed and started again on the same folder and port."""

  def __init__(self, model: str, data: pathlib.Path, flags: list[str]):
    """Starts it, and waits until it answers."""
    self._command = [sys.executable, '-m', 'masm_jax.serve', f'--model={model}', f'--data={data}']
    self._flags, self.port, self.max_rss = flags, 0, 0
    self.start()

  def start(self) -> None:
    """Starts the process and a thread that reads what it prints."""
    self._process = subprocess.Popen(
      [*self._command, f'--port={self.port}', *self._flags], stdout=subprocess.PIPE, text=True
    )
    line = ''
    for line in self._process.stdout or ():
      if ' at http://' in line:
        break
    else:
      raise SystemExit(f'the server did not start: status {self._process.wait()}')
    self.port = urllib.parse.urlsplit(line.split(' at ')[1].split(';')[0]).port or 0

  def watch(self) -> None:
    """Notes how much memory it has, once."""
    try:
      text = pathlib.Path(f'/proc/{self._process.pid}/status').read_text()
    except OSError:
      return
    found = [line.split()[1] for line in text.splitlines() if line.startswith('VmRSS:')]
    self.max_rss = max(self.max_rss, *(int(value) * 1024 for value in found), 0)

  def kill(self) -> None:
    """SIGKILL: nothing of it gets a word in."""
    with self._process:  # Waits for it, and closes its pipe.
      self._process.send_signal(signal.SIGKILL)

  def stop(self) -> float:
    """SIGTERM; returns the seconds that it took to end."""
    started = time.monotonic()
    with self._process:
      self._process.terminate()
      self._process.wait(_END_S)
    return time.monotonic() - started


@dataclasses.dataclass
class Seen:
  """What the clients saw, together.

  Attributes:
    statuses: responses by status; 0 for a connection that broke.
    seconds: from the first byte sent to the answer read, of each job whose client was not cut off.
    accepted: ids of jobs that were accepted.
    answers: of jobs that were read before the end, by id.
  """

  statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  seconds: list[float] = dataclasses.field(default_factory=list)
  accepted: list[str] = dataclasses.field(default_factory=list)
  answers: dict[str, str] = dataclasses.field(default_factory=dict)
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Client:
  """One client with one connection at a time."""

  def __init__(self, server: Server, seen: Seen):
    self._server, self._seen = server, seen

  def ask(
    self, method: str, path: str, body: bytes = b'', kind: str = ''
  ) -> tuple[int, bytes, str]:
    """Status, body and Retry-After; status 0 where the connection broke."""
    connection = http.client.HTTPConnection('127.0.0.1', self._server.port, timeout=_ANSWER_S)
    try:
      connection.request(method, path, body or None, {'Content-Type': kind} if kind else {})
      response = connection.getresponse()
      result = response.status, response.read(), response.headers.get('Retry-After', '1')
    except (OSError, http.client.HTTPException):
      result = 0, b'', '1'
    finally:
      connection.close()
    with self._seen.lock:
      self._seen.statuses[result[0]] += 1
    return result

  def answer(self, job_id: str) -> str:
    """The answer of a job, as text; '' where the connection broke or it has none yet."""
    status, body, _ = self.ask('GET', f'/v1/predictions/{job_id}')
    document = json.loads(body) if status == 200 else {}
    if document.get('status') != 'done':
      return ''
    return json.dumps(document['answer'], sort_keys=True)

  def run(self, files: list[tuple[str, bytes]], until: float, rng: random.Random) -> None:
    """Sends files until a moment of the monotonic clock."""
    while time.monotonic() < until:
      name, content = rng.choice(files)
      started = time.monotonic()
      status, body, retry = self.ask('POST', '/v1/predictions', form(name, content), FORM)
      if status != 202:
        time.sleep(min(float(retry), 5.0) * rng.uniform(0.5, 1.0))
        continue
      job_id = json.loads(body)['id']
      with self._seen.lock:
        self._seen.accepted.append(job_id)
      status, _, _ = self.ask('GET', f'/v1/predictions/{job_id}/events')
      if status == 200 and (text := self.answer(job_id)):
        with self._seen.lock:
          self._seen.answers[job_id] = text
          self._seen.seconds.append(time.monotonic() - started)


FORM = 'multipart/form-data; boundary=load'


def form(name: str, content: bytes) -> bytes:
  """The body of an upload."""
  head = f'--load\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
  return head.encode() + content + b'\r\n--load--\r\n'


def lost_jobs(client: Client, seen: Seen) -> list[str]:
  """Jobs that were accepted and have no answer within ten minutes, or another than before."""
  lost, deadline = [], time.monotonic() + _ANSWER_S
  for job_id in seen.accepted:
    text = client.answer(job_id)
    while not text and time.monotonic() < deadline:
      time.sleep(0.2)
      text = client.answer(job_id)
    if not text or seen.answers.get(job_id, text) != text:
      lost.append(job_id)
  return lost


def load(server: Server, args: argparse.Namespace, files: list[tuple[str, bytes]]) -> Seen:
  """Runs the clients, and kills the server meanwhile if so told."""
  seen, started = Seen(), time.monotonic()
  until = started + args.seconds
  threads = [
    threading.Thread(target=Client(server, seen).run, args=(files, until, random.Random(i)))
    for i in range(args.clients)
  ]
  for thread in threads:
    thread.start()
  is_killed = not args.kill
  while any(thread.is_alive() for thread in threads):
    server.watch()
    if not is_killed and time.monotonic() > started + args.seconds / 2:
      server.kill()
      server.start()
      is_killed = True
    time.sleep(0.2)
  return seen


def raw_rate(model: str, seconds: float, batch_size: int = 32) -> float:
  """Images per second of the detector alone, with nothing around it."""
  import masm_jax

  detector = masm_jax.load(model, batch_size=batch_size)
  crops = np.zeros((batch_size, detector.image_size, detector.image_size, 3), np.uint8)
  detector.score(crops)
  count, started = 0, time.monotonic()
  while time.monotonic() < started + seconds:
    detector.score(crops)
    count += batch_size
  return count / (time.monotonic() - started)


def main(arguments: list[str]) -> int:
  """Runs the load and prints what came of it."""
  end = arguments.index('--') if '--' in arguments else len(arguments)
  flags = arguments[end + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', required=True, help='a run, or a detector folder')
  parser.add_argument('--files', type=pathlib.Path, required=True, help='folder of what is sent')
  parser.add_argument('--max-files', type=int, default=200, help='of it')
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--clients', type=int, default=32)
  parser.add_argument('--kill', action='store_true', help='SIGKILL in the middle')
  parser.add_argument('--raw-seconds', type=float, default=5.0, help='of the detector alone; or 0')
  parser.add_argument('--json', default='', help='where the numbers go')
  args = parser.parse_args(arguments[:end])
  paths = sorted(path for path in args.files.rglob('*') if path.suffix.lower() in SUFFIXES)
  files = [(path.name, path.read_bytes()) for path in paths[: args.max_files]]
  if not files:
    parser.error(f'--files={args.files}: no picture and no video in it')
  with tempfile.TemporaryDirectory() as folder:
    server = Server(args.model, pathlib.Path(folder), flags)
    try:
      seen = load(server, args, files)
      during = collections.Counter(seen.statuses)
      lost = lost_jobs(Client(server, seen), seen)
    finally:
      stop_s = server.stop()
  seconds = np.array(seen.seconds or [np.nan])
  result = {
    'clients': args.clients,
    'seconds': args.seconds,
    'kill': args.kill,
    'accepted': len(seen.accepted),
    'lost': len(lost),
    'p50_s': float(np.percentile(seconds, 50)),
    'p95_s': float(np.percentile(seconds, 95)),
    'files/s': len(seen.accepted) / args.seconds,
    'raw images/s': raw_rate(args.model, args.raw_seconds) if args.raw_seconds else None,
    'server MB': server.max_rss / 1e6,
    'stop_s': stop_s,
    'statuses': {str(status): count for status, count in sorted(during.items())},
  }
  columns = {key: ',.3g' if isinstance(value, float) else '' for key, value in result.items()}
  print(measure.table([result | {'statuses': json.dumps(result['statuses'])}], columns))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + '\n')
  allowed = {200, 202, 429, 503} | ({0} if args.kill else set())
  return int(bool(lost) or not set(during) <= allowed)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
