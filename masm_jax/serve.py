"""Answers over HTTP: uploads in, verdicts out, and a page for people.

python -m masm_jax.serve --model runs/ffpp --data served
python -m masm_jax.serve --model DETECTOR --host 0.0.0.0 --token-file token.txt --data served

Listens on this machine alone unless --host says otherwise, which needs a token. Uploads wait in
--data, are deleted with their answer, and answers after --keep; a server that was ended or killed
does what it had accepted when it starts again. docs/prediction.md has the API and the way behind a
reverse proxy.
"""

import argparse
import os
import pathlib
import re
import sys
from typing import Any

from masm_jax import cli
from masm_jax.errors import UserError

_UNITS = {'s': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}
# Smaller than those of the command line, whose user has chosen the files.
_LIMITS = {'bytes': 500_000_000, 'seconds': 3600.0, 'cpu_seconds': 900, 'wall_seconds': 900.0}
_LIMIT_NAMES = (
  'bytes', 'seconds', 'pixels', 'frames', 'streams', 'people', 'memory_bytes', 'cpu_seconds',
  'wall_seconds',
)  # fmt: skip
_NAMES = ('localhost', '127.0.0.1', '::1')  # Of this machine, for itself.


def main(argv: list[str] | None = None) -> int:
  """Runs the server until a signal ends it; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog=cli.program('serve'),
    description=cli.in_typed_words(__doc__ or ''),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--model', type=pathlib.Path, required=True, help='a run, or a detector folder')
  add('--data', type=pathlib.Path, required=True, help='folder of jobs and answers; made if needed')
  add('--host', default='127.0.0.1', help='address to listen at (%(default)s)')
  add('--port', type=int, default=8000, help='0 for a free one (%(default)s)')
  add('--token-file', type=pathlib.Path, help='file with the token that requests have to bear')
  add(
    '--allow-host',
    action='append',
    default=[],
    metavar='NAME',
    help='name by which a reverse proxy asks this server; needs --token-file',
  )
  add('--keep', default='24h', help='how long an answer is kept: 90s, 30m, 24h, 7d (%(default)s)')
  add('--queue', type=int, default=64, help='open jobs at which uploads get 429 (%(default)s)')
  add('--workers', type=int, default=0, help='processes that read files; by default one a core')
  add('--batch-size', type=int, default=0, help='faces that are scored at a time')
  add('--policy', type=pathlib.Path, help='JSON file with the rules of a verdict')
  add('--faces', choices=('yunet', 'haar', 'whole'), default='yunet', help='how faces are found')
  add('--yunet', type=pathlib.Path, help="YuNet's model file; fetched once by default")
  add(
    '--limit',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help=f'of one upload; names are {", ".join(_LIMIT_NAMES)}',
  )
  args = parser.parse_args(argv)
  return cli.exit_status(lambda: _serve(args), interrupted='stopped; open jobs stay in --data')


def _serve(args: argparse.Namespace) -> int:
  keep_s = _seconds(args.keep)
  limits = dict(_limit(word) for word in args.limit)
  for name, value in (('--queue', args.queue), ('--workers', args.workers + 1)):
    if value < 1:
      raise UserError(f'{name}: give a number above 0')
  try:
    from masm_jax.serving import app, guard, listening, lock, store
  except ImportError as error:
    raise UserError(
      f"the server needs the packages of an extra: pip install 'masm_jax[serve]' ({error})"
    ) from error
  is_local = listening.is_loopback(args.host)
  if not args.token_file and (not is_local or args.allow_host):
    flag = '--allow-host' if is_local else f'--host={args.host}'
    raise UserError(
      f'{flag} lets other machines ask: give --token-file=FILE, with a token that they have to bear'
    )
  token = guard.read_token(args.token_file) if args.token_file else None
  own_names = (*_NAMES, args.host.lower()) if is_local else ()
  hosts = (*own_names, *map(str.lower, args.allow_host)) if is_local or args.allow_host else ()
  os.umask(0o077)  # Uploads are for nobody else on this machine.
  try:
    args.data.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot make --data={args.data}: {error.strerror}') from error
  listens = listening.bind(args.host, args.port)
  address = listening.address_of(listens)
  held = lock.Lock(args.data, address)
  jobs = store.Store(args.data)
  engine = _engine(args, limits)
  try:
    from masm_jax.serving import scoring

    settings = app.Settings(
      queue=args.queue,
      workers=2 * engine.num_workers,  # One is read while the faces of another are scored.
      keep_s=keep_s,
      max_bytes=engine.limits.bytes,
      token=token,
      hosts=hosts,
    )
    application = app.build(
      jobs,
      scoring.EngineScorer(engine),
      settings,
      model=scoring.model_document(engine),
      read=scoring.read,
      report=scoring.report,
    )
    print(f'Serving {engine.model.name} at {address}; Ctrl-C ends it.', flush=True)
    listening.Server(application).run([listens])
  finally:
    engine.close()
    jobs.close()
    held.release()
  return 0


def _engine(args: argparse.Namespace, limits: dict[str, float]) -> Any:
  # Not above: what is wrong with the flags should not wait for jax.
  from masm_jax.prediction import media, policy, predictor
  from masm_jax.prediction.engine import Engine

  detector = predictor.load(args.model)
  engine = Engine(
    detector,
    policy=policy.read_policy(args.policy, detector) if args.policy else None,
    limits=media.Limits(**(_LIMITS | limits)),
    num_workers=args.workers or os.cpu_count() or 1,
    batch_size=args.batch_size or None,
    faces=args.faces,
    yunet=args.yunet,
  )
  return engine


def _seconds(text: str) -> float:
  """Seconds of a time such as `24h`."""
  match = re.fullmatch(r'(\d+(?:\.\d+)?)([smhd])', text)
  if not match or not float(match[1]) > 0:
    raise UserError(f'--keep={text}: give a time such as 90s, 30m, 24h or 7d')
  return float(match[1]) * _UNITS[match[2]]


def _limit(text: str) -> tuple[str, float]:
  """Name and value of a limit."""
  name, _, value = text.partition('=')
  if name not in _LIMIT_NAMES or not re.fullmatch(r'\d+(\.\d+)?(e\d+)?', value):
    raise UserError(f'--limit {text}: give NAME=VALUE; names are {", ".join(_LIMIT_NAMES)}')
  number = float(value)
  return name, number if name.endswith('seconds') and name != 'cpu_seconds' else int(number)


if __name__ == '__main__':
  sys.exit(main())
