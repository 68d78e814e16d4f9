"""The commands that write, each on small inputs, as functions of inputs and an output folder."""

import contextlib
import functools
import json
import logging
import os
import subprocess
import sys
import threading
from unittest import mock

import jax
import numpy as np

from configs import demo_pretrain
from masm_jax import cli, compare, demo, perturb_videos, places, predict
from masm_jax.analysis import __main__ as analysis
from masm_jax.convert import __main__ as convert
from masm_jax.data import __main__ as data
from masm_jax.evaluation.run import evaluate
from masm_jax.explain import run as explain_run
from masm_jax.export import __main__ as export
from masm_jax.inference import stored
from masm_jax.parallel import locks, talk
from masm_jax.preprocess import __main__ as preprocess
from masm_jax.report import __main__ as report
from masm_jax.sweep import __main__ as sweep
from masm_jax.training import pretraining
from masm_jax.training.loop import train
from tests.report.conftest import _analysis as _analysis_of
from tests.test_strangers import make_suite

NUM_SIZES = int(os.environ.get('MASM_JAX_DISKS', '3'))
IS_LONG = NUM_SIZES > 3


@contextlib.contextmanager
def as_in_a_command():
  """What other libraries log reaches the terminal as it does in a command."""
  handler, root = logging.StreamHandler(sys.stderr), logging.getLogger()
  before = sys.unraisablehook, threading.excepthook
  root.addHandler(handler)
  try:
    talk.drop_of_others()
    yield
  finally:
    root.removeHandler(handler)
    sys.unraisablehook, threading.excepthook = before


def _synthetic(inputs, out):
  del inputs
  return data.main([
    'synthetic', '--output', str(out / 'set'), '--identities', '6', '--videos', '1', '--frames',
    '1', '--size', '32', '--processes', '1',
  ])  # fmt: skip


def _tfds(inputs, out):
  return data.main(
    ['tfds', str(inputs / 'set' / 'manifest.parquet'), '--output', str(out), '--name', 'known']
  )


def _preprocess(inputs, out):
  return preprocess.main([
    '--input', str(inputs / 'faces'), '--output', str(out / 'crops'), '--label', 'real', '--split',
    'test', '--detector', 'haar', '--processes', '0', '--size', '96',
  ])  # fmt: skip


def _perturb(inputs, out):
  words = ['--input', inputs / 'noise', '--output', out / 'copy', '--key', 'GB', '--level', 1]
  return perturb_videos.main([*map(str, words), '--processes', '0'])


def _sweep(inputs, out):
  del inputs
  return sweep.main(['components', f'--workdir={out}', '--write=commands'])


def _evaluate(inputs, out):
  return cli.exit_status(lambda: evaluate(inputs / 'run', make_suite(), out / 'e') or 0)


def _analysis(inputs, out):
  del inputs
  found = _analysis_of(np.random.default_rng(0))  # What is computed takes no room.
  found['run'] = {'method': 'masm', 'backbone': 'demo_vit', 'step': 4}
  with mock.patch('masm_jax.analysis.report.analyse', return_value=found):
    return cli.exit_status(lambda: 0 * len(analysis._analyse(out / 'run')))


