"""Writes a trained detector in another form.

python -m masm_jax.export --run runs/ffpp --format detector --out detectors/ffpp

`detector` is one folder with all that scoring needs: weights, thresholds and calibration from
validation, hashes. `masm_jax.load` and `python -m masm_jax.evaluate --checkpoint` take it in the
place of a run. The other formats are for other programs; docs/formats.md has them.
"""

import argparse
import importlib
import pathlib
import sys

from masm_jax import cli, places
from masm_jax.export import FORMATS
from masm_jax.export.request import Request
from masm_jax.parallel import locks


def main(argv: list[str] | None = None) -> int:
  """Writes the export; returns the exit status."""
  about = '\n'.join(f'  {name.ljust(12)}{what}' for name, (_, what) in FORMATS.items())
  parser = argparse.ArgumentParser(
    prog=cli.program('export'),
    description=cli.in_typed_words(__doc__),
    epilog=f'formats:\n{about}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--run', type=pathlib.Path, required=True, help='the --workdir of a run')
  parser.add_argument('--format', choices=FORMATS, required=True, help='see below')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='what is written')
  parser.add_argument(
    '--step', default='best', help='best (by validation), last, or the number of a step'
  )
  parser.add_argument(
    '--base-weights',
    default='',
    help='file of the base weights, if it is no longer where the run found it',
  )
  parser.add_argument('--name', default='', help="of the detector; the run's folder by default")
  parser.add_argument(
    '--licence-note', default='', help='under what terms the weights may be used, in one line'
  )
  parser.add_argument(
    '--weights',
    choices=('merged', 'adapter'),
    default='merged',
    help='of detector: all parameters, or what training added (it is loaded with the base weights)',
  )
  parser.add_argument(
    '--explanations',
    choices=('auto', 'always', 'never'),
    default='auto',
    help='of detector: whether what training added goes along (auto: if smaller than the weights)',
  )
  parser.add_argument(
    '--benchmark',
    type=pathlib.Path,
    help='of detector: benchmark.json of `explain --benchmark`, told beside every map',
  )
  args = parser.parse_args(argv)
  return cli.exit_status(lambda: _export(args))


def _export(args: argparse.Namespace) -> int:
  inputs = (args.run, args.base_weights, args.benchmark or '')
  places.refuse_inputs(args.out, inputs)
  cli.start_jax(deterministic=True)
  request = Request(
    run=args.run,
    out=args.out,
    step=args.step,
    base_weights=args.base_weights,
    name=args.name,
    weights=args.weights,
    licence_note=args.licence_note,
    explanations=args.explanations,
    benchmark=args.benchmark,
  )
  name, _ = FORMATS[args.format]
  module = importlib.import_module(name)
  with locks.held_beside(args.out):  # Two would mix their files.
    module.write(request)
  return 0


if __name__ == '__main__':
  sys.exit(main())
