"""Pictures: one drawing function per picture.

Matplotlib is first imported here, as it was shipped. By itself it would take settings from a file
`matplotlibrc` of the working folder, which may be anybody's and can start LaTeX, from the user's
own, and from the environment, where a wrong one ends the program. `style.Theme.rc` sets all of them
for each picture, in case that somebody else imported matplotlib before.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys

_FOLDERS = ('XDG_CACHE_HOME', 'XDG_CONFIG_HOME')  # To be ignored where they are relative.


def _import_as_shipped() -> None:
  spec = importlib.util.find_spec('matplotlib')
  if 'matplotlib' in sys.modules or not spec or not spec.origin:
    return
  kept = {name: os.environ.pop(name, None) for name in ('MPLBACKEND', 'MATPLOTLIBRC')}
  for name in _FOLDERS:
    if not os.path.isabs(os.environ.get(name, '/')):
      kept[name] = os.environ.pop(name)
  os.environ['MATPLOTLIBRC'] = str(pathlib.Path(spec.origin).with_name('mpl-data'))
  exists = os.path.exists
  # The file of the working folder comes before all others, and no setting turns that off.
  os.path.exists = lambda path: path != 'matplotlibrc' and exists(path)
  try:
    import matplotlib
    import matplotlib.font_manager  # It reads a list of fonts from the cache.
  finally:
    os.path.exists = exists
    for name, value in kept.items():
      os.environ.pop(name, None)
      if value is not None:
        os.environ[name] = value
  if backend := kept['MPLBACKEND']:  # Of a notebook that draws its own; no picture here needs one.
    with contextlib.suppress(ValueError):
      matplotlib.rcParams['backend'] = backend


_import_as_shipped()
