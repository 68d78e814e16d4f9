"""Whole runs of FMSD, whose layers are chosen before it trains: repeated, killed, refused, loaded;
and what the loop of any run waits for.

In this process, on a tiny backbone and one device; `test_train.py` has the command itself.
"""

import functools
import shutil
import time

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import own
from masm_jax import backbones, telemetry, tree
from masm_jax.data import manifest as manifest_lib
from masm_jax.errors import UserError
from masm_jax.inference import trained
from masm_jax.parallel import sharding
from masm_jax.training import loop as train_lib
from masm_jax.training import probe, steps
from masm_jax.training.loop import train

pytestmark = pytest.mark.usefixtures('standard_promotion')
SIZE_PX = 16
LAST_STEP = 4
BACKBONE = backbones.ViTConfig(
  image_size=SIZE_PX,
  patch_size=8,
  width=24,
  depth=2,
  num_heads=3,
  mlp_dim=48,
  activation='gelu',
  pre_norm=True,
  patch_bias=True,
  norm_eps=1e-6,
  mean=(0.5,) * 3,
  std=(0.5,) * 3,
)


@pytest.fixture(scope='module', autouse=True)
def tiny_preset_on_one_device():
  with pytest.MonkeyPatch.context() as patch:
    keys = backbones.get_preset('augreg_ti16').keys
    preset = backbones.Backbone('tiny', BACKBONE, keys, 'draw them')
    patch.setitem(backbones.PRESETS, 'tiny', preset)
    make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    patch.setattr(sharding, 'make_mesh', make_mesh)
    yield


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """A run of four steps on crops of noise, which keeps one block of two."""
  root = tmp_path_factory.mktemp('crops')
  rng = np.random.default_rng(0)
  rows = []
  for split, count in (('train', 16), ('val', 8), ('test', 8)):
    for i in range(count):
      path = f'{split}{i:02}.png'
      cv2.imwrite(str(root / path), rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8))
      rows.append(
        {'path': path, 'label': i % 2, 'dataset': 'noise', 'split': split, 'video_id': path}
      )
  manifest = root / 'manifest.parquet'
  manifest_lib.write_manifest(manifest_lib.build_manifest(rows, root), manifest)
  config = own.get_config(f'manifest={manifest},method=fmsd,backbone=tiny')
  config.update_from_flattened_dict({
    'backbone.weights': 'random',
    'data.augment': 'none',
    'subspace.num_subspaces': 2,
    'subspace.rank': 2,
    'mask.keep_count': 1,
    'mask.probe_batches': 2,
    'train.batch_size': 8,
    'train.duration': f'{LAST_STEP} steps',
    'eval.batch_size': 8,
    'eval.every': '4 steps',
    'checkpoint.every': '2 steps',
    'log.every_steps': 1,
  })  # fmt: skip
  return config


