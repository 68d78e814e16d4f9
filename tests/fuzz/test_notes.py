"""What the fuzzer found in notes."""

import json
from types import SimpleNamespace

import pytest

from masm_jax.errors import UserError
from masm_jax.export import detector as export_detector


def test_a_benchmark_of_a_number_of_400_digits_is_one_line(tmp_path):
  numbers = {'value': 10**400, 'low': 0.0, 'high': 0.2}
  found = {'num_pairs': 3, 'differences': {'centre prior': {'auprc': numbers}}}
  document = {'run': {'trained_weights': 'ab'}, 'sets': {'d': {'localisation': found}}}
  (tmp_path / 'benchmark.json').write_text(json.dumps(document))
  run = SimpleNamespace(facts={'trained_weights': 'ab'})
  with pytest.raises(UserError, match='its numbers cannot be used'):
    export_detector._benchmark(tmp_path / 'benchmark.json', run)
