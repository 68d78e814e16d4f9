"""A disk that is full: one line, status 2, and the same command resumes after room was made.

`MASM_JAX_DISKS=10 pytest -n0 tests/test_full_disks.py` takes ten sizes for each command.
"""

import os
import pathlib
import shutil
from unittest import mock

import cv2
import numpy as np
import pytest
import skimage

from masm_jax import cli, perturb_videos
from masm_jax.analysis import __main__ as analysis
from masm_jax.data import __main__ as data
from masm_jax.evaluation.run import evaluate
from masm_jax.preprocess import __main__ as preprocess
from masm_jax.sweep import __main__ as sweep
from tests.disks import grow, leftovers, small_disk
from tests.report.conftest import _analysis as _analysis_of
from tests.test_strangers import make_suite

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


def _evaluate(inputs, out):
  return cli.exit_status(lambda: evaluate(inputs / 'run', make_suite(), out / 'e') or 0)


def _analysis(inputs, out):
  del inputs
  found = _analysis_of(np.random.default_rng(0))  # What is computed takes no room.
  found['run'] = {'method': 'masm', 'backbone': 'demo_vit', 'step': 4}
  with mock.patch('masm_jax.analysis.report.analyse', return_value=found):
    return cli.exit_status(lambda: 0 * len(analysis._analyse(out / 'run')))


COMMANDS = {
  'evaluate': _evaluate,
  'analysis': _analysis,
  'synthetic': _synthetic,
  'tfds': _tfds,
  'preprocess': _preprocess,
  'perturb': _perturb,
  'sweep': _sweep,
}


SLOW = ('evaluate', 'analysis')  # At one size, unless many are asked for.
CASES = [
  (name, (i + 0.5) / sizes)
  for name in COMMANDS
  for sizes in [1 if name in SLOW and NUM_SIZES < 4 else NUM_SIZES]
  for i in range(sizes)
]


@pytest.fixture(scope='module')
def inputs(portraits, trained_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('inputs')
  (folder / 'set').symlink_to(portraits.parent)
  (folder / 'run').symlink_to(trained_run)
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


def place(inputs, name, out):
  """Puts there what a command needs in its own folder: an analysis is written into the run."""
  if name == 'analysis':
    shutil.copytree(inputs / 'run', out / 'run')


def used_kb(folder):
  return sum(4 + path.stat().st_size // 1024 for path in folder.rglob('*'))


@pytest.fixture(scope='module')
def whole(inputs, tmp_path_factory):
  """What each command makes where there is room: content, and kilobytes."""
  found = {}

  def make(name):
    if name not in found:
      out = tmp_path_factory.mktemp('same')  # Of a path as long as any disk's: files name it.
      place(inputs, name, out)
      assert COMMANDS[name](inputs, out) == 0
      # A manifest of a set remembers where its images were, as seen from its own folder.
      varies = ('1.0.0/manifest.parquet', 'commands.txt')
      found[name] = {p: data for p, data in content(out).items() if not p.endswith(varies)}
      made = used_kb(out) - (used_kb(inputs / 'run') if name == 'analysis' else 0)
      found[name] = found[name], made
    return found[name]

  return make


@pytest.mark.parametrize(('name', 'share'), CASES)
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
  inputs, whole, tmp_path, name, share, capsys
):
  expected, kilobytes = whole(name)
  capsys.readouterr()
  with small_disk(tmp_path / 'disk', 2**16) as disk:
    place(inputs, name, disk)
    usage = os.statvfs(disk)
    taken = (usage.f_blocks - usage.f_bfree) * usage.f_frsize // 1024
    grow(disk, taken + max(4, int(share * kilobytes)))
    status = COMMANDS[name](inputs, disk)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    if status:  # The rest of the disk may be just enough.
      assert status == 2
      assert len(told) == 1 and told[0].startswith('error: ') and 'space' in told[0], told
    else:
      assert share > 0.3
    grow(disk, taken + 20 * kilobytes + 4096)
    assert COMMANDS[name](inputs, disk) in (0, 2 if not status else 0)
    found = content(disk)
    assert {path: found.get(path) for path in expected} == expected
    assert not leftovers(disk)
