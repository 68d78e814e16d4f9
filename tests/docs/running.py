"""Runs a command of the docs: Python's modules in processes that have the libraries imported."""

import os
import pathlib
import subprocess

from tests import running

REPOSITORY = running.REPOSITORY


def run(words: list[str], folder: pathlib.Path, *, timeout_s: float = 600) -> tuple[int, str]:
  """Runs a command of the docs.

  Args:
    words: `masm-jax ...`, `python -m MODULE ...`, or a program of the checkout.
    folder: where it runs; it has the checkout's folders of programs and configs.
    timeout_s: it is killed then.

  Returns:
    Its exit status and what it wrote.
  """
  variables = {
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(REPOSITORY),
  }
  if words[0] == 'masm-jax':
    words = ['python', '-m', 'masm_jax', *words[1:]]
  if words[:2] == ['python', '-m']:
    done = running.run(words[1:], cwd=folder, variables=variables, timeout_s=timeout_s)
    return done.returncode, done.stdout + done.stderr
  done = subprocess.run(
    words, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout
