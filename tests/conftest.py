"""Eight virtual CPU devices, strict dtypes and ranks, no warnings let through."""

import os

os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import pathlib

import jax
import pytest
from absl import flags

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# Many tests compile the same step: the second time it is read from the disk.
_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
jax.config.update('jax_compilation_cache_dir', str(_REPOSITORY / '.pytest_cache' / 'xla'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

# grain's worker processes read absl flags.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()

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
