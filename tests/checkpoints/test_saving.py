"""Checkpoints that are damaged, half-written, of other processes, or for which there is no room."""

import json
import logging
import os
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest

from configs import demo
from masm_jax import files
from masm_jax.checkpoints.reading import SavedRun
from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.errors import UserError, first_line
from masm_jax.sweep import __main__ as sweep
from masm_jax.training.loop import train
from tests.positions import Positions

pytestmark = pytest.mark.usefixtures('standard_promotion')
HASHES = {'base_hash': 'a', 'manifest_hash': 'b', 'val_hash': 'c'}


@pytest.fixture(scope='module')
def run(tiny_run):
  with jax.numpy_dtype_promotion('standard'):
    return tiny_run('linear')


def save(run, workdir, steps, best=None):
  """Saves a state whose leaves all hold the number of the step."""
  checkpoints = Checkpoints(workdir, config=run.config, **HASHES)
  for step in steps:
    state = jax.tree.map(lambda x, value=step: np.full_like(x, value), run.state)
    positions = Positions({'next_step': step, 'undecodable': [7]})
    checkpoints.save(state, positions, best or Best(step, 0.5))
  checkpoints.close()


def restore(run, workdir):
  checkpoints = Checkpoints(workdir, config=run.config, **HASHES)
  try:
    return checkpoints.restore(run.state, Positions())
  finally:
    checkpoints.close()


def leaves(state):
  return {float(np.unique(leaf).item()) for leaf in jax.tree.leaves(state)}


