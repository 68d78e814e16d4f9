"""The config files that come with the package: found by name, and importable, in any folder.

They lie in `configs/` beside the package, and in an installed one in this folder: it holds nothing
else, so that `sys.path` may name it.
"""

import importlib.util
import os
import pathlib
import re
import sys

from masm_jax.errors import UserError

_HERE = pathlib.Path(__file__).resolve().parent


def find_config(text: str) -> str:
  """Replaces the name of a shipped config by its path.

  It also makes sure that a config in any folder can do `from configs import common`.

  Args:
    text: `FILE`, `NAME` or `configs/NAME.py`, with `:ARGUMENTS` or without. A file that is there is
      taken as it is.

  Returns:
    The path, with the arguments.

  Raises:
    UserError: neither a file nor a shipped config.
  """
  name, colon, arguments = text.partition(':')
  parent = _HERE if (_HERE / 'configs').is_dir() else _HERE.parents[1]
  if not _is_importable():
    sys.path.append(str(parent))
  if os.path.isfile(name):
    return text
  path = parent / 'configs' / f'{_stem(name)}.py'
  if not path.is_file():
    known = sorted(path.stem for path in (parent / 'configs').glob('*.py'))
    known.remove('common')
    raise UserError(
      f'no config file {name!r}, and no shipped one of that name: there are {", ".join(known)}'
    )
  return f'{path}{colon}{arguments}'


def canonical(text: str) -> str:
  """`configs/NAME.py:ARGUMENTS` for a shipped config however it is named; another text as it is.

  >>> canonical('ffpp:method=lora')
  'configs/ffpp.py:method=lora'
  """
  name, colon, arguments = text.partition(':')
  if os.path.isfile(name) or not _stem(name):
    return text
  return f'configs/{_stem(name)}.py{colon}{arguments}'


def _stem(name: str) -> str:
  """NAME of `NAME` or `configs/NAME.py`; '' for other paths."""
  match = re.fullmatch(r'(\w+)|configs/(\w+)\.py', name)
  return (match[1] or match[2]) if match else ''


def _is_importable() -> bool:
  try:
    return importlib.util.find_spec('configs.common') is not None
  except ImportError:
    return False
