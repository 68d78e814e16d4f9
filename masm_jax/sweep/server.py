"""What the process imports that forks a sweep's runs: once for all of them.

Multiprocessing starts that process and lets it import this module. It hears of a killed sweep only
when it has imported everything, seconds later: so it first asks the kernel to be ended with it.
"""

import contextlib
import importlib
import os

from masm_jax.parallel import parents

PARENT = 'MASM_JAX_SWEEP_PID'  # Environment: the process that starts the server.
# What a run imports sooner or later.
_MODULES = (
  'masm_jax.main', 'masm_jax.training.loop', 'masm_jax.sweep.local', 'masm_jax.plots.curves',
  'tensorboardX.event_file_writer', 'tensorboardX.summary',
)  # fmt: skip

if PARENT in os.environ:
  parents.end_at_once_with(int(os.environ.pop(PARENT)))
  # What cannot be imported, such as jax with a variable that it refuses, each run tells in its log.
  with contextlib.suppress(Exception):
    for _name in _MODULES:
      importlib.import_module(_name)
