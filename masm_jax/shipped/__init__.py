"""The config files that come with the package: found by name, and importable, in any folder.

They lie in `configs/` beside the package, and in an installed one in this folder. A name means one
of them, whatever lies in the working folder; a path means a file of the user's own, if it is there.
"""

import contextlib
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from masm_jax.errors import UserError

_HERE = pathlib.Path(__file__).resolve().parent
_PACKAGE = 'configs'


def find_config(text: str) -> str:
  """Replaces the name of a shipped config by its path.

  It also makes sure that a config in any folder can do `from configs import common`.

  Args:
    text: `FILE`, `NAME` or `configs/NAME.py`, with `:ARGUMENTS` or without. NAME is a shipped
      config, also beside a file that is called so; another path is a file that is there.

  Returns:
    The path, with the arguments.

  Raises:
    UserError: neither a file nor a shipped config.
  """
  name, colon, arguments = text.partition(':')
  folder = _folder()
  _make_importable(folder)
  if _is_own(name):
    return text
  path = folder / f'{_stem(name)}.py'
  if not path.is_file():
    known = sorted(path.stem for path in folder.glob('*.py'))
    known.remove('common')
    hint = f'; for the file that is there, give ./{name}' if os.path.isfile(name) else ''
    raise UserError(
      f'no config file {name!r}, and no shipped one of that name: there are '
      f'{", ".join(known)}{hint}'
    )
  return f'{path}{colon}{arguments}'


@contextlib.contextmanager
def opened(text: str) -> Iterator[str]:
  """As `find_config`; within it, a file of the user's own may import what lies around it.

  That is its folder and, where this is within the working folder, the working folder: behind all
  else, so that nothing there takes the place of a library. `configs` alone is first the one that
  the file lies in or beside: its `common.py` stands for the shipped one.

  Raises:
    UserError: neither a file nor a shipped config.
  """
  path = find_config(text)
  name = text.partition(':')[0]
  if not _is_own(name):
    yield path
    return
  folder, here = os.path.dirname(os.path.abspath(name)), os.getcwd()
  is_below = os.path.commonpath((folder, here)) == here
  added = [place for place in (folder, here)[: 1 + is_below] if place not in sys.path]
  sys.path.extend(dict.fromkeys(added))
  try:
    with _own_package(folder):
      yield path
  finally:
    for place in dict.fromkeys(added):
      with contextlib.suppress(AttributeError, ValueError):  # The file may have changed the path.
        sys.path.remove(place)


@contextlib.contextmanager
def _own_package(folder: str) -> Iterator[None]:
  """Within it, `configs` is first the user's own, and behind that the shipped one.

  The own one is the folder of the user's file, if it is called so, or the one beside the file. What
  was imported before is set aside, and comes back: a shipped config never sees a user's modules.
  """
  own = folder if os.path.basename(folder) == _PACKAGE else os.path.join(folder, _PACKAGE)
  if not os.path.isdir(own) or os.path.samefile(own, _folder()):
    yield
    return
  before = _taken_out()
  sys.modules[_PACKAGE] = _package(own, str(_folder()))
  try:
    yield
  finally:
    _taken_out()
    sys.modules.update(before)


def _taken_out() -> dict[str, types.ModuleType]:
  names = [name for name in sys.modules if name.partition('.')[0] == _PACKAGE]
  return {name: sys.modules.pop(name) for name in names}


def canonical(text: str) -> str:
  """`configs/NAME.py:ARGUMENTS` for a shipped config however it is named; another text as it is.

  >>> canonical('ffpp:method=lora')
  'configs/ffpp.py:method=lora'
  """
  name, colon, arguments = text.partition(':')
  if _is_own(name) or not _stem(name):
    return text
  return f'{_PACKAGE}/{_stem(name)}.py{colon}{arguments}'


def by_name(text: str) -> str:
  """`NAME:ARGUMENTS` for a shipped config, which means it in every folder; another text as it is.

  >>> by_name('ffpp:method=lora')
  'ffpp:method=lora'
  """
  name, colon, arguments = text.partition(':')
  is_shipped = not _is_own(name) and (_folder() / f'{_stem(name)}.py').is_file()
  return f'{_stem(name)}{colon}{arguments}' if is_shipped else text


def _folder() -> pathlib.Path:
  return (_HERE if (_HERE / _PACKAGE).is_dir() else _HERE.parents[1]) / _PACKAGE


def _is_own(name: str) -> bool:
  """Whether a text names a file that is there, by more than a word: that would be a shipped one."""
  return not re.fullmatch(r'\w+', name) and os.path.isfile(name)


def _stem(name: str) -> str:
  """NAME of `NAME` or `configs/NAME.py`; '' for other paths."""
  match = re.fullmatch(r'(\w+)|configs/(\w+)\.py', name)
  return (match[1] or match[2]) if match else ''


def _make_importable(folder: pathlib.Path) -> None:
  """Makes `configs` this folder, whatever else of that name lies on the path."""
  if _PACKAGE not in sys.modules:
    sys.modules[_PACKAGE] = _package(str(folder))
  elif str(folder) not in (places := _search_path()):
    places.append(str(folder))


def _package(*folders: str) -> types.ModuleType:
  spec = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
  spec.submodule_search_locations = [*folders]
  return importlib.util.module_from_spec(spec)


def _search_path() -> Any:
  """Where modules of `configs` are looked for; a namespace's is no list."""
  return sys.modules[_PACKAGE].__path__
