"""Runs modules in processes that have the libraries imported already: seconds less for each."""

import multiprocessing
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# Libraries and what defines no flags: a command's own module is imported as `python -m` would.
_PRELOAD = (
  'masm_jax.training.loop', 'masm_jax.evaluation.run', 'masm_jax.evaluation.comparison',
  'masm_jax.plots.curves', 'ml_collections.config_flags', 'sklearn.manifold',
  'tensorboardX.summary',
)  # fmt: skip


class Process:
  """A started module; what it writes goes to files."""

  def __init__(self, words: Sequence[str], cwd: pathlib.Path, variables: Mapping[str, str]):
    folder = tempfile.mkdtemp()
    weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
    self._files = [pathlib.Path(folder, name) for name in ('stdout', 'stderr')]
    for file in self._files:
      file.touch()
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(_PRELOAD))
    self._process = context.Process(
      target=_run_module, args=(list(map(str, words)), cwd, dict(variables), self._files)
    )
    self._process.start()
    self.pid = self._process.pid
    self.kill, self.terminate = self._process.kill, self._process.terminate

  def poll(self) -> int | None:
    """Its exit status; None while it runs."""
    return self._process.exitcode

  def wait(self, timeout_s: float = 300) -> int:
    """Its exit status; one that takes longer is killed."""
    self._process.join(timeout_s)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    return self._process.exitcode

  def stdout(self) -> str:
    """What it has written so far."""
    return self._files[0].read_text()

  def stderr(self) -> str:
    """What it has written so far."""
    return self._files[1].read_text()


def start(
  words: Sequence[str], *, cwd: pathlib.Path = REPOSITORY, variables: Mapping[str, str] = {}
) -> Process:
  """Starts `-m MODULE ARGUMENTS`, with further environment variables."""
  assert words[0] == '-m', words
  return Process(words[1:], cwd, variables)


def run(
  words: Sequence[str],
  *,
  cwd: pathlib.Path = REPOSITORY,
  variables: Mapping[str, str] = {},
  timeout_s: float = 300,
) -> subprocess.CompletedProcess[str]:
  """Runs `-m MODULE ARGUMENTS` to its end."""
  process = start(words, cwd=cwd, variables=variables)
  status = process.wait(timeout_s)
  return subprocess.CompletedProcess(words, status, process.stdout(), process.stderr())


def _run_module(words, cwd, variables, files) -> None:
  for number, file in enumerate(files, 1):
    with file.open('ab') as target:
      os.dup2(target.fileno(), number)
  os.chdir(cwd)
  os.environ.update(variables)
  sys.path[:] = [*dict.fromkeys([str(cwd), str(REPOSITORY)]), *sys.path]
  sys.argv = words
  runpy.run_module(words[0], run_name='__main__', alter_sys=True)
