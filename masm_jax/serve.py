"""Answers over HTTP: uploads in, verdicts out, and a page for people.

python -m masm_jax.serve --model=runs/ffpp --data=served
python -m masm_jax.serve --model=DETECTOR --data=served --host=0.0.0.0 --token-file=token.txt

Listens on this machine alone unless --host says otherwise, which needs a token. Uploads lie in
--data until they are answered; answers are kept for --keep. A server that was ended or killed does
what it had accepted when it starts again. docs/prediction.md has the API and the reverse proxy.
"""

import argparse
import contextlib
import os
import pathlib
import re
import sys
from typing import Any

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.terminal import say

_UNITS = {'s': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}
_LOCAL_NAMES = ('localhost', '127.0.0.1', '::1')
# Smaller than those of `predict`, whose user has chosen the files.
_LIMITS = {'bytes': 500_000_000, 'seconds': 3600.0, 'cpu_seconds': 900, 'wall_seconds': 900.0}


def main(argv: list[str] | None = None) -> int:
  """Runs the server until a signal ends it; returns the exit status."""
  args = _parser().parse_args(argv)
  return cli.exit_status(lambda: _serve(args), interrupted='stopped; open jobs stay in --data')


def _parser() -> argparse.ArgumentParser:
  from masm_jax.prediction import flags

  parser = argparse.ArgumentParser(
    prog=cli.program('serve'),
    description=cli.in_typed_words(__doc__ or ''),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--model', required=True, metavar='DIR', help="a run's folder, or a detector file")
  add('--data', required=True, type=pathlib.Path, metavar='DIR', help='of jobs; made if needed')
  add('--host', default='127.0.0.1', help='address to listen at (default: %(default)s)')
  add('--port', type=int, default=8000, help='0 for a free one (default: %(default)s)')
  add('--token-file', type=pathlib.Path, metavar='FILE', help='the token that requests bear')
  add(
    '--allow-host', action='append', default=[], metavar='NAME',
    help='by which a reverse proxy asks this server; needs --token-file; repeatable',
  )  # fmt: skip
  add('--keep', default='24h', metavar='TIME', help='of answers: 90s, 30m, 24h, 7d (%(default)s)')
  add('--queue', type=int, default=64, metavar='N', help='open jobs; beyond, 429 (%(default)s)')
  add('--num-processes', type=int, default=0, metavar='N', help='that read files; one a core')
  add('--batch-size', type=int, default=32, metavar='N', help='faces scored at a time')
  add('--policy', metavar='FILE', help='threshold, abstention and more as JSON: docs/prediction.md')
  add('--step', default='best', help='of a run: best, last, or a number (default: %(default)s)')
  add('--weights', default='', metavar='FILE', help='of a run: base weights, if they have moved')
  add(
    '--faces', choices=('yunet', 'haar', 'whole'), default='yunet',
    help='how faces are found; whole: every picture is one face crop (default: %(default)s)',
  )  # fmt: skip
  add('--yunet', metavar='FILE', help="YuNet's model; fetched once without it")
  add(
    '--explain', nargs='?', choices=('measured', 'always'), const='measured', default='',
    help='what the detector reacted to; maps only where they were measured, or always',
  )  # fmt: skip
  flags.add_limits(parser, **_LIMITS)
  return parser


def _serve(args: argparse.Namespace) -> int:
  keep_s = _seconds(args.keep)
  if not 0 <= args.port < 2**16:
    raise UserError(f'--port={args.port}: give a number from 0 to 65535')
  if args.queue < 1 or args.num_processes < 0:
    raise UserError('--queue and --num-processes: give numbers above 0')
  try:
    from masm_jax.serving import app, guard, listening, store
  except ModuleNotFoundError as error:
    raise UserError(
      f"the server needs {error.name}, of an extra: pip install 'masm_jax[serve]'"
    ) from error
  is_local = listening.is_loopback(args.host)
  if not args.token_file and (not is_local or args.allow_host):
    flag = '--allow-host' if is_local else f'--host={args.host}'
    raise UserError(
      f'{flag} lets other machines ask: give --token-file=FILE, with a token that they have to bear'
    )
  token = guard.read_token(args.token_file) if args.token_file else None
  hosts = tuple(map(str.lower, args.allow_host))
  if is_local:
    hosts += (*_LOCAL_NAMES, args.host.lower())
  with contextlib.ExitStack() as stack:
    stack.callback(os.umask, os.umask(0o077))  # Uploads are for nobody else on this machine.
    listens = stack.enter_context(listening.bind(args.host, args.port))
    address = listening.address_of(listens)
    stack.enter_context(locks.held(args.data))
    store.check(args.data)  # Before the detector is loaded; made after it, if all is well.
    last = stack.enter_context(contextlib.ExitStack())
    engine = _engine(args)
    stack.callback(engine.close, now=True)  # Open jobs are done by the next server.
    jobs = store.Store(args.data)
    last.callback(jobs.close)
    from masm_jax.serving import scoring

    application = app.build(
      jobs,
      scoring.EngineScorer(engine),
      app.Settings(
        queue=args.queue,
        workers=2 * engine.num_workers,  # One is read while the faces of another are scored.
        keep_s=keep_s,
        max_bytes=engine.limits.bytes,
        token=token,
        hosts=hosts,
      ),
      model=scoring.model_document(engine),
      read=scoring.read,
      report=scoring.report,
    )
    scoring.warm_up(engine)
    say(f'Serving {engine.model.name} at {address}; Ctrl-C ends it.')
    listening.Server(application).run([listens])
  return 0


def _engine(args: argparse.Namespace) -> Any:
  # Not above: what is wrong with the flags should not wait for jax.
  cli.start_jax(deterministic=True)
  from masm_jax.prediction import engine, flags, policy, predictor

  limits = flags.limits(args)
  explainer = None
  if args.explain:
    from masm_jax.prediction.explaining import FaceExplainer

    explainer = FaceExplainer(args.model, step=args.step, weights=args.weights, maps=args.explain)
  detector = predictor.load(args.model, step=args.step, weights=args.weights)
  return engine.Engine(
    detector,
    policy=policy.read_policy(args.policy, detector) if args.policy else None,
    limits=limits,
    num_workers=args.num_processes or os.cpu_count() or 1,
    batch_size=args.batch_size,
    faces=args.faces,
    yunet=args.yunet,
    explainer=explainer,
  )


def _seconds(text: str) -> float:
  """Seconds of a time such as `24h`."""
  match = re.fullmatch(r'(\d{1,9})([smhd])', text)
  if not match or int(match[1]) < 1:
    raise UserError(f'--keep={text}: give a time such as 90s, 30m, 24h or 7d')
  return int(match[1]) * _UNITS[match[2]]


if __name__ == '__main__':
  sys.exit(main())
