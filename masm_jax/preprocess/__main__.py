"""Raw videos to face crops: `python -m masm_jax.preprocess --input RAW --layout ffpp --output DIR`.

Decodes evenly spaced frames, finds the face that each video is about, aligns it, and writes
DIR/crops, DIR/manifest.parquet (which training takes as it is) and DIR/outcomes.jsonl (one line per
video). Stopped at any moment, the same command resumes where it was.

Exit status: 0 when all is done, 1 when no video gave a face, 2 for input that cannot be used.
"""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.terminal import say

_LAYOUTS = """layouts (splits come from the data set's own lists where it has some):
  ffpp             original_sequences/, manipulated_sequences/; train.json, val.json, test.json
  dfd              DeepFakeDetection: as in ffpp, or DFD_original*, DFD_manipulated*
  deeperforensics  manipulated_videos/, lists/splits/; real: original_sequences/youtube/c23
  celebdf_v1, celebdf_v2, celebdf_pp
                   Celeb-real/, YouTube-real/, Celeb-synthesis/, List_of_testing_videos.txt
  dfdc             folders with metadata.json, metadata.csv or labels.csv
  dfdcp            original_videos/, method_A/, method_B/, dataset.json
  uadfv            real/, fake/
  wilddeepfake     {real,fake}_{train,test}/, unpacked
  ffiw             {source,target,target_mask}/{train,val,test}/
  folder           {real,fake}/..., or {train,val,test}/{real,fake}/..., videos or images;
                   with --label anything, and without labels --label unknown
"""

