"""The demo: several methods on the built-in portraits; a table, a picture, a detector file.

python -m masm_jax.demo --config=demo --workdir=runs/demo

At its end the detector file of `masm` says of four test pictures and a clip what it finds.

Flags behind these go to every run: `--config.train.duration='2 epochs'`.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys

import numpy as np

from masm_jax import cli, places, plain_files
from masm_jax.parallel import locks
from masm_jax.terminal import say

METHODS = ('masm', 'linear', 'full')
NOTE = 'demo.json'
_OLDER = ('demo.png', 'results.json', f'{METHODS[0]}/run.json')  # All there, but no note.
LICENCE_NOTE = 'trained on drawn portraits: it says nothing about real pictures'


def summarize(workdir: pathlib.Path) -> None:
  """Prints the table of all methods, and writes `results.json` and `demo.png` to `workdir`.

  Args:
    workdir: holds the run of each method in a folder of its name.
  """
  from masm_jax import telemetry
  from masm_jax.data import sets as sets_lib
  from masm_jax.metrics import metric_tables, scores
  from masm_jax.plots import curves as plots

  results = {method: telemetry.read_json(workdir / method / 'results.json') for method in METHODS}
  best = {method: result['best']['sets'] for method, result in results.items()}
  sets = sorted((n for n in best[METHODS[0]] if n != 'val'), key=lambda name: name != 'known')
  say('\nTrained on swap, upsample, reenact and texture (known); the other forgeries are new.')
  for level in scores.LEVELS:
    metrics = {method: {name: best[method][name] for name in sets} for method in METHODS}
    say(f'\n{metric_tables.format_comparison(metrics, "auroc", level)}')
  trained = (f'{name} {result["trainable_parameters"]:,}' for name, result in results.items())
  say(f'\nTrainable parameters: {", ".join(trained)}')
  say(f'\n{sets_lib.SYNTHETIC_NOTE}')

  curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
  for name in sets:
    curves[name] = {}
    for method in METHODS:
      path = workdir / method / 'scores' / 'best' / f'{name}.parquet'
      table = scores.read_scores(path, of={'set': name})
      curves[name][method] = (table['label'].to_numpy(), table['score'].to_numpy())
  masks = telemetry.read_lines(workdir / 'masm' / 'masks.jsonl')
  picture = plots.demo_figure(
    curves,
    np.array([line['mask'] for line in masks]),
    [line['step'] for line in masks],
    workdir / 'demo.png',
    title='masm_jax demo: ROC by frame, and the layer mask of masm',
    note=sets_lib.SYNTHETIC_NOTE,
    end_step=results['masm']['last']['step'] + 1,  # A mask holds from the step that drew it on.
  )
  document = {'note': sets_lib.SYNTHETIC_NOTE, 'methods': results}
  telemetry.write_json(workdir / 'results.json', document)
  say(f'\nTable: {workdir / "results.json"}\nPicture: {picture}')


def write_inputs(run: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes a few faces of a run's test set `known` as files to predict.

  Args:
    run: its folder.
    folder: gets two real pictures, two fake ones, and a clip of a fake one.
  """
  import av
  import ml_collections

  from masm_jax import files
  from masm_jax.data import sets as sets_lib
  from masm_jax.data import transforms

  config = ml_collections.ConfigDict(files.read_json(run / 'run.json')['config'])
  known = sets_lib.SetLoader(config.data.synthetic)('known', config.data.tests.known)
  root, paths = pathlib.Path(known.root), []
  for label, name in ((0, 'real'), (1, 'fake')):
    videos = known.table[known.table['label'] == label].groupby('video_id')['path']
    for number, path in enumerate(videos.first()[:2], start=1):
      paths.append(folder / f'{name}_{number}{pathlib.Path(path).suffix}')
      files.write_bytes(paths[-1], plain_files.read_bytes(root / path))
  paths.append(folder / 'fake_clip.mp4')
  images = [transforms.decode(root / path) for path in videos.get_group(videos.size().idxmax())]
  with files.replacing(paths[-1]) as fresh, av.open(str(fresh), 'w', format='mp4') as container:
    stream = container.add_stream('mpeg4', rate=4, options={'qscale': '2'})
    stream.height, stream.width = images[0].shape[:2]
    for image in images * 4:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
    container.mux(stream.encode())
  return paths


def main() -> int:
  """Runs every method (a run that was stopped resumes), then the summary; the exit status."""
  parser = argparse.ArgumentParser(
    prog=cli.program('demo'),
    description=cli.in_typed_words(__doc__),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--config', default='demo', help='default: %(default)s')
  parser.add_argument(
    '--workdir', type=pathlib.Path, default='runs/demo', help='default: %(default)s'
  )
  known, more = parser.parse_known_args()
  return cli.exit_status(lambda: _run_all(known, more))


def _run_all(known: argparse.Namespace, more: list[str]) -> int:
  is_older = all((known.workdir / name).is_file() for name in _OLDER)
  with (
    locks.held(known.workdir, kind=places.DEMO),  # Each command has a lock of its own beside it.
    places.begun(NOTE, known.workdir, what=places.DEMO, is_older=is_older),
  ):
    return _demo(known, more)


def _demo(known: argparse.Namespace, more: list[str]) -> int:
  from masm_jax.prediction import command

  for method in METHODS:
    flags = [f'--config={known.config}:method={method}', f'--workdir={known.workdir / method}']
    if status := _run(method, 'main', *flags, *more):
      return status
  summarize(known.workdir)
  detector = known.workdir / 'detector'
  status = _run(
    'detector file', 'export', f'--run={known.workdir / METHODS[0]}', '--format=detector',
    f'--out={detector}', '--name=demo', f'--licence-note={LICENCE_NOTE}',
  )  # fmt: skip
  if status:
    return status
  sources = write_inputs(known.workdir / METHODS[0], known.workdir / 'inputs')
  # The portraits are face crops already. Answers of an earlier demo may be another detector's.
  command.remove(known.workdir / 'answers')
  return _run(
    'verdicts', 'predict', f'--model={detector}', *(f'--source={path}' for path in sources),
    '--faces=whole', f'--out={known.workdir / "answers"}',
  )  # fmt: skip


def _run(title: str, command: str, *flags: str) -> int:
  """Runs another command of the program, in a process of its own; returns its exit status."""
  say(f'\n=== {title}: python -m masm_jax.{command} {shlex.join(flags)}')
  process = subprocess.Popen([sys.executable, '-m', f'masm_jax.{command}', *flags])
  try:
    return process.wait()
  except KeyboardInterrupt:
    process.wait()  # It has noted Ctrl-C too, and saves by itself.
    raise


if __name__ == '__main__':
  sys.exit(main())
