"""Bits that flip in what a run reads back: each is found, or changes nothing.

`python -m tests.fuzz_bits --count 300` does so to all files of a run, and resumes it each time.
"""

import contextlib
import gc
import json
import logging
import os
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
import tensorstore

from masm_jax import files, tree
from masm_jax.checkpoints import reading
from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.errors import UserError
from masm_jax.metrics import scores
from masm_jax.parallel import sharding
from masm_jax.subspaces.factor_cache import FactorCache, ReadOnly
from tests.bits import flip, places
from tests.positions import Positions
from tests.waiting import ends_within

pytestmark = [
  pytest.mark.usefixtures('standard_promotion'),
  # Of the tasks that Orbax leaves behind, too: their event loop is closed.
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]
HASHES = {'base_hash': 'a', 'manifest_hash': 'b', 'val_hash': 'c'}


@pytest.fixture(scope='module', autouse=True)
def quiet():
  """Orbax leaves a task behind for each array that it could not read; asyncio tells of them all."""
  logger = logging.getLogger('asyncio')
  logger.disabled = True
  yield
  gc.collect()
  logger.disabled = False


@pytest.fixture(scope='module')
def run(tiny_run):
  with jax.numpy_dtype_promotion('standard'):
    return tiny_run('linear')


def state_of(run, step):
  """A state whose leaves are random numbers."""
  rng = np.random.default_rng(step)

  def draw(x):
    values = rng.normal(size=x.shape) if x.dtype.kind == 'f' else rng.integers(0, 2, x.shape)
    return jax.device_put(np.asarray(values, x.dtype), x.sharding)

  drawn = jax.tree.map(draw, run.state)
  return drawn.replace(step=jax.device_put(np.int32(step), run.state.step.sharding))


@pytest.fixture(scope='module')
def saved(run, tmp_path_factory):
  """Checkpoints of steps 10 and 20, of which validation chose the second."""
  workdir = tmp_path_factory.mktemp('saved') / 'run'
  with jax.numpy_dtype_promotion('standard'):
    save(run, workdir, {10: Best(10, 0.5), 20: Best(20, 0.75)})
  return workdir


def save(run, workdir, bests, config=None):
  checkpoints = Checkpoints(workdir, config=config or run.config, **HASHES)
  for step, best in bests.items():
    position = Positions({'next_step': step, 'undecodable': [7, 11]})
    checkpoints.save(state_of(run, step), position, best)
  checkpoints.close()


def restore(run, workdir, config=None):
  checkpoints = Checkpoints(workdir, config=config or run.config, **HASHES)
  try:
    return checkpoints.restore(run.state, Positions())
  finally:
    checkpoints.close()


def same(left, right):
  left, right = (tree.digests(state) for state in (left, right))
  return left == right


