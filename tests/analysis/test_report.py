"""The analysis of a whole run, through the command lines of training and of the analysis."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from masm_jax import telemetry
from masm_jax.analysis import report
from masm_jax.data import synthetic
from masm_jax.plots import analysis as analysis_plots
from masm_jax.plots import canvas
from tests import running

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KERNELS = [f'backbone/block_{i:02d}/attn/{name}' for i in range(6) for name in 'qkv']


@pytest.fixture(scope='module')
def analysed(tmp_path_factory):
  """A masm run of 3 steps on q, k and v, and what the analysis says of it."""
  folder = tmp_path_factory.mktemp('analysis')
  manifest = synthetic.materialize(
    folder / 'set', num_identities=12, videos_per_identity=2, frames_per_video=2, num_processes=1,
    progress=False,
  )  # fmt: skip
  fields = {
    'log.every_steps': 1, 'data.train.manifest': manifest, 'data.val.manifest': manifest,
    'data.tests.known.manifest': '', 'data.tests.checkerboard.manifest': '',
    'data.tests.poisson.manifest': '', 'data.tests.regenerate.manifest': '',
    'train.batch_size': 8, 'train.duration': '3 steps', 'eval.batch_size': 16,
    'subspace.num_subspaces': 2, 'subspace.rank': 3, 'mask.kind': 'none',
    'subspace.targets': r'backbone/block_\d+/attn/(q|k|v)',
    'regularizer.orthogonality': 0.0, 'optim.warmup': '0 steps',
  }  # fmt: skip
  run = folder / 'run'
  outputs = [
    running.run(
      ['-m', *args],
      variables={'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'},
    )
    for args in (
      ['masm_jax.main', '--config=configs/demo.py', f'--workdir={run}',
       *(f'--config.{name}={value}' for name, value in fields.items())],
      ['masm_jax.analysis', f'--workdir={run}', f'--manifest={manifest}'],
    )
  ]  # fmt: skip
  for output in outputs:
    assert output.returncode == 0, output.stderr
  return run, outputs[1].stdout


def test_the_document(analysed):
  run, stdout = analysed
  document = telemetry.read_json(run / 'analysis.json')
  assert document['run'] == {
    'method': 'masm', 'backbone': 'demo_vit', 'seed': 0, 'step': 3, 'checkpoint': 'best',
  }  # fmt: skip
  kernels = document['subspaces']['kernels']
  assert sorted(kernels) == sorted(KERNELS)
  angles = np.array([kernel['U']['angles_deg'] for kernel in kernels.values()])
  assert angles.shape == (18, 2, 3) and 0.05 < angles.max() < 45
  summary = document['subspaces']['summary']['U']
  assert summary['mean_angle_deg'] == pytest.approx(angles.mean())
  assert summary['max_angle_deg'] == pytest.approx(angles.max())
  between = [kernel['U']['overlap'][0][1] for kernel in kernels.values()]
  assert summary['overlap_between'] == pytest.approx(np.mean(between))
  lines = telemetry.read_lines(run / 'metrics.jsonl')
  shares = [line['train/task_share'] for line in lines if 'train/task_share' in line][:3]
  assert document['task_share']['mean'] == pytest.approx(np.mean(shares))
  assert document['task_share']['last'] == shares[-1] < 1
  assert f' {np.mean(shares):.2f} ' in stdout
  spectra = document['spectra']['kernels']
  assert len(spectra) == 36 and spectra['backbone/block_00/mlp/fc1']['change'] == 0
  assert all(spectra[name]['change'] > 0 for name in KERNELS)
  probes = document['semantics']['probes']
  assert list(probes) == ['identity', 'yaw', 'pitch']
  assert probes['identity']['before']['accuracy'] > 0.6 > probes['identity']['before']['chance']
  assert 'they prove nothing about real deepfakes' in document['semantics']['note']
  assert f'{summary["mean_angle_deg"]:.2f} deg' in stdout and 'chance: identity 0.' in stdout
  assert 'they prove nothing about real deepfakes' in stdout


def test_the_picture(analysed, monkeypatch, tmp_path):
  run, _ = analysed
  with Image.open(run / 'analysis.png') as image:
    assert min(image.size) > 600
  figures = []
  monkeypatch.setattr(canvas, 'save_figure', lambda figure, *_: figures.append(figure))
  document = telemetry.read_json(run / 'analysis.json')
  analysis_plots.analysis_figure(document, tmp_path / 'a.png')
  panels = {axes.get_title(loc='left').split('\n')[0]: axes for axes in figures[0].axes}
  kernels = document['subspaces']['kernels'].values()
  expected = np.array([np.mean(kernel['U']['angles_deg'], axis=1) for kernel in kernels])
  opacity = np.asarray(panels['U: angle to where it began'].images[0].get_array())[..., 3]
  np.testing.assert_allclose((opacity - 0.06) / 0.94 * expected.max(), expected, atol=1e-9)
  probes = document['semantics']['probes'].values()
  dots = [
    line.get_ydata()[0]
    for line in panels['What linear probes still read'].get_lines()
    if line.get_marker() == 'o'
  ]
  assert dots == [probe[model]['accuracy'] for model in ('before', 'after') for probe in probes]
  first, second = (tmp_path / name for name in ('first.png', 'second.png'))
  monkeypatch.undo()
  for path in (first, second):
    analysis_plots.analysis_figure(document, path)
  assert first.read_bytes() == second.read_bytes()
  monkeypatch.setattr(canvas, 'save_figure', lambda figure, *_: figures.append(figure))
  document['subspaces'] = None  # Such as of full fine-tuning.
  analysis_plots.analysis_figure(document, tmp_path / 'b.png')
  assert len(figures[1].axes) == 3
  assert ' - ' in report.format_comparison({'run': document})


@pytest.mark.parametrize(
  ('args', 'message'),
  [([], 'give --workdir'), (['--workdir=/nowhere'], '/nowhere is no run: it has no checkpoints')],
)
def test_bad_input_is_one_line(args, message):
  result = running.run(['-m', 'masm_jax.analysis', *args])
  assert result.returncode == 2 and message in result.stderr.splitlines()[-1]
  assert 'Traceback' not in result.stderr
