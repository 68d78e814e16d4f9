"""What jax refuses of the environment is one line with the variable's name."""

import os
import subprocess
import sys

import jax
import pytest

from masm_jax.errors import UserError
from masm_jax.parallel import backend


def test_a_variable_that_jax_refuses_is_one_line():
  """In a process of its own: jax reads its variables once."""
  result = subprocess.run(
    [sys.executable, '-m', 'masm_jax.inspect', '--config=demo:method=linear'], timeout=100,
    env=os.environ | {'JAX_ENABLE_X64': 'maybe'}, capture_output=True, text=True,
  )  # fmt: skip
  assert (result.returncode, result.stdout) == (2, '')
  assert result.stderr.startswith('error: JAX_ENABLE_X64=maybe: jax refuses that (')
  assert result.stderr.count('\n') == 1 and 'unset JAX_ENABLE_X64' in result.stderr


@pytest.mark.parametrize(
  ('error', 'blamed'),
  [
    (ValueError("invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'"), 'JAX_ENABLE_X64'),
    (ValueError('Invalid value "few" for JAX flag jax_cpu_collectives'), 'JAX_CPU_COLLECTIVES'),
    (ValueError("invalid literal for int() with base 10: 'few'"), 'JAX_CPU_COLLECTIVES'),
  ],
)
def test_the_variable_is_found_by_its_name_or_its_value(error, blamed, monkeypatch):
  monkeypatch.setenv('JAX_CPU_COLLECTIVES', 'few')
  monkeypatch.setenv('JAX_ENABLE_X64', 'maybe')
  with pytest.raises(UserError, match=f'^{blamed}={os.environ[blamed]}: '), backend.refusals():
    raise error


@pytest.mark.parametrize('error', [ImportError('no jax_plugins'), ValueError('of another kind')])
def test_another_error_stays_what_it_is(error, monkeypatch):
  monkeypatch.setenv('JAX_PLUGINS', 'x')
  with pytest.raises(type(error)) as raised, backend.refusals():
    raise error
  assert raised.value is error


@pytest.mark.parametrize(
  ('platforms', 'error', 'said'),
  [
    ('cuda', AssertionError(), 'JAX_PLATFORMS=cuda: jax starts no such device here (there is none'),
    (
      'none',
      RuntimeError('No such'),
      'JAX_PLATFORMS=none: jax starts no such device here (No such)',
    ),
  ],
)
def test_a_platform_that_does_not_start_is_one_line(platforms, error, said, monkeypatch):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  with pytest.raises(UserError) as refused:
    backend.start()
  assert str(refused.value).startswith(said)
  monkeypatch.delenv('JAX_PLATFORMS')
  with pytest.raises(type(error)):
    backend.start()
