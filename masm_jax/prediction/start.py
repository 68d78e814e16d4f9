"""The first steps of the process that reads strangers' files; its parent is `worker.Worker`.

It gives up files before it imports what starts threads, and it is no child of `multiprocessing`,
which would import the parent's own program first.
"""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import connection, spawn
from typing import Any

from masm_jax.parallel import parents

_CODE = (
  'import json, sys; sys.path[:] = json.loads(sys.argv[2]); '
  'from masm_jax.prediction import start; start.main(int(sys.argv[1]))'
)
# Of the parent's environment: a process that a file took over could tell the rest in its answer.
_KEPT = {'LANG', 'LD_LIBRARY_PATH', 'LD_PRELOAD', 'PATH', 'TMPDIR', 'TZ'}
_KEPT_STARTS = ('LC_', 'PYTHON')
# It computes on one thread; idle ones of libraries cost address space.
_SET = {
  'ARROW_DEFAULT_MEMORY_POOL': 'system',
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
}

Process = subprocess.Popen[bytes]


def launch(settings: Any, folders: Sequence[str]) -> tuple[Process, connection.Connection]:
  """Starts the process; returns it, and a pipe to it.

  Args:
    settings: `reading.Settings`.
    folders: what it may read, see `sandbox.Sandbox`.

  Raises:
    OSError: it cannot be started.
  """
  pipe, far_end = multiprocessing.Pipe()
  with far_end, parents.deaf_to_ctrl_c(tracked=False):
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_STARTS)}
    path = [os.path.abspath(entry) for entry in sys.path]
    program = os.fsdecode(spawn.get_executable())
    process = subprocess.Popen(
      [program, '-P', '-c', _CODE, str(far_end.fileno()), json.dumps(path)],
      pass_fds=(far_end.fileno(),),
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      env=kept | _SET,
    )
  pipe.send_bytes(json.dumps(list(folders)).encode())
  pipe.send_bytes(pickle.dumps(settings))
  return process, pipe


def main(descriptor: int) -> None:
  """The life of the process."""
  sys.dont_write_bytecode = True  # It cannot.
  from masm_jax.prediction import sandbox

  pipe = connection.Connection(descriptor)
  box = sandbox.Sandbox(json.loads(pipe.recv_bytes()))
  settings = pickle.loads(pipe.recv_bytes())
  from masm_jax.prediction import child

  child.main(pipe, settings, box)
