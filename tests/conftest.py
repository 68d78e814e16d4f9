"""Eight virtual CPU devices, strict dtypes and ranks, no warnings let through."""

import os

# Unoptimised code compiles in half the time, and these programs run for milliseconds.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import functools
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
from absl import flags

from configs import common, demo
from masm_jax import config as config_lib
from masm_jax import detector as detector_lib
from masm_jax.backbones import ViTConfig
from masm_jax.data import synthetic
from masm_jax.methods import chosen_layers, make_method
from masm_jax.parallel import sharding
from masm_jax.training import steps
from masm_jax.training.loop import train
from masm_jax.training.program import make_program

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# Many tests compile the same step: the second time it is read from the disk.
_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
jax.config.update('jax_compilation_cache_dir', str(_REPOSITORY / '.pytest_cache' / 'xla'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

# grain's worker processes read absl flags.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()

# Files of whole runs begin first, the longest of all first, so that no worker is left with one when
# the others are done.
_LONG_FILES = (
  *('training/test_loop.py', 'evaluation/test_run.py', 'docs/test_commands.py'),
  *('training/test_real_crops.py', 'sweep/test_local.py', 'preprocess/test_kill.py'),
  *('training/test_costs.py', 'training/test_steps.py', 'docs/test_notebook.py'),
  *('tests/test_old_runs.py', 'tests/test_wheel.py', 'methods/test_contract.py'),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Orders files, not the tests within one."""
  rank = {name: i for i, name in enumerate(_LONG_FILES)}
  items.sort(key=lambda item: rank.get('/'.join(item.path.parts[-2:]), len(rank)))


_SHARED = _REPOSITORY.parent / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Real check data (a pretrained ViT-Ti, YuNet, 32 face crops), present in CI, never committed."""
  if not _SHARED.is_dir():
    pytest.skip(f'needs the check data in {_SHARED}; its synthetic twin runs everywhere')
  return _SHARED


@pytest.fixture
def standard_promotion():
  """NumPy's dtype promotion, for tests that run libraries which rely on it."""
  with jax.numpy_dtype_promotion('standard'):
    yield


TINY = ViTConfig(
  image_size=16,
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

# What the tests of steps train with: the terms of the loss that any method may have are on.
_TINY_FIELDS = {
  'head.label_smoothing': 0.1,
  'head.class_weights': (1.0, 2.0),
  'lora.rank': 3,
  'lora.dropout': 0.2,
  'mask.keep': 0.5,
  'mask.keep_by': 'share',
  'mask.warmup_steps': 2,
  'mask.refresh_steps': 1000,
  'regularizer.w_sem': 2.0,
  'subspace.forward': 'factored',
  'optim.name': 'adamw',
  'optim.learning_rate': 1e-2,
  'optim.weight_decay': 0.01,
  'optim.schedule': 'constant',
  'optim.warmup': '0 epochs',
}


class TinyRun:
  """One method on a tiny detector, ready to step on some devices.

  Args:
    method: its name.
    mesh: where; the first device by default.
    backbone: its architecture.
    fields: config fields beside those of the method and `_TINY_FIELDS`.
  """

  def __init__(self, method, mesh=None, backbone=TINY, **fields):
    self.config = self.make_config(method, **fields)
    self.detector_config = detector_lib.DetectorConfig(
      backbone, self.config.head.normalize_features
    )
    rng = np.random.default_rng(0)  # No bias is 0 and no scale 1, as in a network that was trained.
    self.params = jax.tree.map(
      lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32),
      detector_lib.init_params(self.detector_config, jax.random.key(0)),
    )
    self.method = chosen_layers.assume_deepest(make_method(self.config), self.params, self.config)
    parts = self.method.init(self.params, jax.random.key(0))
    self.trainable = parts.trainable
    in_steps = functools.partial(config_lib.duration_steps, batch_size=8, num_examples=80)
    self.program = make_program(
      self.config,
      method=self.method,
      detector_config=self.detector_config,
      parts=parts,
      total_steps=100,
      warmup_steps=in_steps(self.config.optim.warmup),
      restart_steps=in_steps('10 epochs'),
    )
    self.groups = self.program.groups
    self.mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    self.frozen, self.reference = sharding.place_frozen((parts.frozen, parts.reference), self.mesh)
    self.start(self.trainable)
    self.traces = 0

    def counted(*args):
      self.traces += 1
      return self.program.train_step(*args)

    self.jitted = steps.jit_train_step(counted, self.mesh, self.frozen, self.reference)

  @staticmethod
  def make_config(method, **fields):
    """A whole, valid config; fields are dotted names, as in `**{'mask.keep': 0.5}`."""
    config = common.get_config()
    config.update_from_flattened_dict({'subspace.num_subspaces': 2, 'subspace.rank': 2})
    common.set_method(config, method)
    config.update_from_flattened_dict(_TINY_FIELDS | fields)
    config_lib.validate(config)
    return config

  def start(self, trainable):
    """Begins anew from these trainable leaves."""
    # A copy: the jitted step donates its state.
    fresh = self.program.init_state(jax.tree.map(np.array, trainable))
    self.state = sharding.place(fresh, sharding.replicated(self.mesh))

  @staticmethod
  @functools.cache
  def batch(seed=0, size=8):
    """Random images, some real and some of three forgeries."""
    rng = np.random.default_rng(seed)
    method = rng.integers(0, 4, size).astype(np.int32)
    return {
      'image': rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8),
      'label': (method > 0).astype(np.int32),
      'method': method,
    }

  def step(self, seed=0, size=8):
    """One training step on `batch(seed, size)`."""
    placed = sharding.place_batch(self.batch(seed, size), self.mesh)
    self.state = self.jitted(self.state, self.frozen, self.reference, placed)


@pytest.fixture(scope='session')
def tiny_run():
  """The class `TinyRun`."""
  return TinyRun


@pytest.fixture(scope='session')
def portraits(tmp_path_factory):
  """The manifest of a small synthetic set of 12 identities. Not to be changed."""
  return synthetic.materialize(
    tmp_path_factory.mktemp('portraits') / 'set',
    num_identities=12, videos_per_identity=1, frames_per_video=2, num_processes=1, progress=False,
  )  # fmt: skip


@pytest.fixture(scope='session')
def trained_run(portraits, tmp_path_factory):
  """A linear probe after four steps, trained on `portraits`, tested on three sets of it. Not to be
  changed."""
  workdir = tmp_path_factory.mktemp('run') / 'linear'
  config = demo.get_config('method=linear')
  for spec in (config.data.train, config.data.val, *config.data.tests.values()):
    spec.manifest = str(portraits)
  config.data.tests.checkerboard.manifest = ''
  config.update_from_flattened_dict(
    {'train.batch_size': 8, 'train.duration': '4 steps', 'eval.every': '2 steps',
     'checkpoint.every': '2 steps', 'eval.batch_size': 16, 'checkpoint.keep': 2,
     'optim.warmup': '0 steps'}
  )  # fmt: skip
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own; the steps have tests of their own.
    assert train(config, workdir) == 0
  return workdir


@pytest.fixture(scope='session')
def old_runs(tmp_path_factory):
  """The folder `runs/` of version 0.1: `masm` and `linear` after six steps. Not to be changed."""
  folder = tmp_path_factory.mktemp('version_0_1')
  with tarfile.open(_REPOSITORY / 'tests' / 'fixtures' / 'version_0_1.tar.xz') as archive:
    # Python 3.11.4 and later know filters; Debian 12 has 3.11.2.
    archive.extraction_filter = getattr(tarfile, 'data_filter', None)
    archive.extractall(folder)
  return folder / 'runs'


@pytest.fixture(scope='session')
def run_pair():
  """A function that runs a Python file in two processes, which meet over the loopback.

  It takes the file and its arguments, which come after the number of the process and the address of
  the first one, and returns exit status and output of both.
  """

  def run(file, *arguments, timeout_s=120):
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{probe.getsockname()[1]}'
    environment = os.environ | {
      'PYTHONPATH': os.pathsep.join([str(_REPOSITORY), os.environ.get('PYTHONPATH', '')]),
      'XLA_FLAGS': '--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0',
    }
    processes = [
      subprocess.Popen(
        [sys.executable, str(file), str(i), address, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=_REPOSITORY,
        env=environment,
      )
      for i in range(2)
    ]  # fmt: skip
    try:
      outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
      for process in processes:
        process.kill()
    return [(process.returncode, out) for process, out in zip(processes, outputs, strict=True)]

  return run


@pytest.fixture(scope='module')
def browser():
  """Chromium, driven by playwright; not for a whole session, since it keeps an event loop busy."""
  chromium = shutil.which('chromium') or shutil.which('chromium-browser')
  if not chromium:
    pytest.skip('needs a browser: apt-get install chromium (Debian)')
  playwright = pytest.importorskip('playwright.sync_api')
  arguments = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
  with playwright.sync_playwright() as driver:
    launched = driver.chromium.launch(executable_path=chromium, args=arguments)
    yield launched
    launched.close()
