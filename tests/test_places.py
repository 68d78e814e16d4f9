"""Where a command may write: folders replaced as a whole, and nothing that is read or of others."""

import contextlib
import errno
import functools
import itertools
import os

import pytest

from configs import demo_pretrain
from masm_jax import files, places
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.training import pretraining


def folder_of(out):
  return places.folder_of('note.json', out, what='the export', parts=['b'])


def write(out, *names):
  with folder_of(out) as fresh:
    for name in names:
      files.write_text(fresh / name, ' '.join(names))
    files.write_text(fresh / 'note.json', '{}')


def names_of(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced_as_a_whole(tmp_path):
  out = tmp_path / 'out'
  write(out, 'a', 'b')
  (out / 'README').touch()  # Of the user.
  write(out, 'a')
  assert names_of(out) == ['README', 'a', 'note.json'] and (out / 'a').read_text() == 'a'


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'full'), UserError('too different')])
def test_what_fails_leaves_what_was_there(tmp_path, error):
  def fail(out):
    with folder_of(out) as fresh:
      files.write_text(fresh / 'a', 'half')
      files.write_text(fresh / 'note.json', 'half')
      raise error

  out = tmp_path / 'out'
  with pytest.raises(type(error)):
    fail(out)
  assert not out.exists()
  write(out, 'a', 'b')
  with pytest.raises(type(error)):
    fail(out)
  assert names_of(out) == ['a', 'b', 'note.json'] and (out / 'a').read_text() == 'a b'


@pytest.mark.parametrize('as_file', [False, True])  # An earlier version had a file there.
def test_a_folder_that_was_begun_and_killed_is_finished(tmp_path, as_file):
  mark = tmp_path / '.note.json.unfinished'
  if as_file:
    mark.touch()
    (tmp_path / 'a').write_text('half')
  else:
    mark.mkdir()
    (mark / 'a').write_text('half')
  write(tmp_path, 'a')
  assert names_of(tmp_path) == ['a', 'note.json'] and (tmp_path / 'a').read_text() == 'a'


STEPS = ('replace', 'unlink', 'fsync', 'mkdir', 'rmdir')  # Of `os`: pathlib and shutil call them.


class Stopped:
  """Stops the program in one of the calls that change the disk.

  Args:
    number: of the call.
    is_kill: whether no later call works either: what a kill leaves is there then.
    is_after: whether the call itself still works.
  """

  def __init__(self, monkeypatch, number, *, is_kill, is_after):
    self.count, self._number, self._is_kill, self._is_after = 0, number, is_kill, is_after
    for name in STEPS:
      monkeypatch.setattr(os, name, functools.partial(self._call, getattr(os, name)))

  def _call(self, real, *args, **kwargs):
    self.count += 1
    if self.count == self._number and self._is_after:
      real(*args, **kwargs)
    if self.count == self._number or (self.count > self._number and self._is_kill):
      raise KeyboardInterrupt
    return real(*args, **kwargs)


def is_whole(out, *names):
  """Whether a folder holds what `write` of these names wrote, and nothing of another one."""
  others = {'.note.json.finished', '.note.json.unfinished'}  # Of what comes next, or is gone.
  content = {name: (out / name).read_text() for name in {*names_of(out)} - others}
  return content == dict.fromkeys(names, ' '.join(names)) | {'note.json': '{}', 'README': ''}


@pytest.mark.parametrize('is_kill', [False, True])
@pytest.mark.parametrize('is_after', [False, True])
def test_a_replacement_that_is_stopped_anywhere_loses_nothing(
  tmp_path, is_kill, is_after, monkeypatch
):
  monkeypatch.setattr(os, 'fsync', lambda _: None)  # Hundreds take their time on a busy disk.
  old, new = ('a', 'b'), ('a', 'c')
  for number in itertools.count(1):
    out = tmp_path / str(number)
    write(out, *old)
    (out / 'README').touch()
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
      stopped = Stopped(patch, number, is_kill=is_kill, is_after=is_after)
      write(out, *new)
    if stopped.count < number:
      break
    is_half = places.is_half_replaced('note.json', out)
    assert is_half or is_whole(out, *old) or is_whole(out, *new)
    assert is_kill or not is_half  # After an error, unlike a kill, the new one is finished at once.
    with pytest.raises(UserError), folder_of(out):
      raise UserError('of the next start')
    assert is_whole(out, *old) or is_whole(out, *new)
    write(out, *new)
    assert is_whole(out, *new) and names_of(out) == ['README', 'a', 'c', 'note.json']
  assert number > 20