_LABELS = ('real', 'fake', 'unknown')
_PEOPLE = (
  'whose crops: the one that the video is about, or all who are seen, each with a video_id of '
  'their own; in a fake, all get its label unless masks tell who is forged (default: %(default)s)'
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  args = _parser().parse_args(argv)
  kept = 'interrupted; what is done stays, and the same command resumes'
  return cli.exit_status(lambda: _run(args), interrupted=kept)


def _parser() -> argparse.ArgumentParser:
  summary, _, rest = __doc__.partition('\n\n')
  parser = argparse.ArgumentParser(
    prog=cli.program('preprocess'),
    description=cli.in_typed_words(f'{summary}\n\n{rest}'),
    epilog=_LAYOUTS,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--input', required=True, type=_local, metavar='RAW', help="data set's folder, or one file")
  add('--layout', default='folder', help='how it lies there, see below (default: %(default)s)')
  add('--output', required=True, type=_local, metavar='DIR', help='new, or of an earlier run')
  add(
    '--dataset',
    default='',
    help="of the manifest's data set; default: the layout's name, the folder's for `folder`",
  )
  add('--split', default='', choices=('train', 'val', 'test'), help='of videos that no list places')
  add('--label', choices=_LABELS, help='folder layout: all videos are that (one file: unknown)')
  add('--compression', nargs='+', default=(), choices=('raw', 'c23', 'c40'), help='only these')
  add('--lists', type=pathlib.Path, help="folder of the split lists; default: the data set's")
  add('--masks', type=pathlib.Path, help='folder of forgery masks, with the paths of the videos')
  add('--frames', type=int, default=32, help='frames of each video (default: %(default)s)')
  add('--template', default='deepfakebench', choices=('deepfakebench', 'gend'), help='alignment')
  add(
    '--margin', type=float, default=1.3, help="crop over the face's square (default: %(default)s)"
  )
  add('--size', default='256', help='side of a crop in pixels, or native (default: %(default)s)')
  add('--format', default='png', choices=('png', 'jpg'), help='of the crops (default: %(default)s)')
  add('--detector', default='yunet', choices=('yunet', 'haar'), help='haar is much the weaker one')
  add('--yunet', metavar='FILE', help="YuNet's model; default: fetched once and checked")
  add('--people', default='one', choices=('one', 'all'), help=_PEOPLE)
  add('--min_face', type=int, default=24, help='pixels of a face; smaller: left out (default: 24)')
  add('--min_score', type=float, default=0.7, help='least confidence of a face (default: 0.7)')
  add(
    '--processes',
    type=int,
    default=os.cpu_count() or 1,
    help='0: all in this one; with ray, actors (default: the cores)',
  )
  add(
    '--engine', choices=('local', 'ray'), default='local',
    help='where videos are read: here, or on a Ray cluster (default: %(default)s)',
  )  # fmt: skip
  add('--address', default='', help='of ray: auto, or an address; without it, one starts here')
  return parser


def _run(args: argparse.Namespace) -> int:
  size_px = None if args.size == 'native' else _positive('--size', args.size)
  _positive('--frames', args.frames)
  if args.processes < 0:
    raise UserError(f'--processes {args.processes}: is negative')
  if args.engine == 'ray' and args.processes < 1:
    raise UserError('--processes 0: is for --engine local; Ray needs an actor')
  if args.address and args.engine != 'ray':
    raise UserError(f'--address {args.address}: is for --engine ray')
  if not 1 <= args.margin <= 4:
    raise UserError(f'--margin {args.margin}: must be between 1 and 4')
  if not 0 < args.min_score < 1:
    raise UserError(f'--min_score {args.min_score}: must be between 0 and 1')
  if args.min_face < 0:
    raise UserError(f'--min_face {args.min_face}: is negative')
  if args.label and args.layout != 'folder':
    raise UserError('--label is for --layout folder; the others know their labels')
  if not args.input.exists():  # Said before the detector's model is fetched.
    raise UserError(f'--input {args.input}: no such folder or file')

  # OpenCV, PyAV and pandas are loaded when there is something to do.
  from masm_jax.parallel.ray_actors import Cluster
  from masm_jax.preprocess import outcomes, run
  from masm_jax.preprocess.crops import Settings
  from masm_jax.preprocess.layouts import Options
  from masm_jax.preprocess.model_file import yunet_model
  from masm_jax.preprocess.raw_video import readable

  settings = Settings(
    num_frames=args.frames,
    template=args.template,
    margin=args.margin,
    size_px=size_px,
    image_format=args.format,
    detector=args.detector,
    model=yunet_model(args.yunet) if args.detector == 'yunet' else None,
    min_score=args.min_score,
    people=args.people,
    min_face_px=args.min_face,
  )
  options = Options(
    dataset=args.dataset,
    split=args.split,
    label=_label(args),
    compressions=tuple(args.compression),
    lists=args.lists,
    masks=args.masks,
  )
  report = run.preprocess(
    args.input,
    args.layout,
    args.output,
    options=options,
    settings=settings,
    num_processes=args.processes,
    cluster=Cluster(args.address, args.processes) if args.engine == 'ray' else None,
    on_start=_say_start,
  )
  say(outcomes.summary(report))
  if report.manifest is None:
    say(f'error: no face in any of {len(report.outcomes)} videos', file=sys.stderr)
    return 1
  path = args.output / run.MANIFEST
  size, sha256 = len(report.manifest), report.manifest.sha256[:12]
  say(f'wrote {readable(str(path))}: {size} crops, sha256 {sha256}')
  return 0


def _label(args: argparse.Namespace) -> int | None:
  from masm_jax.data.columns import FAKE, REAL, UNLABELLED

  named = dict(zip(_LABELS, (REAL, FAKE, UNLABELLED), strict=True))
  return named.get('unknown' if args.label is None and args.input.is_file() else args.label)


def _local(text: str) -> pathlib.Path:
  if '://' in text:
    raise argparse.ArgumentTypeError(
      f'{text}: videos are read, and crops written, on this machine; '
      '`python -m masm_jax.data tfds` puts crops into remote storage'
    )
  return pathlib.Path(text)


def _say_start(total: int, done: int) -> None:
  say(f'{total} videos' + (f', {done} of them done before' if done else ''), file=sys.stderr)


def _positive(name: str, value: str | int) -> int:
  if not re.fullmatch('[0-9]{1,9}', str(value)) or int(value) < 1:
    raise UserError(f'{name} {str(value)[:20]}: must be a whole number from 1 to 999999999')
  return int(value)


if __name__ == '__main__':
  sys.exit(main())
