"""Counted, not timed: what a step costs beside the forward pass, and the command that says so."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import products
from configs import demo, ffpp
from masm_jax import backbones
from masm_jax.training import costs

# optax raises a float to an integer power, which strict promotion refuses.
pytestmark = pytest.mark.usefixtures('standard_promotion')

KEYS = ['trainable', 'frozen', 'forward_gflop', 'train_step_gflop', 'ratio', 'peak_temp_mb']


def operations(traced):
  """Of the program as it is handed to XLA."""
  return traced.lower().cost_analysis()['flops']


@pytest.fixture
def cut_to(monkeypatch):
  """`cut_to(depth)`: from now on ViT-L/14 has so many blocks."""
  preset = backbones.get_preset('clip_l14')

  def cut(depth):
    shallow = dataclasses.replace(preset, config=dataclasses.replace(preset.config, depth=depth))
    monkeypatch.setitem(backbones.PRESETS, 'clip_l14', shallow)

  return cut


@pytest.mark.parametrize(
  ('method', 'depths', 'total', 'most'),
  # What `python -m masm_jax.inspect` prints of the whole model, GFLOP, and what is allowed.
  [('masm', (2, 3), 10_709.0, 2.15), ('fmsd', (4, 6), 7_733.4, 1.65)],
)
def test_a_compiled_step_on_vit_l14_costs_what_the_specification_allows(
  method, depths, total, most, cut_to
):
  """Few of its 24 equal blocks are compiled: each block more costs what the one before did.

  The first and the last block cost less than those between them; both are in either depth. FMSD is
  on the deepest half, so that its second depth has one frozen and one trained block more.
  """
  config = ffpp.get_config(f'method={method},backbone=clip_l14')
  assert (config.subspace.num_subspaces, config.subspace.rank) == (4, 8)
  keeps = {'masm': ('score', 0.9), 'fmsd': ('share', 0.5)}
  assert (config.mask.keep_by, config.mask.keep) == keeps[method]
  assert config.subspace.targets == 'all'
  assert config.train.batch_size == 32
  assert backbones.get_preset('clip_l14').config.depth == 24

  def measure(depth):
    cut_to(depth)
    report = costs.inspect(config)
    assert len(report['kernels']) == 6 * {'masm': depth, 'fmsd': depth // 2}[method]
    return report['train_step_gflop'], report['forward_gflop']

  less, more = np.array([measure(depth) for depth in depths])
  step, forward = less + (24 - depths[0]) / (depths[1] - depths[0]) * (more - less)
  assert forward == pytest.approx(5_017.1, rel=1e-3)
  assert step == pytest.approx(total, rel=1e-3)
  assert step / forward <= most


@pytest.fixture
def peak_of_blocks(cut_to):
  """Temporary MB of a step on ViT-L/14 with so many blocks, batches of 32, compiled.

  Without regularizers and mask, which take minutes to compile and little memory.
  """

  def measure(method, depth, remat):
    cut_to(depth)
    config = ffpp.get_config(f'method={method},backbone=clip_l14')
    config.train.batch_size = 32
    config.backbone.remat = remat
    config.mask.kind = 'none'
    config.regularizer.orthogonality = config.regularizer.spectral = 0.0
    return costs.inspect(config)['peak_temp_mb']

  return measure


def test_peak_memory_on_vit_l14_is_below_that_of_full_fine_tuning(peak_of_blocks):
  """With six blocks. With 24 rematerialisation saves a larger share: one block is held whole."""
  full = peak_of_blocks('full', 6, False)
  assert peak_of_blocks('masm', 6, False) < 0.97 * full
  assert peak_of_blocks('masm', 6, True) < full / 3


@pytest.fixture(scope='module')
def masm_config():
  config = demo.get_config('method=masm')
  config.subspace.targets = 'backbone/block_0[45]/.*'  # Compiles in a third of the time.
  config.train.batch_size = 16
  return config


@pytest.fixture(scope='module')
def program(masm_config):
  with jax.numpy_dtype_promotion('standard'):
    return costs.trace(masm_config)


def test_what_is_counted_are_the_products_of_the_step(masm_config, program, monkeypatch):
  monkeypatch.setattr(costs, 'trace', lambda config: program)
  report = costs.inspect(masm_config)
  assert [*report] == [*KEYS, 'kernels']
  for name, traced in (
    ('train_step_gflop', program.train_step),
    ('forward_gflop', program.forward),
  ):
    counts = products.products_of(traced.jaxpr.jaxpr)
    by_hand = sum(times * products.operations(product) for product, times in counts.items())
    # No product is hidden in a custom call; the rest are elementwise operations.
    assert by_hand <= 1e9 * report[name] <= 1.2 * by_hand, name
    # What XLA's passes save or add is little: counts before them may stand in for compiled ones.
    assert operations(traced) == pytest.approx(1e9 * report[name], rel=0.02), name
  of_gflop = report['train_step_gflop'] / report['forward_gflop']
  assert report['ratio'] == pytest.approx(of_gflop, rel=1e-12)
  assert report['peak_temp_mb'] > 1


def test_kernels_and_counts(program):
  rows = costs.kernel_rows(program.parts)
  assert len(rows) == 12  # Six kernels in each of two blocks.
  assert rows[-1] == {
    'path': 'backbone/block_05/mlp/fc2',
    'shape': [384, 96],
    'K': 4,
    'q': 8,
    'r': 64,
    'trainable': 32 * (384 + 96 + 1),
  }


def test_the_backward_pass_ends_at_the_lowest_chosen_block():
  """Each block more that FMSD takes costs its own backward pass, and nothing below it does."""
  config = demo.get_config('method=fmsd')
  config.train.batch_size = 16
  config.subspace.update({'num_subspaces': 1, 'rank': 1})  # The factors themselves cost little.
  forward = operations(costs.trace(config).forward)
  block = forward / 6  # Of six; the last one computes the class token alone.
  totals = []
  for count in (1, 2, 3, 6):
    config.mask.keep_count = count
    totals.append(operations(costs.trace(config).train_step))
  assert totals[0] < 1.2 * forward
  for more in (totals[1] - totals[0], totals[2] - totals[1], (totals[3] - totals[2]) / 3):
    assert 0.9 * block < more < 1.4 * block


def test_a_block_more_adds_little_to_what_is_traced_and_compiled(cut_to):
  """Blocks are traced once; penalties, statistics and optimizer work on leaves of one shape."""
  equations, lines = [], []
  for depth in (2, 4):
    cut_to(depth)
    config = ffpp.get_config('method=masm')
    config.train.batch_size = 2
    step = costs.trace(config).train_step
    equations.append(len(step.jaxpr.eqns))
    lines.append(step.lower().as_text().count('\n'))
  # 3,070 and 4,991 where each leaf and each kernel was by itself.
  assert (equations[1] - equations[0]) / 2 < 120
  assert (lines[1] - lines[0]) / 2 < 600


def run_command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'masm_jax.inspect', *arguments], capture_output=True, text=True
  )


def test_the_command_prints_one_json_object():
  result = run_command('--config=configs/demo.py:method=linear', '--json')
  assert result.returncode == 0, result.stderr
  report = json.loads(result.stdout)
  assert [*report] == [*KEYS, 'kernels']
  assert (report['trainable'], report['kernels']) == (2 * 96 + 2, [])
  assert 1.0 < report['ratio'] < 1.05


def test_the_table_names_what_is_trained(masm_config):
  row = {'shape': [96, 96], 'K': 4, 'q': 8, 'r': 64, 'trainable': 6176}
  report = {
    'trainable': 10_000,
    'frozen': 990_000,
    'forward_gflop': 12.34,
    'train_step_gflop': 25.0,
    'ratio': 2.026,
    'peak_temp_mb': 99.6,
    'kernels': [row | {'path': f'backbone/block_0{i}/attn/q'} for i in range(3)],
  }
  text = costs.format_report(masm_config, report)
  assert 'trained             10,000 parameters (1 % of the model)' in text
  assert 'one step              25.0 GFLOP = 2.026 forward passes' in text
  assert 'attn/q            3        96 x 96   4    8    64         6,176' in text
  empty = costs.format_report(masm_config, report | {'kernels': []})
  assert empty.endswith('no kernel is decomposed')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'error: give --config, a file of configs/'),
    (['--config=configs/demo.py', 'x'], "error: unknown argument 'x'"),
    (['--config=configs/demo.py', '--config.backbone.name=vit'], "unknown backbone 'vit'"),
  ],
)
def test_bad_input_is_one_line(arguments, message):
  result = run_command(*arguments)
  assert result.returncode == 2
  assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
