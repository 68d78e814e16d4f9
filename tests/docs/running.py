"""Runs a command of the docs in a process that has the libraries imported already."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Libraries and what defines no flags: a command's own module is imported as `python -m` would.
_PRELOAD = (
  'masm_jax.training.loop', 'masm_jax.evaluation.run', 'masm_jax.evaluation.comparison',
  'masm_jax.plots.curves', 'ml_collections.config_flags', 'sklearn.manifold',
  'tensorboardX.summary',
)  # fmt: skip


def run(words: list[str], folder: pathlib.Path, *, timeout_s: float = 600) -> tuple[int, str]:
  """Runs a command of the docs.

  Args:
    words: `masm-jax ...`, `python -m MODULE ...`, or a program of the checkout.
    folder: where it runs; it has the checkout's folders of programs and configs.
    timeout_s: it is killed then.

  Returns:
    Its exit status and what it wrote.
  """
  log = folder / 'log.txt'
  log.write_bytes(b'')
  if words[0] == 'masm-jax':
    words = ['python', '-m', 'masm_jax', *words[1:]]
  if words[:2] == ['python', '-m']:
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(_PRELOAD))
    process = context.Process(target=_run_module, args=(words[2:], folder, log))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
      process.kill()
      process.join()
    return process.exitcode, log.read_text()
  result = subprocess.run(
    words, cwd=folder, env=os.environ | _environment(), stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
  )  # fmt: skip
  return result.returncode, result.stdout


def _environment() -> dict[str, str]:
  return {
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(REPOSITORY),
  }


def _run_module(words: list[str], folder: pathlib.Path, log: pathlib.Path) -> None:
  with log.open('ab') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  os.chdir(folder)
  os.environ.update(_environment())
  sys.path[:] = [str(folder), str(REPOSITORY), *sys.path]
  sys.argv = words
  runpy.run_module(words[0], run_name='__main__', alter_sys=True)
