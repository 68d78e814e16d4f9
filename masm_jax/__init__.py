"""Deepfake detection with semantic and artifact subspaces, in JAX/Flax.

The public names are imported when they are first used: `import masm_jax` itself loads neither jax
nor numpy.
"""

# `signal` itself would take milliseconds, which Ctrl-C may fall into.
import _signal  # type: ignore[import-not-found]
import atexit
import os
import sys


def _is_module() -> bool:
  """Whether this process is `python -m masm_jax`, or a command of it."""
  if sys.argv[:1] != ['-m']:
    return False
  module = sys.orig_argv[-len(sys.argv)].rpartition('-m')[2]
  return module.partition('.')[0] == 'masm_jax'


def _leave_working_folder() -> None:
  """Takes the working folder off the path of `python -m masm_jax`, and of processes after it.

  Python puts it first there, so that a stranger's folder could hold a `numpy.py`. It stays where
  the package itself lies in it, and in every other program.
  """
  own = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
  if not _is_module() or os.path.realpath('.') == own:
    return
  if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath('.'):
    del sys.path[0]
  os.environ['PYTHONSAFEPATH'] = '1'


def _keep_libraries_out_of_working_folder() -> None:
  """Leaves no empty entry in `LD_LIBRARY_PATH`, which is the working folder to the linker.

  OpenCV sets `FOLDER:` + what is there, for processes to come: where nothing is, they would load a
  stranger's `libz.so.1`. The package's own folder has no library.
  """
  found = [entry for entry in os.environ.get('LD_LIBRARY_PATH', '').split(':') if entry]
  os.environ['LD_LIBRARY_PATH'] = ':'.join(found or [os.path.dirname(os.path.realpath(__file__))])


def _end_by_ctrl_c() -> None:
  """Lets Ctrl-C end a command at once and quietly until its own code runs.

  `parallel.interrupts` has it from there. Imports take seconds, Python would print a traceback from
  the midst of them, and some turn the interrupt into another error. In other programs, and where
  Ctrl-C is ignored, nothing changes.
  """
  is_ours = _is_module() or os.path.basename(sys.argv[0]) == 'masm-jax'
  if is_ours and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    atexit.register(_end_interrupted)  # The first of all, hence it is called last.


def _end_interrupted() -> None:
  """Ends the process where Ctrl-C has ended its command, before Python takes itself apart.

  jaxlib may crash then: of what it was interrupted in, some is left.
  """
  interrupts = sys.modules.get('masm_jax.parallel.interrupts')
  if interrupts is not None and interrupts.has_ended:
    os._exit(128 + _signal.SIGINT)  # What was printed is out: see `terminal.usable_output`.


_end_by_ctrl_c()
_leave_working_folder()  # Before any import that would look there.
_keep_libraries_out_of_working_folder()

# Two libraries tell their makers of their use, and one writes to ~/.cache/Microsoft. They look here
# when they are imported, in processes after this one too; whoever wants them to sets the variable.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
  from masm_jax.errors import UserError as UserError
  from masm_jax.inference.validation import Calibration as Calibration
  from masm_jax.prediction.answers import Answer as Answer
  from masm_jax.prediction.predictor import Detector as Detector
  from masm_jax.prediction.predictor import load as load

__version__ = '0.2.0.dev0'

# Public name -> the module that defines it.
_PUBLIC = {
  'Answer': 'masm_jax.prediction.answers',
  'Calibration': 'masm_jax.inference.validation',
  'Detector': 'masm_jax.prediction.predictor',
  'UserError': 'masm_jax.errors',
  'load': 'masm_jax.prediction.predictor',
}

__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