@pytest.mark.parametrize('is_after', [False, True])
def test_a_new_folder_that_is_killed_anywhere_is_made_by_the_same_command(
  tmp_path, is_after, monkeypatch
):
  monkeypatch.setattr(os, 'fsync', lambda _: None)
  for number in itertools.count(1):
    out = tmp_path / str(number)
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
      stopped = Stopped(patch, number, is_kill=True, is_after=is_after)
      write(out, 'a')
    if stopped.count < number:
      break
    write(out, 'a')
    assert names_of(out) == ['a', 'note.json']
  assert number > 15


@pytest.mark.parametrize('kind', ['link', 'file'])
def test_complete_files_of_a_stranger_are_not_followed(tmp_path, kind):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'a').touch()
  ready = tmp_path / 'out' / '.note.json.finished'
  ready.parent.mkdir()
  ready.symlink_to(tmp_path / 'other') if kind == 'link' else ready.touch()
  write(tmp_path / 'out', 'b')
  assert names_of(tmp_path / 'out') == ['b', 'note.json'] and names_of(tmp_path / 'other') == ['a']


def test_a_folder_of_others_is_refused(tmp_path):
  (tmp_path / 'holiday.jpg').touch()
  with pytest.raises(UserError, match='holds other files: give a new folder for the export'):
    write(tmp_path, 'a')
  assert names_of(tmp_path) == ['holiday.jpg']


def test_a_note_of_somebody_else_is_told_by_its_format(tmp_path):
  def formed(**document):
    with places.folder_of('note.json', tmp_path, what='the maps', form='masm_jax maps ') as fresh:
      files.write_json(fresh / 'note.json', {'format': 'masm_jax maps 1'} | document)

  (tmp_path / 'note.json').write_text('{"format": 3}')
  with pytest.raises(UserError, match='holds other files: give a new folder for the maps'):
    formed()
  assert (tmp_path / 'note.json').read_text() == '{"format": 3}'
  (tmp_path / 'note.json').unlink()
  formed(files=['a', 'none', '../b', str(tmp_path / 'c'), '..', '', 'x' * 300, '\0', '\ud800', 3])
  for name in ('a', 'c', '../b'):
    (tmp_path / name).touch()
  formed(files=7)  # What the older note lists goes, and nothing outside the folder.
  assert names_of(tmp_path) == ['c', 'note.json'] and (tmp_path / '../b').exists()
  formed()


@pytest.mark.parametrize('kind', [places.TRAINING, places.EVALUATION, places.DEMO, places.SWEEP])
def test_a_folder_of_another_kind_is_refused_by_its_lock(tmp_path, kind):
  for name, other in places._KINDS.items():
    folder = tmp_path / f'{name} lies here'
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    if other == kind:
      with locks.held(folder, kind=kind):
        continue
    with pytest.raises(UserError, match=f'is the folder of {other}'), locks.held(folder, kind=kind):
      raise AssertionError
    assert names_of(folder) == [name]


@pytest.mark.parametrize('kind', [places.TRAINING, places.EVALUATION, places.DEMO])
def test_results_of_another_program_are_kept(tmp_path, kind):
  (tmp_path / 'results.json').touch()
  with pytest.raises(UserError, match=r'results\.json that is not of'):
    places.refuse_other(tmp_path, kind)
  places.refuse_other(tmp_path, places.SWEEP)
  mark = next(name for name, other in places._KINDS.items() if other == kind)
  (tmp_path / mark).touch()
  places.refuse_other(tmp_path, kind)


