"""Traces of the steps that were asked for."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from masm_jax import telemetry
from masm_jax.errors import UserError


@pytest.mark.parametrize(('text', 'steps'), [('', []), ('7', [7]), ('3:5', [3, 4, 5])])
def test_steps(text, steps):
  assert list(telemetry.parse_steps(text)) == steps


@pytest.mark.parametrize('text', ['0', '5:3', 'a:b', '3-5', '1:2:3'])
def test_other_text_is_an_error(text):
  with pytest.raises(
    UserError, match=rf'--profile={text}: give the first and last step, like 20:30'
  ):
    telemetry.parse_steps(text)


def test_the_trace_holds_those_steps_and_no_others(tmp_path):
  step = jax.jit(lambda x: x @ x)
  x = jnp.ones((64, 64))
  with telemetry.Profiler(telemetry.parse_steps('3:4'), tmp_path) as profiler:
    for i in range(1, 7):
      with profiler.step(i):
        x = step(x)
      profiler.end_step(i, x)
      assert bool(list(tmp_path.rglob('*.xplane.pb'))) == (i >= 4)
  (trace,) = tmp_path.rglob('perfetto_trace.json.gz')
  events = json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  numbers = [e['args']['step_num'] for e in events if e.get('name') == 'train' and 'args' in e]
  assert sorted(map(int, numbers)) == [3, 4]


def test_a_run_that_ends_early_still_leaves_its_trace(tmp_path):
  (tmp_path / 'there' / 'inner').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'there' / 'inner')  # XLA takes `link/..` away.
  folder = tmp_path / 'link' / '..' / 'run'
  with telemetry.Profiler(range(2, 9), folder) as profiler, profiler.step(2):
    pass
  assert list((tmp_path / 'there' / 'run').rglob('*.xplane.pb'))
