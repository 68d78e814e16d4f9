"""Deepfake detection with semantic and artifact subspaces, in JAX/Flax.

The public names are imported when they are first used: `import masm_jax` itself loads neither jax
nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