def test_a_folder_is_noted_before_anything_comes_into_it(tmp_path):
  def begin(**options):
    return places.begun('demo.json', tmp_path, what=places.DEMO, **options)

  (tmp_path / '.lock').touch()
  with begin():
    assert names_of(tmp_path) == ['.lock', 'demo.json']
  assert names_of(tmp_path) == ['.lock']  # Nothing came.
  with begin():
    (tmp_path / 'a').touch()
  with begin():
    pass
  assert names_of(tmp_path) == ['.lock', 'a', 'demo.json']
  for text in ('{}', None):  # A note of another program, and none.
    (tmp_path / 'demo.json').write_text(text) if text else (tmp_path / 'demo.json').unlink()
    with (
      pytest.raises(UserError, match='holds other files: give a new folder for the demo'),
      begin(),
    ):
      raise AssertionError
  assert names_of(tmp_path) == ['.lock', 'a']
  with begin(is_older=True):
    assert names_of(tmp_path) == ['.lock', 'a', 'demo.json']


def test_an_output_is_no_input(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'a').touch()
  os.link('in/a', 'hard')
  (tmp_path / 'soft').symlink_to('in/a')
  (tmp_path / 'other').touch()
  for out, read in [
    ('in/a', 'in/a'), ('in/a', './in/../in/a'), ('hard', 'in/a'), ('soft', 'in/a'),
    ('in/a', 'soft'), ('in', 'in'), ('in', 'in/a'), ('.', 'soft'),
  ]:  # fmt: skip
    with pytest.raises(UserError, match=rf'^{out} would be written over .*, which is read'):
      places.refuse_inputs(out, ['', 'gs://bucket/a', tmp_path / read])
  for out, read in [('other', 'in/a'), ('in/new', 'in'), ('other', 'in'), ('new', 'none')]:
    places.refuse_inputs(out, [read])


@pytest.mark.parametrize(
  ('name', 'told'),
  [('', 'is a folder: give the path of a file'), ('file/a', 'cannot write .*: Not a directory')],
)
def test_a_pretraining_that_could_not_be_written_is_refused_at_the_start(tmp_path, name, told):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=told):
    pretraining.pretrain(demo_pretrain.get_config(), tmp_path / name)
  places.refuse_unwritable(tmp_path / 'new' / 'deep' / 'a')
  assert names_of(tmp_path) == ['file']


@pytest.fixture
def no_home(tmp_path, monkeypatch):
  """A user without a home; the folder for temporary files is `tmp_path`."""
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.delenv('HOME')

  def unknown(_):
    raise KeyError('uid not found')

  monkeypatch.setattr('pwd.getpwuid', unknown)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  return tmp_path / f'masm_jax-{os.getuid()}'


def test_the_cache_lies_below_the_home_or_where_the_user_says(tmp_path, monkeypatch):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert places.cache_folder() == tmp_path / '.cache' / 'masm_jax'
  assert places.expanded('~/a') == tmp_path / 'a'
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'x'))
  assert places.cache_folder() == tmp_path / 'x' / 'masm_jax'
  monkeypatch.setenv('XDG_CACHE_HOME', 'x')  # To be ignored, by its specification.
  assert places.cache_folder() == tmp_path / '.cache' / 'masm_jax'


def test_a_user_without_a_home_has_a_cache_that_nobody_else_writes(no_home):
  assert places.cache_folder() == places.cache_folder() == no_home
  assert no_home.stat().st_mode & 0o777 == 0o700
  with pytest.raises(UserError, match=r'^~/a: no such home; give the whole path'):
    places.expanded('~/a')


@pytest.mark.parametrize('content', ['link', 'file', 'open', 'stranger'])
def test_a_cache_that_others_have_made_is_refused(no_home, monkeypatch, content):
  if content == 'link':
    (no_home.parent / 'mine').mkdir()
    no_home.symlink_to('mine')
  elif content == 'file':
    no_home.touch()
  else:
    no_home.mkdir(0o700)
  if content == 'open':
    no_home.chmod(0o777)
  if content == 'stranger':
    os.chown(no_home, 54321, -1) if os.getuid() == 0 else pytest.skip('needs root')
  with pytest.raises(UserError, match='set XDG_CACHE_HOME to a folder of your own'):
    places.cache_folder()
