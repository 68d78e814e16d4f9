"""Storage that the input benchmark slows down: the same bytes, each request late, none in turn."""

import concurrent.futures
import importlib
import pathlib
import shutil
import sys
import time

import pytest

from masm_jax.data.importers.folder import import_folder
from masm_jax.data.manifest import load_manifest
from masm_jax.data.tfds_builder import build

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
slow_storage = importlib.import_module('benchmarks.slow_storage')
input_pipeline = importlib.import_module('benchmarks.input_pipeline')

LATENCY_S = 0.04
FILES = 24


@pytest.fixture
def mounted(tmp_path):
  """Makes the slow copy of a folder, and takes it away again."""
  mount = tmp_path / 'mount'
  mount.mkdir()

  def show(folder):
    return slow_storage.mounted(folder, mount, LATENCY_S * 1e3)

  try:
    with show(tmp_path):
      pass
  except SystemExit as error:
    pytest.skip(f'FUSE is not usable here: {error}')
  return show, mount


def _seconds(function, *args):
  start = time.perf_counter()
  result = function(*args)
  return result, time.perf_counter() - start


def test_every_request_is_late_and_they_wait_beside_each_other(mounted, tmp_path):
  show, mount = mounted
  for i in range(FILES):
    (tmp_path / 'set' / str(i)).mkdir(parents=True)
    (tmp_path / 'set' / str(i) / 'a.bin').write_bytes(bytes([i]) * 20_000)
  paths = [mount / 'set' / str(i) / 'a.bin' for i in range(FILES)]
  with show(tmp_path), concurrent.futures.ThreadPoolExecutor(FILES) as pool:
    # The names of three levels, opening, reading.
    content, first = _seconds(paths[0].read_bytes)
    assert content == (tmp_path / 'set' / '0' / 'a.bin').read_bytes() and first >= 5 * LATENCY_S
    # Names and sizes are known: opening and reading.
    again, second = _seconds(paths[0].read_bytes)
    assert again == content and second >= 2 * LATENCY_S
    contents, together = _seconds(list, pool.map(pathlib.Path.read_bytes, paths[1:]))
    assert contents == [bytes([i]) * 20_000 for i in range(1, FILES)]
    # The kernel asks for the names in one folder in turn, for all else at once.
    assert together < 2 * FILES * LATENCY_S
    with pytest.raises(OSError, match='Read-only'):
      (mount / 'new').write_bytes(b'')
  assert not mount.is_mount()


def test_the_input_benchmark_reads_the_same_images_late(mounted, tmp_path, portraits):
  del mounted  # Whether FUSE is there.
  for name, path in zip(('real', 'fake'), load_manifest(portraits).paths, strict=False):
    (tmp_path / 'crops' / name / 'v').mkdir(parents=True)
    shutil.copy(path, tmp_path / 'crops' / name / 'v' / '0.png')
  files = import_folder(tmp_path / 'crops', split='train')
  shards = load_manifest(build(files, tmp_path / 'tfds', 'crops'))
  for manifest in (files, shards):
    with input_pipeline.late(manifest, LATENCY_S * 1e3) as late:
      assert late.sha256 == manifest.sha256
      content, seconds = _seconds(late.images.read, 0)
      assert content == manifest.images.read(0) and seconds >= LATENCY_S
      assert late.images.read(1) == manifest.images.read(1)
    with input_pipeline.late(manifest, 0) as same:
      assert same is manifest


def test_without_fuse_one_line_says_so(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  nowhere = slow_storage.mounted(tmp_path, tmp_path / 'file' / 'nowhere', 1)
  with pytest.raises(SystemExit, match=r'no slow storage: .'), nowhere:
    pass
