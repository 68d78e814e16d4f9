"""Counts are exact; equal blocks share a line."""

import jax
import jax.numpy as jnp
import numpy as np

from masm_jax.telemetry import count_parameters, parameter_overview


def names(text):
  """First column of both tables, without headers."""
  cells = [line.split('|')[1].strip() for line in text.splitlines() if line.startswith('|')]
  return [cell for cell in cells if cell != 'Name']


def block(width, dtype=np.float32):
  return {
    'attn': {'q': {'kernel': np.zeros((width, width), dtype), 'bias': np.zeros(width, dtype)}},
    'ln_1': {'scale': np.zeros(width, dtype)},
    'ln_2': {'scale': np.zeros(width, dtype)},
  }


def test_small_table_is_exact():
  trainable = {'head': {'kernel': jnp.zeros((4, 2)), 'bias': jnp.zeros(2)}}
  frozen = {'cls_token': np.zeros((1, 1, 600), np.float16), 'scale': np.float32(1)}
  assert parameter_overview(trainable, frozen).splitlines() == [
    'Trainable parameters',
    '+-------------+--------+---------+--------+------------+-------+',
    '| Name        | Shape  | Dtype   | Leaves | Parameters | Bytes |',
    '+-------------+--------+---------+--------+------------+-------+',
    '| head/bias   | (2,)   | float32 | 1      | 2          | 8     |',
    '| head/kernel | (4, 2) | float32 | 1      | 8          | 32    |',
    '+-------------+--------+---------+--------+------------+-------+',
    'Trainable: 10 parameters, 40 bytes',
    '',
    'Frozen parameters',
    '+-----------+-------------+---------+--------+------------+-------+',
    '| Name      | Shape       | Dtype   | Leaves | Parameters | Bytes |',
    '+-----------+-------------+---------+--------+------------+-------+',
    '| cls_token | (1, 1, 600) | float16 | 1      | 600        | 1,200 |',
    '| scale     | ()          | float32 | 1      | 1          | 4     |',
    '+-----------+-------------+---------+--------+------------+-------+',
    'Frozen: 601 parameters, 1,204 bytes (1.18 KiB)',
    '',
    'Total: 611 parameters, 1,244 bytes (1.21 KiB); 1.64 % trainable',
  ]


def test_a_deep_model_is_one_row_per_kind_of_leaf():
  tree = {'backbone': {f'block_{i:02d}': block(8) for i in range(24)}}
  text = parameter_overview(tree, {})
  assert names(text) == [
    'backbone/block_00..block_23/attn/q/bias',
    'backbone/block_00..block_23/attn/q/kernel',
    'backbone/block_00..block_23/ln_1/scale',
    'backbone/block_00..block_23/ln_2/scale',
  ]
  assert '(8, 8) | float32 | 24     | 1,536      | 6,144 ' in text
  assert f'Trainable: {24 * (64 + 3 * 8):,} parameters' in text
  assert len(names(parameter_overview(tree, {}, collapse_blocks=False))) == 24 * 4


def test_blocks_that_differ_are_not_joined():
  frozen = {f'block_{i:02d}': block(8) for i in range(6)}
  frozen['block_03'] = block(16)
  frozen['block_05']['ln_1']['scale'] = np.zeros(8, np.float16)
  assert names(parameter_overview({}, frozen)) == [
    'block_{00..02,04..05}/attn/q/bias',
    'block_{00..02,04..05}/attn/q/kernel',
    'block_{00..02,04}/ln_1/scale',
    'block_{00..02,04..05}/ln_2/scale',
    'block_03/attn/q/bias',
    'block_03/attn/q/kernel',
    'block_03/ln_1/scale',
    'block_03/ln_2/scale',
    'block_05/ln_1/scale',
  ]


def test_abstract_trees_of_a_true_size_count_exactly_without_memory():
  leaf = jax.ShapeDtypeStruct((10**6, 10**5), jnp.bfloat16)
  assert count_parameters({'a': {'b': leaf, 'c': leaf}}) == 2 * 10**11
  assert 'Frozen: 100,000,000,000 parameters, 200,000,000,000 bytes (186.26 GiB)' in (
    parameter_overview({}, {'a': leaf})
  )
  assert count_parameters({}) == 0