def shapes_of(run):
  """Of the trainable leaves."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state.trainable
  )


def test_every_bit_that_flips_in_a_checkpoint_is_found_or_changes_nothing(
  run, saved, tmp_path, caplog
):
  newest = saved / 'checkpoints' / '00000020'
  found = 0
  for path, bit in places(newest, 60, seed=0):
    workdir = tmp_path / 'run'
    shutil.copytree(saved, workdir)
    flip(workdir / 'checkpoints' / '00000020' / path, bit)
    caplog.clear()
    state, position, best = restore(run, workdir)
    step = position.state['next_step']
    assert same(state, state_of(run, step)), (path, bit)
    assert position.state == {'next_step': step, 'undecodable': [7, 11]}, (path, bit)
    assert best == (Best(20, 0.75) if step == 20 else Best(10, 0.5)), (path, bit)
    if step == 10:
      found += 1
      assert 'the checkpoint of step 20 cannot be read' in caplog.text
      assert (workdir / 'damaged_checkpoints' / '00000020').is_dir()
    shutil.rmtree(workdir)
  assert found >= 5  # Most files hold little that is read.


def test_a_flipped_value_is_refused_by_an_evaluation_too(run, saved, tmp_path):
  workdir = shutil.copytree(saved, tmp_path / 'run')
  target = shapes_of(run)
  reader = reading.SavedRun(workdir)
  assert same(reader.trainable(20, target), state_of(run, 20).trainable)
  refused = 0
  for path, bit in places(workdir / 'checkpoints/00000020/state', 40, seed=1):
    file = workdir / 'checkpoints/00000020/state' / path
    flip(file, bit)
    try:
      assert same(reader.trainable(20, target), state_of(run, 20).trainable)  # Of a moment, say.
    except UserError as error:
      assert '\n' not in str(error) and 'the checkpoint of step 20' in str(error)
      refused += 1
    flip(file, bit)
  assert refused


@pytest.mark.parametrize(
  'change', [{'chunks': [10**9]}, {'dtype': '|V999999'}, {'compressor': {'id': 'bz2'}}]
)
def test_parts_that_are_larger_than_their_array_are_not_read(run, saved, tmp_path, change):
  workdir = shutil.copytree(saved, tmp_path / 'run')
  place = f'file://{workdir}/checkpoints/00000020/state/'
  store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': place}).result()
  key = next(key for key in store.list().result() if key.endswith(b'head.bias/.zarray'))
  note = json.loads(store.read(key).result().value) | change
  store.write(key, json.dumps(note).encode()).result()
  with pytest.raises(UserError, match=r'step 20 .*head\.bias/\.zarray: parts of an odd size'):
    reading.SavedRun(workdir).trainable(20, shapes_of(run))
  assert restore(run, workdir)[1].state['next_step'] == 10


def test_a_pipe_in_a_checkpoint_is_not_waited_for(run, saved, tmp_path, caplog):
  newest = saved / 'checkpoints' / '00000020'
  names = sorted(path.relative_to(newest) for path in newest.rglob('*') if path.is_file())
  assert len(names) >= 12
  resumed = set()
  for number, name in enumerate(names):
    workdir = shutil.copytree(saved, tmp_path / str(number))
    (workdir / 'checkpoints/00000020' / name).unlink()
    os.mkfifo(workdir / 'checkpoints/00000020' / name)
    with ends_within(60):
      if name.parts[0] != 'data':
        with contextlib.suppress(UserError):
          reader = reading.SavedRun(workdir)
          reader.trainable(reader.choose('last')[0], shapes_of(run))
      step = restore(run, workdir)[1].state['next_step']
    resumed.add((name.parts[0], step))
  assert {('meta', 10), ('state', 10), ('data', 10)} <= resumed
  assert 'it is a named pipe, not a file' in caplog.text


def test_an_endless_note_of_a_checkpoint_is_refused(run, saved, tmp_path, caplog):
  for number, name in enumerate(('meta/metadata', 'state/_METADATA', 'data/process_0-of-1.json')):
    workdir = shutil.copytree(saved, tmp_path / str(number))
    with (workdir / 'checkpoints/00000020' / name).open('wb') as file:
      file.truncate(2**40)
    caplog.clear()
    assert restore(run, workdir)[1].state['next_step'] == 10
    assert 'a file of 1,099,511,627,776 bytes' in caplog.text


@pytest.mark.parametrize('keep', [2, 3])
def test_without_the_chosen_one_the_run_resumes_before_it(run, tmp_path, caplog, keep):
  workdir = tmp_path / 'run'
  config = run.make_config('linear', **{'checkpoint.keep': keep})
  save(run, workdir, {10: Best(10, 0.5), 20: Best(20, 0.75), 30: Best(20, 0.75)}, config)
  shutil.rmtree(workdir / 'checkpoints/00000020/state')
  state, position, best = restore(run, workdir, config)
  if keep == 3:
    assert position.state['next_step'] == 10 and best == Best(10, 0.5)
    assert same(state, state_of(run, 10))
  else:  # Nothing is left before it: from the start.
    assert position.state['next_step'] == 0 and best == Best() and state is run.state
  there = sorted(path.name for path in (workdir / 'damaged_checkpoints').iterdir())
  assert there == ['00000020', '00000030']
  assert 'step 30 cannot be read (it follows the one of step 20' in caplog.text


def test_values_that_are_not_finite_are_refused(run, tmp_path):
  workdir = tmp_path / 'run'
  save(run, workdir, {10: Best()})
  checkpoints = Checkpoints(workdir, config=run.config, **HASHES)
  bad = state_of(run, 20)
  poison = lambda x: x.at[(0,) * x.ndim].set(np.nan) if x.dtype.kind == 'f' else x
  position = Positions({'next_step': 20, 'undecodable': []})
  checkpoints.save(bad.replace(trainable=jax.tree.map(poison, bad.trainable)), position, Best())
  checkpoints.close()
  assert restore(run, workdir)[1].state['next_step'] == 10


def test_checkpoints_without_digests_are_read_and_that_is_said_once(
  run, tmp_path, caplog, monkeypatch
):
  reading._say_unverified.cache_clear()
  with monkeypatch.context() as patch:
    patch.setattr(tree, 'digests', lambda state: {})
    save(run, tmp_path, {10: Best()})
  for meta in tmp_path.glob('checkpoints/*/meta/metadata'):
    text = meta.read_text()
    assert '"digests": {}' in text
    meta.write_text(text.replace('"digests": {}, ', '').replace('"digest":', '"other":'))
  for position in tmp_path.glob('checkpoints/*/data/process_0-of-1.json'):
    content = files.read_json(position)
    del content['checkpoint']
    files.write_sealed(position, content)
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      assert restore(run, tmp_path)[1].state['next_step'] == 10
  assert caplog.text.count('stored no digests') == 1


def test_a_checkpoint_in_the_place_of_another_is_refused_by_an_evaluation(saved, tmp_path):
  workdir = shutil.copytree(saved, tmp_path / 'run')
  (workdir / 'checkpoints/00000010').rename(workdir / 'checkpoints/00000030')
  with pytest.raises(UserError, match=r'step 30 .* cannot be read: it is of another step than its'):
    reading.SavedRun(workdir).choose('last')


def test_the_digests_do_not_depend_on_the_devices(run):
  state = state_of(run, 1)
  everywhere = sharding.replicated(sharding.make_mesh())
  spread = jax.tree.map(lambda x: jax.device_put(x, everywhere), state)
  assert len(jax.tree.leaves(spread)[0].sharding.device_set) == 8
  host = jax.tree.map(np.asarray, state)
  assert tree.digests(state) == tree.digests(spread) == tree.digests(host)
  turned = host.replace(step=host.step + np.int32(1))
  changed = {k for k, v in tree.digests(turned).items() if v != tree.digests(host)[k]}
  assert changed == {'step'}


def test_every_bit_that_flips_in_the_factors_is_found_or_changes_nothing(tmp_path, caplog):
  rng = np.random.default_rng(0)
  factors = {'a/q': {'U': rng.normal(size=(3, 4)).astype(np.float32), 'S': np.ones(4, np.float32)}}
  shapes = {'a/q': {'U': (3, 4), 'S': (4,)}}
  make = lambda folder: FactorCache(folder, {'a/q': np.ones((3, 4))}, fields=(), shapes=shapes)
  make(str(tmp_path)).write(factors)
  (path,) = tmp_path.glob('*.safetensors')
  whole = path.read_bytes()
  found = 0
  for bit in range(0, 8 * len(whole), 7):
    path.write_bytes(whole)
    flip(path, bit)
    read = make(ReadOnly(tmp_path)).read()
    assert path.is_file()  # Another's folder stays as it is.
    assert read is None or same(read, factors), bit
    if read is None:
      found += 1
      assert make(str(tmp_path)).read() is None and not path.exists()
      assert path.with_name(f'{path.name}.damaged').is_file()
  assert found > 0.8 * 8 * len(whole) / 7
  make(str(tmp_path)).write(factors)
  assert path.read_bytes() == whole


def test_every_bit_that_flips_in_a_score_table_is_found_or_changes_nothing(tmp_path):
  path = tmp_path / 'a.parquet'
  rng = np.random.default_rng(0)
  table = pd.DataFrame(
    {'video_id': ['a', 'a', 'é'], 'path': ['1', '2', '3'], 'frame': [0, 1, 0], 'label': [0, 0, 1],
     'score': rng.uniform(size=3), 'logit': rng.normal(size=3), 'method': ['', '', 'swap'],
     'dataset': 'd', 'split': 'test', 'feature': [np.ones(2, np.float32), None, None],
     'thumbnail': [b'\0png', None, b'']}
  )  # fmt: skip
  scores.write_scores(path, table)
  whole, expected = path.read_bytes(), scores.read_scores(path)
  assert list(expected['score']) == list(table['score'])
  found = 0
  for bit in range(3, 8 * len(whole), 97):
    path.write_bytes(whole)
    flip(path, bit)
    try:
      pd.testing.assert_frame_equal(scores.read_scores(path), expected)
    except UserError as error:
      assert '\n' not in str(error)
      found += 1
  assert found > 50


def test_a_reader_beside_a_running_training_takes_the_newest_checkpoint(run, tmp_path):
  save(run, tmp_path, {10: Best(), 20: Best()})
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state.trainable
  )
  reader = reading.SavedRun(tmp_path)
  assert reader.choose('best')[0] == 20  # No validation has chosen one.
  save(run, tmp_path, {30: Best(), 40: Best()})  # Two are kept: the first two are gone.
  assert not (tmp_path / 'checkpoints' / '00000020').exists()
  step, _, trainable = reader.chosen('last', target)
  assert step == 40 and same(trainable, state_of(run, 40).trainable)
  with pytest.raises(UserError, match='does not hold step 20; it keeps 30, 40'):
    reader.choose('20')
