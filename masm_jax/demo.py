"""The demo: several methods on the built-in portraits, one table, one picture, one JSON file.

python -m masm_jax.demo --config=configs/demo.py --workdir=runs/demo
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from masm_jax import main as main_lib

METHODS = ('masm', 'linear', 'full')


def summarize(workdir: pathlib.Path) -> None:
  """Prints the table of all methods, and writes `results.json` and `demo.png` to `workdir`.

  Args:
    workdir: holds the run of each method in a folder of its name.
  """
  from masm_jax import reporting, telemetry
  from masm_jax.evaluation import scores
  from masm_jax.tools import plots

  results = {method: telemetry.read_json(workdir / method / 'results.json') for method in METHODS}
  best = {method: result['best']['sets'] for method, result in results.items()}
  sets = [name for name in best[METHODS[0]] if name != 'val']
  print(
    '\nTrained on swap, upsample, reenact and texture (known); the other forgeries are held out.'
  )
  for level in scores.LEVELS:
    figures = {method: {name: best[method][name] for name in sets} for method in METHODS}
    print(f'\n{scores.format_comparison(figures, "auroc", level)}')
  print(
    '\nTrainable parameters: '
    + ', '.join(
      f'{method} {result["trainable_parameters"]:,}' for method, result in results.items()
    )
  )
  print(f'\n{reporting.SYNTHETIC_NOTE}')

  telemetry.write_json(
    workdir / 'results.json', {'note': reporting.SYNTHETIC_NOTE, 'methods': results}
  )
  curves = {}
  for name in sets:
    curves[name] = {}
    for method in METHODS:
      table = scores.read_scores(workdir / method / 'scores' / 'best' / f'{name}.parquet')
      curves[name][method] = (table['label'].to_numpy(), table['score'].to_numpy())
  masks = telemetry.read_lines(workdir / 'masm' / 'masks.jsonl')
  picture = plots.demo_figure(
    curves,
    np.array([line['mask'] for line in masks]),
    [line['step'] for line in masks],
    workdir / 'demo.png',
    title='masm_jax demo: ROC by frame, and the layer mask of masm',
    note=reporting.SYNTHETIC_NOTE,
    end_step=results['masm']['last']['step'] + 1,
  )
  print(f'\nTable: {workdir / "results.json"}\nPicture: {picture}')


def main(argv: Sequence[str]) -> int:
  """Runs every method that is not finished, then the summary; returns the exit status."""
  config, workdir = main_lib.start(argv)
  from masm_jax import config as config_lib
  from masm_jax import telemetry
  from masm_jax.train import train

  for method in METHODS:
    config.method = method
    finished = workdir / method / 'results.json'
    if finished.is_file() and telemetry.read_json(finished)[
      'config_sha256'
    ] == config_lib.fingerprint(config):
      print(f'\n=== {method}: finished before, in {workdir / method}')
      continue
    print(f'\n=== {method}', flush=True)
    if signal_number := train(config, workdir / method):
      return 128 + signal_number
  summarize(workdir)
  return 0


if __name__ == '__main__':
  main_lib.run(main)