@pytest.fixture(scope='module')
def undisturbed(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  with jax.numpy_dtype_promotion('standard'):
    assert train(config, workdir) == 0
  return workdir


def changed(config, **fields):
  config = ml_collections.ConfigDict(config.to_dict()).lock()
  config.update_from_flattened_dict(fields)
  return config


def killed(undisturbed, workdir):
  """The run as a kill leaves it behind the last step, before that step's checkpoint is whole."""
  shutil.copytree(undisturbed, workdir)
  shutil.rmtree(workdir / 'checkpoints' / f'{LAST_STEP:08d}')
  shutil.rmtree(workdir / 'scores')
  (workdir / 'results.json').unlink()
  return workdir


def contents(workdir):
  """Every file below, by name."""
  return {file: file.read_bytes() for file in workdir.rglob('*') if file.is_file()}


def final_state(workdir):
  path = workdir / 'checkpoints' / f'{LAST_STEP:08d}' / 'state'
  flat, _ = jax.tree.flatten_with_path(ocp.StandardCheckpointer().restore(path))
  return {jax.tree_util.keystr(keys): np.asarray(leaf) for keys, leaf in flat}


def assert_same_run(first, second):
  for name in ('selection.json', 'metrics.jsonl', 'results.json'):
    assert (first / name).read_bytes() == (second / name).read_bytes(), name
  one, two = final_state(first), final_state(second)
  assert one.keys() == two.keys()
  for name, leaf in one.items():
    np.testing.assert_array_equal(leaf, two[name], err_msg=name)


def test_only_the_chosen_layer_is_trained_and_it_is_what_evaluation_rebuilds(undisturbed):
  record = telemetry.read_json(undisturbed / 'selection.json')
  (layer,) = (name for name, on in zip(record['names'], record['chosen'], strict=True) if on)
  assert layer == record['names'][int(np.argmax(record['scores']))]
  run = trained.load_adapted(undisturbed, sharding.make_mesh(), step='last')
  leaves = tree.flatten(run.trainable)
  assert len(leaves) == 6 * 3 + 2  # U, S and V of six kernels, and the head.
  assert all(path.startswith(('head/', f'backbone/{layer}/')) for path in leaves)
  state = final_state(undisturbed)
  for path, leaf in leaves.items():
    stored = state["['trainable']" + ''.join(f"['{name}']" for name in path.split('/'))]
    np.testing.assert_array_equal(leaf, stored, err_msg=path)
  num_trained = telemetry.read_json(undisturbed / 'results.json')['trainable_parameters']
  assert num_trained == 4 * (4 * (24 + 24 + 1) + 2 * (24 + 48 + 1)) + 2 * 24 + 2


def test_a_repeated_run_is_identical(undisturbed, config, tmp_path):
  assert train(config, tmp_path / 'run') == 0
  assert_same_run(undisturbed, tmp_path / 'run')


def test_a_killed_run_goes_on_with_its_layers_and_measures_nothing(
  undisturbed, config, tmp_path, monkeypatch
):
  workdir = killed(undisturbed, tmp_path / 'run')
  monkeypatch.setattr(probe, '_probe', None)
  assert train(config, workdir) == 0
  assert_same_run(undisturbed, workdir)


def test_a_command_with_another_config_changes_nothing(undisturbed, config, tmp_path):
  workdir = killed(undisturbed, tmp_path / 'run')
  before = contents(workdir)
  with pytest.raises(UserError, match=r'another config \(mask.keep_count: 1 -> 2\)'):
    train(changed(config, **{'mask.keep_count': 2}), workdir)
  assert contents(workdir) == before


def test_checkpoints_without_their_choice_are_refused(undisturbed, config, tmp_path):
  workdir = killed(undisturbed, tmp_path / 'run')
  (workdir / 'selection.json').unlink()
  (workdir / '.selection.json.spare').unlink()
  before = contents(workdir)
  with pytest.raises(UserError, match=r'selection\.json, which says what layers'):
    train(config, workdir)
  with pytest.raises(UserError, match=r'selection\.json, which says what layers'):
    trained.load_adapted(workdir, sharding.make_mesh(), step='last')
  assert contents(workdir) == before


@functools.cache
def busy_program():
  """`(value, rounds) -> (value, another)`, which keeps the device busy; rounds of two seconds."""

  @jax.jit
  def busy(value, rounds, zero):
    square = jnp.ones((256, 256), jnp.float32)
    square = jax.lax.fori_loop(0, rounds, lambda _, x: jnp.tanh(x @ x), square)
    value += (square[0, 0] * zero).astype(value.dtype)
    return value, value + 1

  run = lambda value, rounds: busy(value, rounds, jnp.float32(0))
  jax.block_until_ready(run(jnp.int32(0), 1))
  begun = time.perf_counter()
  jax.block_until_ready(run(jnp.int32(0), 100))
  return run, int(200 / (time.perf_counter() - begun))


def test_the_loop_waits_for_the_device_at_logging_steps_alone(config, tmp_path, monkeypatch):
  """From the second step on the device is busy for seconds; the host sends it all further steps,
  up to the one that logs, and only then asks for a value."""
  busy, rounds = busy_program()
  sent, found, witness = [], [], []
  jit_train_step, check_finite = steps.jit_train_step, train_lib._check_finite

  def jit_slow_step(*args):
    train_step = jit_train_step(*args)

    def slow_step(state, frozen, reference, batch):
      state = train_step(state, frozen, reference, batch)
      sent.append(len(sent) + 1)
      if len(sent) == 2:
        step, other = busy(state.step, rounds)
        state = state.replace(step=step)
        witness.append(other)
      return state

    return slow_step

  def check(state, *args):
    found.append((len(sent), witness[0].is_ready()))
    check_finite(state, *args)

  monkeypatch.setattr(steps, 'jit_train_step', jit_slow_step)
  monkeypatch.setattr(train_lib, '_check_finite', check)
  monkeypatch.setattr(train_lib, '_CPU_AWAIT_STEPS', 100)  # As on an accelerator.
  fields = {'log.every_steps': 8, 'checkpoint.every': '8 steps', 'eval.every': '8 steps'}
  assert train(changed(config, **{'train.duration': '8 steps', **fields}), tmp_path / 'run') == 0
  assert sent == list(range(1, 9))
  assert found == [(8, False)]  # All eight were sent while the second was still computed.


@pytest.mark.parametrize('item', ['state', 'meta'])
def test_a_checkpoint_that_cannot_be_read_is_named_with_the_others(item, undisturbed, tmp_path):
  shutil.copytree(undisturbed, tmp_path / 'run')
  checkpoints = tmp_path / 'run' / 'checkpoints'
  files = [path for path in (checkpoints / f'{LAST_STEP:08d}' / item).rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  with pytest.raises(UserError, match=r'of step 4 in .* cannot be read: .* of steps 2: --step=NUM'):
    trained.load_adapted(tmp_path / 'run', sharding.make_mesh(), step='last')
