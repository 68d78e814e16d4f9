"""A disk that is full: one line, status 2, and the same command resumes after room was made.

`MASM_JAX_DISKS=10 pytest -n0 tests/test_full_disks.py` takes ten sizes for each command.
"""

import os
import pathlib

import cv2
import numpy as np
import pytest
import skimage

from masm_jax import perturb_videos
from masm_jax.data import __main__ as data
from masm_jax.preprocess import __main__ as preprocess
from masm_jax.sweep import __main__ as sweep
from tests.disks import grow, leftovers, small_disk

NUM_SIZES = int(os.environ.get('MASM_JAX_DISKS', '3'))
# Of tfds' and ml_collections' own parts.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')


def _synthetic(inputs, out):
  del inputs
  return data.main([
    'synthetic', '--output', str(out / 'set'), '--identities', '6', '--videos', '1', '--frames',
    '1', '--size', '32', '--processes', '1',
  ])  # fmt: skip


def _tfds(inputs, out):
  return data.main(
    ['tfds', str(inputs / 'set' / 'manifest.parquet'), '--output', str(out), '--name', 'known']
  )


def _preprocess(inputs, out):
  return preprocess.main([
    '--input', str(inputs / 'faces'), '--output', str(out / 'crops'), '--label', 'real', '--split',
    'test', '--detector', 'haar', '--processes', '0', '--size', '96',
  ])  # fmt: skip


def _perturb(inputs, out):
  words = ['--input', inputs / 'noise', '--output', out / 'copy', '--key', 'GB', '--level', 1]
  return perturb_videos.main([*map(str, words), '--processes', '0'])


def _sweep(inputs, out):
  del inputs
  return sweep.main(['components', f'--workdir={out}', '--write=commands'])


COMMANDS = {
  'synthetic': _synthetic,
  'tfds': _tfds,
  'preprocess': _preprocess,
  'perturb': _perturb,
  'sweep': _sweep,
}


@pytest.fixture(scope='module')
def inputs(portraits, tmp_path_factory):
  folder = tmp_path_factory.mktemp('inputs')
  (folder / 'set').symlink_to(portraits.parent)
  for kind in ('faces', 'noise'):
    (folder / kind).mkdir()
  astronaut = cv2.imread(str(pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'))
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  for i in range(4):
    cv2.imwrite(str(folder / 'faces' / f'{i}.png'), astronaut[16:208, 128:320])
    cv2.imwrite(str(folder / 'noise' / f'{i}.png'), noise)
  return folder


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def used_kb(folder):
  return sum(4 + path.stat().st_size // 1024 for path in folder.rglob('*'))


@pytest.fixture(scope='module')
def whole(inputs, tmp_path_factory):
  """What each command makes where there is room: content, and kilobytes."""
  found = {}

  def make(name):
    if name not in found:
      out = tmp_path_factory.mktemp('same')  # Of a path as long as any disk's: files name it.
      assert COMMANDS[name](inputs, out) == 0
      # A manifest of a set remembers where its images were, as seen from its own folder.
      varies = ('1.0.0/manifest.parquet', 'commands.txt')
      found[name] = {p: data for p, data in content(out).items() if not p.endswith(varies)}
      found[name] = found[name], used_kb(out)
    return found[name]

  return make


@pytest.mark.parametrize('share', [(i + 0.5) / NUM_SIZES for i in range(NUM_SIZES)])
@pytest.mark.parametrize('name', COMMANDS)
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
  inputs, whole, tmp_path, name, share, capsys
):
  expected, kilobytes = whole(name)
  capsys.readouterr()
  with small_disk(tmp_path / 'disk', max(4, int(share * kilobytes))) as disk:
    status = COMMANDS[name](inputs, disk)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    if status:  # The rest of the disk may be just enough.
      assert status == 2
      assert len(told) == 1 and told[0].startswith('error: ') and 'space' in told[0], told
    else:
      assert share > 0.4
    grow(disk, 20 * kilobytes + 4096)
    assert COMMANDS[name](inputs, disk) in (0, 2 if not status else 0)
    found = content(disk)
    assert {path: found.get(path) for path in expected} == expected
    assert not leftovers(disk)
