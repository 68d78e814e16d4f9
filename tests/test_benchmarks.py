"""The benchmarks count what they say, and their PyTorch reference trains what masm_jax trains."""

import importlib
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from masm_jax import backbones, tree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
measure = importlib.import_module('benchmarks.measure')
products = importlib.import_module('benchmarks.products')
torch_reference = importlib.import_module('benchmarks.torch_reference')
train_step = importlib.import_module('benchmarks.train_step')

pytestmark = pytest.mark.usefixtures('standard_promotion')


def test_programs_take_turns():
  calls = []
  seconds = measure.in_turn(
    {name: lambda name=name: calls.append(name) for name in 'ab'}, rounds=3, repeats=2
  )
  assert ''.join(calls) == 'ab' + 'aaabbb' * 3  # The first of each turn is not timed.
  assert set(seconds) == {'a', 'b'} and all(value >= 0 for value in seconds.values())


def test_utilisation_is_of_the_peak_rate(monkeypatch):
  assert measure.utilisation(1e12, 1.0) is None  # A CPU has no rate that is known.
  monkeypatch.setattr(measure, '_PEAK_RATES', {jax.devices()[0].device_kind: 4e12})
  assert measure.utilisation(1e12, 0.5) == 0.5


def test_a_table():
  rows = [{'method': 'a', 'ms': 1234.56, 'MFU': None}, {'method': 'long', 'ms': 2.0, 'MFU': 0.5}]
  assert measure.table(rows, {'method': '', 'ms': ',.1f', 'MFU': '.0%'}) == (
    'method       ms  MFU\n'
    'a       1,234.6    -\n'
    'long        2.0  50%'
  )  # fmt: skip


@pytest.mark.parametrize(
  ('method', 'passes'),
  # FMSD: in one block of two.
  [('linear', 1), ('full', 3), ('masm', 2), ('gend', 2), ('lora', 2), ('fmsd', 1.5)],
)
def test_the_model_s_own_work(method, passes, tiny_run):
  run = tiny_run(method)
  assert train_step.model_passes(run.trainable, run.detector_config.backbone) == passes


def test_a_row_of_the_train_step(tmp_path, capsys):
  path = tmp_path / 'metrics.json'
  train_step.main(
    ['--methods', 'linear', '--backbone=demo_vit', '--batch_size=2', '--rounds=1', '--torch=none',
     f'--json={path}']
  )  # fmt: skip
  assert 'demo_vit, batches of 2' in capsys.readouterr().out
  (row,) = json.loads(path.read_text())['rows']
  assert row['trainable'] == 96 * 2 + 2
  assert 0.9 < row['ops'] < 1.1  # A linear probe costs a forward pass.
  assert row['images/s'] == pytest.approx(2000 / row['ms'])


@pytest.mark.parametrize('method', ['masm', 'linear', 'full'])
def test_the_reference_trains_what_masm_jax_trains(method, tiny_run, monkeypatch):
  torch = pytest.importorskip('torch')
  reference = importlib.import_module('benchmarks.torch_reference')
  run = tiny_run(method)
  kept = []
  adam = torch.optim.Adam
  monkeypatch.setattr(torch.optim, 'Adam', lambda p, **k: kept.append(p) or adam(p, **k))
  step = reference.training_step(
    method, run.detector_config.backbone, run.batch(), dtype='float32', compiled=False,
    num_subspaces=2, rank=2,
  )  # fmt: skip
  (trained,) = kept
  assert sum(parameter.numel() for parameter in trained) == tree.param_count(run.trainable)
  before = [parameter.detach().clone() for parameter in trained]
  step()
  assert all((a != b).any() for a, b in zip(before, trained, strict=True))


def test_the_reference_scores_images(tiny_run, monkeypatch):
  pytest.importorskip('torch')
  reference = importlib.import_module('benchmarks.torch_reference')
  run = tiny_run('linear')
  logits = []
  call = reference.Detector.forward
  monkeypatch.setattr(
    reference.Detector, 'forward', lambda self, x: logits.append(call(self, x)) or logits[-1]
  )
  images = run.batch()['image']
  reference.inference(run.detector_config.backbone, images, dtype='float32', compiled=False)()
  assert logits[0].shape == (8, 2) and not logits[0].requires_grad


def test_every_method_merges_into_a_plain_detector(tmp_path, capsys):
  inference = importlib.import_module('benchmarks.inference')
  path = tmp_path / 'metrics.json'
  inference.main(
    ['--methods', 'masm', 'lora', '--backbone=demo_vit', '--batch_size=2', '--rounds=1',
     '--torch=none', f'--json={path}']
  )  # fmt: skip
  metrics = json.loads(path.read_text())
  assert [row['program'] for row in metrics['rows']] == ['jax']
  assert set(metrics['merge_seconds']) == {'masm', 'lora'}
  assert 'merge ms' in capsys.readouterr().out


def test_products_of_a_program_are_counted_and_told_to_torch():
  def program(x, y):
    inner = jax.jit(lambda a, b: a @ b)
    unread = x @ x.T
    del unread
    return inner(x, y) + inner(x, y * 2)

  x, y = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
  found = products.products_of(jax.make_jaxpr(program)(x, y).jaxpr)
  ((product, count),) = found.items()
  assert (count, products.operations(product)) == (2, 2 * 3 * 4 * 5)

  rng = np.random.default_rng(0)
  for left, right, numbers in (
    ((3, 4), (5, 4), (((1,), (1,)), ((), ()))),
    ((3, 4), (3, 5), (((0,), (0,)), ((), ()))),
    ((2, 3, 4, 6), (2, 3, 5, 6), (((3,), (3,)), ((0, 1), (0, 1)))),
    ((2, 4, 3), (3, 2, 5), (((2,), (0,)), ((0,), (1,)))),
  ):
    a, b = rng.standard_normal(left, np.float32), rng.standard_normal(right, np.float32)
    formula = products.as_einsum((left, right), numbers)
    expected = jax.lax.dot_general(a, b, numbers)
    np.testing.assert_allclose(np.einsum(formula, a, b), expected, rtol=1e-4, atol=1e-5)
    work = products.operations(((left, right), ('float32', 'float32'), numbers, None, None))
    inner = np.prod([left[axis] for axis in numbers[0][0]])
    assert work == 2 * np.prod(expected.shape) * inner


def test_the_authors_layer_is_taken_from_their_file_without_its_imports(tmp_path):
  """A stand-in for their module: its imports are not there, its layer is."""
  path = tmp_path / 'effort_detector.py'
  path.write_text(
    'import no_such_library\n\n'
    'class SVDResidualLinear(nn.Module):\n'
    '  def __init__(self, linear, r):\n'
    '    super().__init__()\n'
    '    self.weight_main = nn.Parameter(linear.weight.detach(), requires_grad=False)\n'
    '    self.S_residual = nn.Parameter(torch.ones(linear.in_features - r))\n'
    '  def forward(self, x):\n'
    '    return F.linear(x, self.weight_main) * self.S_residual.sum()\n\n'
    'def replace_with_svd_residual(linear, r):\n'
    '  return SVDResidualLinear(linear, r)\n\n'
    'class Detector(no_such_library.Base):\n  pass\n'
  )
  config = backbones.get_preset('demo_vit').config
  batch = {
    'image': np.zeros((2, config.image_size, config.image_size, 3), np.uint8),
    'label': np.arange(2),
  }
  step = torch_reference.training_step(
    'effort', config, batch, dtype='float32', compiled=False, effort_code=str(path)
  )
  step()
  assert torch_reference.effort_linear(str(path))(8, 8).S_residual.shape == (1,)