def _train(inputs, out):
  """The command that made the run of the inputs; where there is time, in a process of its own."""
  if IS_LONG:
    source = _CONFIG.format(run=str(inputs / 'run'))
    (inputs / 'config.py').write_text(source)
    words = ['main', f'--config={inputs / "config.py"}', f'--workdir={out / "run"}']
    done = subprocess.run(
      [sys.executable, '-m', 'masm_jax', *words], capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    return done.returncode
  with as_in_a_command(), jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    return cli.exit_status(lambda: train(_config(inputs / 'run'), out / 'run'))


def _config(run):
  record = json.loads((run / 'run.json').read_text())
  return stored.read_config(record['config'], run)


# As a file that the command line names: flags of other commands must not come with it.
_CONFIG = """import json, pathlib
from masm_jax.inference import stored
run = pathlib.Path({run!r})
get_config = lambda: stored.read_config(json.loads((run / 'run.json').read_text())['config'], run)
"""


def _predict(inputs, out):
  words = ['--model', inputs / 'run', '--source', inputs / 'crops', '--out', out / 'answers']
  more = ['--faces=whole', '--format=csv', '--save=pictures', '--batch-size=8']
  return predict.main([*map(str, words), *more])


def _merge(inputs, out):
  words = ['merge', inputs / 'part0', inputs / 'part1', '--out', out / 'answers']
  return predict.main([*map(str, words), '--format=json'])


def _export(kind, inputs, out):
  words = ['--run', inputs / 'run', '--format', kind, '--out', out / 'exported']
  return export.main([*map(str, words)])


def _convert(inputs, out):
  words = [inputs / 'adapter', '--from', 'adapter', '--out', out / 'whole']
  return convert.main([*map(str, words)])


def _explain(inputs, out):
  explained = _explained(inputs)
  paths = sorted((inputs / 'crops').iterdir())[:2]

  def run():
    with locks.held_beside(out / 'maps'):
      explain_run.explain_files(explained, paths, out / 'maps', points=2)
    return 0

  return cli.exit_status(run)


@functools.cache
def _explained(inputs):
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    return explain_run.load(inputs / 'masm')


def _report(inputs, out):
  words = [str(inputs / 'e'), '--out', str(out / 'a.html'), '--tsne-points=0']
  if IS_LONG:
    return report.main(words)
  rendered = mock.patch('masm_jax.report.page.render', return_value='<p>' * 2**17)
  with mock.patch('masm_jax.report.content.build'), rendered:  # Plots take seconds.
    return report.main(words)


def _compare(inputs, out):
  return compare.main([str(inputs / 'e'), str(inputs / 'other'), '--out', str(out / 'tables')])


def _sample(inputs, out):
  words = [inputs / 'set' / 'manifest.parquet', '--frames', 1, '--output', out / 'm.csv']
  return data.main(['sample', *map(str, words)])


def _demo(inputs, out):
  """What comes of three runs that are finished; each is a command of its own."""
  (out / 'demo').mkdir(exist_ok=True)
  if not (out / 'demo' / demo.NOTE).exists():  # Begun while there was room.
    (out / 'demo' / demo.NOTE).write_text(json.dumps({'folder_of': places.DEMO}))
  for method in demo.METHODS:
    if not (out / 'demo' / method).is_symlink():
      (out / 'demo' / method).symlink_to(inputs / 'with_masks')
  arguments = ['demo', f'--workdir={out / "demo"}']
  with mock.patch.object(demo, '_run', return_value=0), mock.patch.object(sys, 'argv', arguments):
    return demo.main()


def _pretrain(inputs, out):
  del inputs
  config = demo_pretrain.get_config().unlock()
  for name in ('num_images', 'num_test_images', 'num_identities', 'batch_size', 'num_steps'):
    config[name] = 4
  config.warmup_steps = 1
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    return cli.exit_status(lambda: 0 * len(pretraining.pretrain(config, out / 'vit.safetensors')))


COMMANDS = {
  'train': _train,
  'evaluate': _evaluate,
  'analysis': _analysis,
  'export detector': functools.partial(_export, 'detector'),
  'merge': _merge,
  'report': _report,
  'demo': _demo,
  'synthetic': _synthetic,
  'tfds': _tfds,
  'preprocess': _preprocess,
  'perturb': _perturb,
  'sweep': _sweep,
}
LONG = {
  'predict': _predict,
  'explain': _explain,
  'convert': _convert,
  'compare': _compare,
  'sample': _sample,
  'pretrain': _pretrain,
  **{
    f'export {kind}': functools.partial(_export, kind) for kind in ('adapter', 'stablehlo', 'onnx')
  },
}
