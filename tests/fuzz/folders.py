"""Borders of folders that a command works in: what lies there already may be anybody's."""

import os
import pathlib

from hypothesis import strategies as st

from masm_jax import plain_files, shipped
from masm_jax.serving.store import Store
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import spoilt_bytes

# --- The data of a server -------------------------------------------------------------------------

_OTHERS = ('uploads/photo.jpg', f'uploads/{7:032x}/photo.jpg', 'photo.jpg', 'uploads/.hidden')


def _served(folder: pathlib.Path) -> bytes:
  """A database with an answer and two jobs that wait."""
  store = Store(folder)
  for number in range(3):
    store.add(f'{number:032x}', f'{number}.mp4', 3)
  store.begin(f'{0:032x}')
  store.finish(f'{0:032x}', {'verdict': 'fake'}, {'a.jpg': b'jpeg'})
  store.close()
  return (folder / 'jobs.sqlite').read_bytes()


@st.composite
def _data_folders(draw: st.DrawFn, database: bytes) -> Case:
  case = {name: b'the only copy' for name in _OTHERS if draw(st.integers(0, 3)) == 0}
  if draw(st.integers(0, 4)):
    case['jobs.sqlite'] = draw(st.one_of(st.just(database), spoilt_bytes([database], 3)))
  if draw(st.booleans()):
    case[f'uploads/{9:032x}'] = b'whose client is gone'
  return case


def _open(database: bytes, folder: pathlib.Path) -> str:
  """What a start does: whatever it finds, the files of others stay, and jobs are sound or none."""
  others = {name: (folder / name).read_bytes() for name in _OTHERS if (folder / name).is_file()}
  try:
    store = Store(folder)
    try:
      store.remove_strays()
      assert all(store.get(job_id) for job_id in store.unfinished())
      store.delete_expired(0.0)
    finally:
      store.close()
  finally:
    assert others == {name: (folder / name).read_bytes() for name in others}
  return 'taken'


SERVED = Border('served', _served, _data_folders, _open, examples=40)

# --- The working folder ---------------------------------------------------------------------------

_CONFIGS = ('ffpp', 'cross_eval', 'demo', 'common', 'mine')
_PLACES = ('#', '#.py', 'configs/#.py', 'configs/#', '#/configs/#.py', 'configs/__init__.py')


@st.composite
def _working_folders(draw: st.DrawFn, _: None) -> Case:
  names = st.builds(
    lambda place, name: place.replace('#', name),
    st.sampled_from(_PLACES),
    st.sampled_from(_CONFIGS),
  )
  case = dict.fromkeys(draw(st.lists(names, max_size=3)), b'raise SystemExit')
  word = draw(names) + draw(st.sampled_from(('', ':method=masm')))
  # No file beside a folder of its name.
  case = {name: content for name, content in case.items() if not any(
    other.startswith(f'{name}/') for other in case)}  # fmt: skip
  return {
    'here/.keep': b'',
    **{f'here/{name}': c for name, c in case.items()},
    'word': word.encode(),
  }


def _find(_: None, folder: pathlib.Path) -> str:
  """Which file a word means: only a path that is there means one of the working folder."""
  word, before = plain_files.read_text(folder / 'word'), os.getcwd()
  os.chdir(folder / 'here')
  try:
    path, name = shipped.find_config(word).partition(':')[0], word.partition(':')[0]
    is_own = os.path.isfile(name) and not name.isidentifier()
    assert path == name if is_own else pathlib.Path(path).parent == shipped._folder(), path
    return 'own' if is_own else 'shipped'
  finally:
    os.chdir(before)


WORKING = Border('working', lambda _: None, _working_folders, _find, examples=60)