def truncate(file):
  os.truncate(file, file.stat().st_size // 2)


def largest(folder):
  return max((path for path in folder.rglob('*') if path.is_file()), key=lambda p: p.stat().st_size)


def take_over(source, target):
  shutil.rmtree(target)
  shutil.copytree(source, target)


def rename_checkpoint(position):
  files.write_sealed(position, files.read_json(position) | {'checkpoint': 'x'})


DAMAGES = {
  'state cut in half': lambda step: truncate(largest(step / 'state')),
  'state gone': lambda step: shutil.rmtree(step / 'state'),
  'metadata of the state empty': lambda step: os.truncate(step / 'state' / '_METADATA', 0),
  'config cut in half': lambda step: truncate(step / 'meta' / 'metadata'),
  'data position empty': lambda step: os.truncate(step / 'data' / 'process_0-of-1.json', 0),
  'data position gone': lambda step: shutil.rmtree(step / 'data'),
  'another one in its place': lambda step: take_over(step.with_name('00000010'), step),
  'data position of another one': lambda step: take_over(
    step.with_name('00000010') / 'data', step / 'data'
  ),
  'data position of another run': lambda step: rename_checkpoint(
    step / 'data' / 'process_0-of-1.json'
  ),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, tmp_path, damage, caplog):
  save(run, tmp_path, [10, 20])
  DAMAGES[damage](tmp_path / 'checkpoints' / '00000020')
  with caplog.at_level(logging.WARNING):
    state, iterator, best = restore(run, tmp_path)
  assert leaves(state) == {10.0}
  assert iterator.state == {'next_step': 10, 'undecodable': [7]}
  assert best == Best(10, 0.5)
  assert 'the checkpoint of step 20 cannot be read' in caplog.text
  assert (tmp_path / 'damaged_checkpoints' / '00000020').is_dir()
  # The step can be saved again, and is the newest then.
  save(run, tmp_path, [20])
  assert leaves(restore(run, tmp_path)[0]) == {20.0}


def test_without_a_readable_checkpoint_nothing_is_moved(run, tmp_path):
  save(run, tmp_path, [10, 20])
  for step in ('00000010', '00000020'):
    truncate(largest(tmp_path / 'checkpoints' / step / 'state'))
  remedy = (
    r'; put a copy of one back, or train anew: in a new --workdir, or in this one without that'
  )
  text = rf'no checkpoint in .* can be read \(step 20: .*; step 10: .*\){remedy} folder$'
  with pytest.raises(UserError, match=text):
    restore(run, tmp_path)
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['00000010', '00000020']
  assert not (tmp_path / 'damaged_checkpoints').exists()


@pytest.mark.parametrize('newest_is_damaged', [False, True])
def test_another_runs_checkpoints_are_refused_before_anything_is_made(
  run, tmp_path, newest_is_damaged
):
  save(run, tmp_path, [10, 20])
  if newest_is_damaged:
    DAMAGES['config cut in half'](tmp_path / 'checkpoints' / '00000020')
  half_written = tmp_path / 'checkpoints' / '00000030.orbax-checkpoint-tmp'
  half_written.mkdir()  # The other run may be at it.
  with pytest.raises(UserError, match=r'holds a run of another train manifest .hash b, now x'):
    Checkpoints(tmp_path, config=run.config, **HASHES | {'manifest_hash': 'x'})
  other = run.make_config('linear', seed=3)
  with pytest.raises(UserError, match=r'holds a run of another config \(seed: 0 -> 3\)'):
    Checkpoints(tmp_path, config=other, **HASHES)
  assert len(os.listdir(tmp_path / 'checkpoints')) == 3 and half_written.is_dir()


def test_without_any_checkpoint_all_stays_as_it_is(run, tmp_path):
  state, iterator, best = restore(run, tmp_path)
  assert state is run.state and iterator.state['next_step'] == 0 and best == Best()


def test_a_half_written_checkpoint_is_never_picked(run, tmp_path):
  save(run, tmp_path, [10, 20])
  folder = tmp_path / 'checkpoints'
  (folder / '00000020').rename(folder / '00000020.orbax-checkpoint-tmp')
  assert leaves(restore(run, tmp_path)[0]) == {10.0}


def test_the_best_is_forgotten_when_its_checkpoint_is_gone(run, tmp_path):
  save(run, tmp_path, [10, 20], best=Best(5, 0.9))  # Step 5 was not kept.
  assert restore(run, tmp_path)[2] == Best()


def test_positions_of_other_processes_are_put_together(run, tmp_path):
  save(run, tmp_path, [10])
  folder = tmp_path / 'checkpoints' / '00000010' / 'data'
  (folder / 'process_0-of-1.json').unlink()
  for i, undecodable in enumerate(([3, 5], [5, 9])):
    state = {'next_step': 10, 'undecodable': undecodable}
    (folder / f'process_{i}-of-2.json').write_text(json.dumps(state))
  assert restore(run, tmp_path)[1].state == {'next_step': 10, 'undecodable': [3, 5, 9]}


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 4 MB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('needs the right to mount a tmpfs')
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
  """A file that leaves no room at all."""
  filler = folder / 'filler'
  with filler.open('wb', buffering=0) as file:
    try:
      while True:
        file.write(b'\0' * 4096)
    except OSError:
      return filler


def test_a_full_disk_is_named_and_leaves_the_last_good_checkpoint(run, small_disk):
  checkpoints = Checkpoints(small_disk, config=run.config, **HASHES)
  state = lambda step: jax.tree.map(lambda x: np.full_like(x, step), run.state)
  checkpoints.save(state(10), Positions({'next_step': 10, 'undecodable': []}), Best(10, 0.5))
  checkpoints.wait()
  filler = fill(small_disk)
  with pytest.raises(UserError, match=r'could not be written to .*No space left on device') as info:
    checkpoints.save(state(20), Positions({'next_step': 20, 'undecodable': []}), Best())
    checkpoints.wait()
  assert 'last complete one: step 10; the same command resumes from there' in str(info.value)
  assert '\n' not in str(info.value) and len(str(info.value)) < 300 + len(str(small_disk))
  assert leaves(restore(run, small_disk)[0]) == {10.0}
  filler.unlink()
  save(run, small_disk, [20])
  assert leaves(restore(run, small_disk)[0]) == {20.0}


def test_what_tensorstore_says_of_a_full_disk_is_shortened_to_its_reason():
  error = ValueError(
    'RESOURCE_EXHAUSTED: Error writing "0" in OCDBT database at local file "/t/x/": Failed: '
    '"/t/x/d/9d.__lock": Failed to write 2704267 bytes to file 4: No space left on device '
    "[os_error_code='28']"
  )
  assert first_line(error) == 'No space left on device'


def test_a_run_is_saved_and_read_where_the_system_finds_it(run, tmp_path, monkeypatch):
  """`link/../run` lies beside what the link leads to, not beside the link."""
  (tmp_path / 'here').mkdir()
  (tmp_path / 'there' / 'inner').mkdir(parents=True)
  (tmp_path / 'here' / 'link').symlink_to(tmp_path / 'there' / 'inner')
  monkeypatch.chdir(tmp_path / 'here')
  workdir = pathlib.Path('link', '..', 'run')
  save(run, workdir, [10])
  assert leaves(restore(run, workdir)[0]) == {10.0}
  assert leaves(restore(run, tmp_path / 'there' / 'run')[0]) == {10.0}
  saved = SavedRun(workdir)
  assert saved.choose('last')[0] == 10 and os.listdir('.') == ['link']
  target = jax.eval_shape(lambda: run.state.trainable)
  target = jax.tree.map(lambda x, y: x.update(sharding=y.sharding), target, run.state.trainable)
  assert leaves(saved.trainable(10, target)) == {10.0}


def test_a_folder_that_tensorstore_cannot_name_is_refused_before_any_work(tmp_path, monkeypatch):
  folder = tmp_path / os.fsdecode(b'new\xff')
  with pytest.raises(UserError, match=r'new\udcff is not UTF-8, as this folder must be'):
    train(demo.get_config('method=linear'), folder)
  with pytest.raises(UserError, match='is not UTF-8'):
    sweep.make_workdir(folder)
  assert not any(tmp_path.iterdir())
  folder.mkdir()
  monkeypatch.chdir(folder)
  with pytest.raises(UserError, match='is not UTF-8'):
    SavedRun(pathlib.Path('run'))
