"""Files that mean harm, sent to a server of its own; one line for each kind, and what came of it.

    python -m tests.serving.hostile --count 300 --model runs/demo/linear

Exit status 1 where a file had another answer than it may have, a job failed, a response was no 2xx,
or the server died. What is wrong with the files stands in `tests/prediction/hostile.py`.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time

from benchmarks import serve as load
from masm_jax.prediction.answers import from_dict
from tests.prediction import hostile

LIMITS = {
  'seconds': 3600, 'pixels': 2**24, 'frames': 20_000, 'streams': 16, 'people': 20,
  'memory-bytes': 600 * 2**20, 'cpu-seconds': 10, 'wall-seconds': 30,
}  # fmt: skip


def escaped(name: str) -> str:
  """A name within the header of a part, as browsers write it."""
  return name.replace('"', '%22').replace('\r', '%0D').replace('\n', '%0A')


def problem(file: hostile.Hostile, document: dict) -> str:
  """What is wrong with a job's document, or ''."""
  if document['status'] != 'done':
    return f'{document["status"]}: {document["error"]}'
  answer = from_dict(document['answer'])
  if (answer.verdict == 'no_answer') != (answer.probability is None):
    return f'{answer.verdict} with {answer.probability}'
  if file.allowed and (answer.verdict != 'no_answer' or answer.reasons[0] not in file.allowed):
    return f'{answer.verdict} {answer.reasons} {answer.warnings}'
  name = document['name']
  if not name.isprintable() or '/' in name or '\\' in name or len(name) > 200:
    return f'shown as {name!r}'
  return ''


def outcome(document: dict) -> str:
  """The verdict, or the reason for none."""
  answer = document['answer'] or {'verdict': 'failed', 'reasons': []}
  return answer['reasons'][0] if answer['verdict'] == 'no_answer' else answer['verdict']


def main(argv: list[str]) -> int:
  """Runs it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', required=True)
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  flags = [f'--max-{name}={value}' for name, value in LIMITS.items()]
  outcomes: collections.Counter = collections.Counter()
  wrong, started = 0, time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / 'data'
    server = load.Server(args.model, data, ['--faces=whole', '--num-processes=2', *flags])
    try:
      client = load.Client(server, load.Seen())
      for file in hostile.make(args.count, args.seed):
        body = load.form(escaped(file.name), file.content)
        status, content, _ = client.ask('POST', '/v1/predictions?wait=1', body, load.FORM)
        document = json.loads(content or b'{}')
        said = problem(file, document) if status == 200 else f'status {status}: {content[:200]!r}'
        if said:
          wrong += 1
          print(f'WRONG {file.kind}: {said}')
        outcomes[file.kind, outcome(document) if status == 200 else str(status)] += 1
        server.watch()
      assert client.ask('GET', '/healthz')[0] == 200
      left = sorted(path.name for path in data.rglob('*') if path.is_file())
      beside = sorted(path.name for path in data.parent.iterdir())
    finally:
      server.stop()
  for (kind, found), number in sorted(outcomes.items()):
    print(f'{kind:32s} {found:16s} {number}')
  print(f'{args.count} files in {time.monotonic() - started:.0f} s, {wrong} wrong; the server had')
  print(f'{server.max_rss / 2**20:.0f} MiB at most; in its folder: {", ".join(left)}')
  is_clean = beside == ['data'] and {*left} <= {
    '.lock', 'jobs.sqlite', 'jobs.sqlite-wal', 'jobs.sqlite-shm'
  }  # fmt: skip
  return int(wrong > 0 or not is_clean)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
