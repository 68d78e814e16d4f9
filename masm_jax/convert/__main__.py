"""Makes a detector file of a detector that another program has trained.

python -m masm_jax.convert --from effort effort_clip_L14.pth --out detectors/effort

`masm_jax.load`, `python -m masm_jax.evaluate --checkpoint` and all else take it in the place of a
run. A `.pth` file is a pickle; PyTorch reads it here, with weights_only=True: it runs no code.
"""

import argparse
import pathlib
import sys

from masm_jax import cli, places
from masm_jax.parallel import locks

_ABOUT = {
  'effort': 'Effort (arXiv 2411.15633): faces, UniversalFakeDetect, GenImage',
  'gend': 'GenD (arXiv 2508.06248), a folder of transformers, on CLIP, DINO or PE-Core',
  'deepfakebench': "DeepfakeBench's CLIP baseline",
  'adapter': 'what masm_jax.export --format adapter writes, on its base weights',
}


def main(argv: list[str] | None = None) -> int:
  """Writes the detector file; returns the exit status."""
  about = '\n'.join(f'  {name.ljust(15)}{what}' for name, what in _ABOUT.items())
  parser = argparse.ArgumentParser(
    prog=cli.program('convert'),
    description=cli.in_typed_words(__doc__),
    epilog=f'formats:\n{about}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('file', type=pathlib.Path, metavar='FILE', help='the file, or its folder')
  parser.add_argument('--from', choices=_ABOUT, required=True, dest='format', help='see below')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='folder of the detector file')
  parser.add_argument('--name', default='', help="of the detector; the file's name by default")
  parser.add_argument('--base-weights', default='', help='of an adapter: the file of base weights')
  parser.add_argument(
    '--whole-images', action='store_true', help='it scores whole images, not crops of faces'
  )
  parser.add_argument(
    '--licence-note', default='', help='under what terms the weights may be used, in one line'
  )
  args = parser.parse_args(argv)
  return cli.exit_status(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> int:
  places.refuse_inputs(args.out, (args.file, args.base_weights))
  cli.start_jax(deterministic=True)
  from masm_jax.convert import writing

  with locks.held_beside(args.out):
    writing.convert(
      args.format,
      args.file,
      args.out,
      name=args.name,
      licence_note=args.licence_note,
      whole_images=args.whole_images,
      base_weights=args.base_weights,
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())
