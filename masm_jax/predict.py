"""Says of pictures and videos whether a trained detector finds signs of manipulation in them.

python -m masm_jax.predict --model=runs/ffpp --source=clip.mp4 --source=photos/ --out=answers
python -m masm_jax.predict --model=runs/ffpp --source='videos/**/*.mp4' --out=part0 --shard=0/8
python -m masm_jax.predict merge part0 part1 --out=answers

The folder `--out` then holds `predictions.jsonl` (an answer a line) and `report.html` (for people).
Stopped at any moment, the same command resumes: an input that has its line is not done again.

Exit status: 0 when every input has its answer, whatever it says; 2 for input that cannot be used.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from masm_jax import cli
from masm_jax.errors import UserError

_FORMATS = ('jsonl', 'json', 'csv')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  words = sys.argv[1:] if argv is None else list(argv)
  kept = 'interrupted; what is done stays, and the same command resumes'
  if words[:1] == ['merge']:
    return cli.exit_status(lambda: _merge(words[1:]), interrupted=kept)
  return cli.exit_status(lambda: _run(_parser().parse_args(words)), interrupted=kept)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=cli.program('predict'),
    description=cli.in_typed_words(__doc__),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--model', required=True, metavar='DIR', help="a run's folder, or a detector file")
  add(
    '--source', required=True, action='append', metavar='WHAT',
    help='a file, a folder, a pattern, or - for a list of files on standard input; repeatable',
  )  # fmt: skip
  add('--out', required=True, type=pathlib.Path, metavar='DIR', help='new, or of an earlier run')
  add('--format', choices=_FORMATS, default='jsonl', help='a further file (default: %(default)s)')
  add('--policy', metavar='FILE', help='threshold, abstention and more as JSON: docs/prediction.md')
  add('--frames', type=int, metavar='N', help='frames looked at in a video (default: 32)')
  add('--save', choices=('pictures',), help='writes annotated frames and timelines too')
  add(
    '--explain', nargs='?', choices=('measured', 'always'), const='measured', default='',
    help='say which learned change fired for one face a person, and where: maps that beat the'
    ' middle of the picture in the benchmark (measured), or all (always)',
  )  # fmt: skip
  add('--shard', default='0/1', metavar='I/N', help='only the I-th of N parts, from 0')
  add('--step', default='best', help='of a run: best, last, or a number (default: %(default)s)')
  add('--weights', default='', metavar='FILE', help='of a run: base weights, if they have moved')
  add(
    '--faces', choices=('yunet', 'haar', 'whole'), default='yunet',
    help='how faces are found; whole: every picture is one face crop (default: %(default)s)',
  )  # fmt: skip
  add('--yunet', metavar='FILE', help="YuNet's model; fetched once without it")
  add(
    '--num-processes',
    type=int,
    default=1,
    metavar='N',
    help='that read files; with ray, actors (default: 1)',
  )
  add('--batch-size', type=int, default=32, metavar='N', help='faces scored at a time')
  add(
    '--engine', choices=('local', 'ray'), default='local',
    help='where files are read and scored: here, or on a Ray cluster (default: %(default)s)',
  )  # fmt: skip
  add('--address', default='', help='of ray: auto, or an address; without it, one starts here')
  from masm_jax.prediction import flags

  flags.add_limits(parser)
  return parser


def _run(args: argparse.Namespace) -> int:
  from masm_jax.prediction import command, flags

  options = command.Options(
    model=args.model,
    sources=tuple(args.source),
    out=args.out,
    form=args.format,
    policy=args.policy,
    num_frames=args.frames,
    pictures=args.save == 'pictures',
    explain=args.explain,
    shard=args.shard,
    step=args.step,
    weights=args.weights,
    faces=args.faces,
    yunet=args.yunet,
    num_workers=args.num_processes,
    batch_size=args.batch_size,
    limits=flags.limits(args),
    engine=args.engine,
    address=args.address,
  )
  return command.run(options, start_jax=lambda: cli.start_jax(deterministic=True))


def _merge(words: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(
    prog=cli.program('predict merge'), description='Joins the folders of shards into one.'
  )
  parser.add_argument('parts', nargs='+', type=pathlib.Path, metavar='DIR')
  parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR')
  parser.add_argument('--format', choices=_FORMATS, default='jsonl')
  args = parser.parse_args(words)
  from masm_jax.prediction import command

  if args.out in args.parts:
    raise UserError('--out is one of the parts: give a new folder')
  return command.merge(args.parts, args.out, args.format)


if __name__ == '__main__':
  sys.exit(main())
